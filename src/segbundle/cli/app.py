"""Commands of `segbundle`, a thin layer over the bundle's workflows.

Only typer is imported at start-up, so that `--help` is fast. MONAI takes seconds to import and is imported when needed.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from segbundle import __version__
from segbundle.cli.data_commands import check, convert, import_dataset, plan, samples
from segbundle.cli.option_types import (
    DATASET,
    PASS_ON,
    Bundle,
    Checkpoint,
    Config,
    Device,
    MovedDataset,
    Overrides,
    Resume,
    Slurm,
    Trust,
    WithKeys,
    task_files,
)
from segbundle.cli.running import (
    plain_errors,
    report_early_stop,
    run_cross_validation,
    run_workflow,
    stop_on_signals,
)
from segbundle.config.options import split_overrides
from segbundle.errors import ConfigError, OutputError, show_error

app = typer.Typer(
    name="segbundle",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"segbundle {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """3D medical segmentation as a MONAI bundle: train, evaluate, predict."""


@app.command(cls=WithKeys, context_settings=PASS_ON)
def train(
    dataset_dir: Annotated[
        Path | None, typer.Option("--dataset_dir", help=f"{DATASET}.", show_default="required without DATASET")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir",
            help="Folder for checkpoints, scores and TensorBoard.",
            show_default="runs/<name of DATASET>; required without DATASET",
        ),
    ] = None,
    config: Config = None,
    bundle: Bundle = None,
    trust: Trust = False,
    device: Device = None,
    slurm: Slurm = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET] [--KEY VALUE]...",
            help="Dataset to plan and train on, and any other config key, for instance --max_epochs 100.",
        ),
    ] = None,
) -> None:
    """Train on the labeled cases of a dataset, with one fold held out for validation.

    DATASET without --config plans the task, as `segbundle plan` does, and writes it to task.yaml in the output folder.
    --dataset_dir without --config uses the defaults of the bundle.

    Example: segbundle train --config configs/phantom.yaml --dataset_dir data_samples --output_dir runs/phantom
    """
    from segbundle.cli.training_dataset import training_of

    with plain_errors():
        training = training_of(dataset_dir, output_dir, config, bundle, device, overrides, slurm)
    given = {"dataset_dir": training.dataset_dir, "output_dir": training.output_dir, "device": device}
    run_workflow("train", bundle, training.config, given, words=training.words, trust=trust, slurm=slurm)


@app.command(cls=WithKeys, context_settings=PASS_ON)
def evaluate(
    dataset_dir: Annotated[Path, typer.Option("--dataset_dir", help="Dataset with label maps.")],
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Folder for label maps, metrics.csv, summary.json and report.html.")
    ],
    ckpt_path: Checkpoint = None,
    config: Config = None,
    bundle: Bundle = None,
    trust: Trust = False,
    device: Device = None,
    resume: Resume = False,
    slurm: Slurm = None,
    overrides: Overrides = None,
) -> None:
    """Predict labeled cases and score them, with Dice per class.

    Example: segbundle evaluate --config configs/phantom.yaml --dataset_dir data_samples
    --ckpt_path runs/phantom/model.pt --output_dir runs/phantom/evaluation --fold 0
    """
    given = {
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
        "ckpt_path": _one_or_several(ckpt_path),
        "device": device,
        "resume": resume or None,
    }
    run_workflow("evaluate", bundle, config, given, words=overrides, trust=trust, slurm=slurm)


@app.command(cls=WithKeys, context_settings=PASS_ON)
def cross_validate(
    dataset_dir: Annotated[Path, typer.Option("--dataset_dir", help="Dataset with label maps.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for the folds and the scores of all cases.")],
    config: Config = None,
    bundle: Bundle = None,
    trust: Trust = False,
    device: Device = None,
    slurm: Slurm = None,
    overrides: Overrides = None,
) -> None:
    """Train a model for each fold, and score the held-out cases of the fold. The same command continues a stopped run.

    To use the models as an ensemble: segbundle predict SCANS --ckpt_path runs/phantom_cv --output_dir ...

    Example: segbundle cross-validate --config configs/phantom.yaml --dataset_dir data_samples
    --output_dir runs/phantom_cv
    """
    given = {"dataset_dir": dataset_dir, "device": device}
    run_cross_validation(output_dir, bundle, config, given, words=overrides, trust=trust, slurm=slurm)


@app.command(cls=WithKeys, context_settings=PASS_ON)
def predict(
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Folder for <scan>_seg.nii.gz and predictions.json.")
    ],
    ckpt_path: Checkpoint = None,
    config: Config = None,
    bundle: Bundle = None,
    trust: Trust = False,
    device: Device = None,
    resume: Resume = False,
    slurm: Slurm = None,
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCANS... [--KEY VALUE]...", help="Scans (files, folders, DICOM folders), and any config key."
        ),
    ] = None,
) -> None:
    """Segment scans, and write one label map per scan, on the grid of the scan.

    Example: segbundle predict data_samples/imagesTs --config configs/phantom.yaml
    --ckpt_path runs/phantom/model.pt --output_dir runs/phantom/predictions --window_size auto
    """
    given = {
        "output_dir": output_dir,
        "ckpt_path": _one_or_several(ckpt_path),
        "device": device,
        "resume": resume or None,
    }
    run_workflow(
        "inference", bundle, config, given, words=scans, positional_key="dataset_dir", trust=trust, slurm=slurm
    )


@app.command()
def audit(
    path: Annotated[Path, typer.Argument(help="Task YAML or JSON, folder of a bundle, or zip file of either.")],
) -> None:
    """List everything in a third-party configuration or bundle that could run code.

    Each finding is one line: file, key, problem and value. The exit code is 1 if anything was found. No code of the
    configuration or bundle is run. See docs/security.md.

    Example: segbundle audit configs/phantom.yaml
    """
    from segbundle.audit import inspect_path

    with plain_errors():
        found = inspect_path(path)
    for finding in found:
        typer.echo(finding)
    if found:
        typer.echo(f"{len(found)} finding(s). With --trust, {path} can run any code on this computer.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{path}: nothing found that could run code.")


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of evaluations, cross-validations or training runs, or one folder of predictions."
        ),
    ],
    dataset_dir: MovedDataset = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Path of the HTML page.", show_default="RUN/report.html; comparison.html for several runs"),
    ] = None,
) -> None:
    """Write an HTML page with the scores or predictions of a run, and the slices to review first.

    Several runs are compared case by case with the first run. For predictions, measurements.csv is written next to the
    page.

    Example: segbundle report runs/demo
    """
    from segbundle.report.comparison import write_comparison
    from segbundle.report.page import write_report
    from segbundle.report.prediction_page import write_prediction_report
    from segbundle.results.runs import holds_scores

    with plain_errors():
        if output is not None and (output.is_dir() or output.suffix.lower() not in (".html", ".htm")):
            page = output / "report.html" if output.is_dir() else output.with_suffix(".html")
            raise OutputError(f"--output {output}: is not an .html file. Use a name such as {page}.")
        if len(runs) > 1:
            path = write_comparison(runs, output or Path("comparison.html"), dataset_dir)
        elif holds_scores(runs[0]):
            path = write_report(runs[0], output, dataset_dir)
        else:
            path = write_prediction_report(runs[0], output, dataset_dir)
    typer.echo(path)


@app.command()
def view(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of an evaluation, a cross-validation or predictions; or a label map (NIfTI, .seg.nrrd, DICOM "
            "SEG, RTSTRUCT)."
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the web server; 0 for any free port.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    dataset_dir: MovedDataset = None,
    scan: Annotated[
        Path | None,
        typer.Option(help="Scan of a label map.", show_default="from predictions.json, or its DICOM series near it"),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="Task YAML with the classes of a label map; may be repeated.",
            show_default="those in the file",
            callback=task_files,
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Show the report of a run, and its scans, references and predictions in 3D, in a browser on this machine only.

    A single label map is shown over its scan, with the names and colors in the file.

    Example: segbundle view runs/demo
    """
    from segbundle.cli.convert import read_task_classes
    from segbundle.viewer import serve

    with plain_errors():
        serve(run, port, browser, dataset_dir, scan, read_task_classes(config or [], None, trust))


@app.command(context_settings=PASS_ON)
def reproduce(
    name: Annotated[str | None, typer.Argument(help="Name of the question; omit it to list all names.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the tables to this Markdown file.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--KEY VALUE]...", help="A value in the question's YAML, for instance --steps 100."),
    ] = None,
) -> None:
    """Reproduce a public question about a failing Dice loss, and its answer; see docs/reproductions.md.

    Example: segbundle reproduce cross_validated_414358
    """
    from segbundle.files.atomic import write_text
    from segbundle.files.output_folders import refuse_to_replace
    from segbundle.reproductions import reproduce, titles

    with plain_errors():
        if name is None:
            typer.echo("\n".join(f"{name}\n    {title}" for name, title in titles().items()))
            return
        if output is not None:
            refuse_to_replace(output)
        plain, values = split_overrides(overrides or [])
        if plain:
            raise ConfigError(f"unexpected argument {plain[0]!r}. Pass values as --key value.")
        tables = reproduce(name, values)
        text = "\n\n".join([f"# {titles()[name]}", *(table.markdown() for table in tables)])
        typer.echo(text)
        if output is not None:
            write_text(output, f"{text}\n")


for _command in (check, plan, convert, import_dataset, samples):
    app.command("import" if _command is import_dataset else None)(_command)


def main() -> None:
    """Run the `segbundle` command with the arguments in `sys.argv`.

    Example:
        >>> main()  # doctest: +SKIP
    """
    import logging

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be valid text
    logging.raiseExceptions = False  # no tracebacks if the log cannot be written, for instance on a full disk
    stop_on_signals()
    try:
        with report_early_stop():
            app()
    except Exception as error:
        show_error(error)
        sys.exit(1)


def _one_or_several(paths: list[Path] | None) -> str | list[str] | None:
    names = [str(path) for path in paths or []]
    return names if len(names) > 1 else next(iter(names), None)
