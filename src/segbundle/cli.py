"""The `segbundle` command, thin over the bundle's workflows.

Only typer is imported at start-up, so that `--help` answers at once; MONAI takes seconds and comes with the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from segbundle.errors import ConfigError, SegbundleError, root_error

app = typer.Typer(
    name="segbundle",
    help="3D medical segmentation as a MONAI bundle: train, evaluate, predict.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[--KEY VALUE]...", help="Any other config key, for instance --max_epochs 100."),
]
Bundle = Annotated[Path | None, typer.Option(help="The bundle's folder.", show_default="the project's own")]
Config = Annotated[list[Path] | None, typer.Option(help="Task YAML laid over the bundle's; may be repeated.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="CUDA if present")]
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


@app.command(context_settings=_PASS_ON)
def train(
    dataset_dir: Annotated[
        Path, typer.Option("--dataset_dir", help="Dataset: Decathlon, nnU-Net raw, or imagesTr/labelsTr.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where checkpoints, scores and TensorBoard go.")],
    config: Config = None,
    bundle: Bundle = None,
    device: Device = None,
    overrides: Overrides = None,
) -> None:
    """Train on the labelled cases of a dataset, holding one fold out for validation.

    Example: segbundle train --config configs/phantom.yaml --dataset_dir data_samples --output_dir runs/phantom
    """
    given = {"dataset_dir": dataset_dir, "output_dir": output_dir, "device": device}
    _run_workflow("train", bundle, config, given, overrides)


@app.command(context_settings=_PASS_ON)
def evaluate(
    dataset_dir: Annotated[Path, typer.Option("--dataset_dir", help="Dataset with label maps.")],
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Where label maps, metrics.csv and summary.json go.")
    ],
    ckpt_path: Annotated[
        Path | None, typer.Option("--ckpt_path", help="Trained weights.", show_default="the bundle's")
    ] = None,
    config: Config = None,
    bundle: Bundle = None,
    device: Device = None,
    overrides: Overrides = None,
) -> None:
    """Predict labelled cases and score them, with Dice per class.

    Example: segbundle evaluate --config configs/phantom.yaml --dataset_dir data_samples
    --ckpt_path runs/phantom/model.pt --output_dir runs/phantom/evaluation --fold 0
    """
    given = {"dataset_dir": dataset_dir, "output_dir": output_dir, "ckpt_path": ckpt_path, "device": device}
    _run_workflow("evaluate", bundle, config, given, overrides)


@app.command(context_settings=_PASS_ON)
def predict(
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where <scan>_seg.nii.gz and predictions.json go.")],
    ckpt_path: Annotated[
        Path | None, typer.Option("--ckpt_path", help="Trained weights.", show_default="the bundle's")
    ] = None,
    config: Config = None,
    bundle: Bundle = None,
    device: Device = None,
    scans: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCANS... [--KEY VALUE]...", help="Files, folders, DICOM folders; any config key."),
    ] = None,
) -> None:
    """Segment scans: one label map per scan, in the scan's own geometry.

    Example: segbundle predict data_samples/imagesTs --config configs/phantom.yaml
    --ckpt_path runs/phantom/model.pt --output_dir runs/phantom/predictions
    """
    with _plain_errors():
        paths, extra = split_overrides(scans or [])
    if not paths and "dataset_dir" not in extra:
        raise typer.BadParameter("name at least one scan or folder of scans.", param_hint="SCANS")
    given: dict[str, Any] = {"output_dir": output_dir, "ckpt_path": ckpt_path, "device": device, **extra}
    if paths:
        given["dataset_dir"] = paths
    _run_workflow("inference", bundle, config, given, None)


@app.command()
def check(
    dataset: Annotated[Path, typer.Argument(help="Dataset: Decathlon, nnU-Net raw, or imagesTr/labelsTr.")],
    config: Annotated[Path | None, typer.Option(help="Task YAML whose class_names and channels must fit.")] = None,
    data_list_key: Annotated[
        str, typer.Option("--data_list_key", help="Which list of the dataset: training or test.")
    ] = "training",
) -> None:
    """Open every case of a dataset and print every problem at once; exit code 1 if there is any.

    Example: segbundle check data_samples
    """
    from tqdm import tqdm

    from segbundle.data.cases import load_cases
    from segbundle.data.checks import check_dataset

    with _plain_errors():
        class_names, num_channels = _task_classes(dataset, config)
        total = len(load_cases(dataset, data_list_key))
        found = []
        cases = check_dataset(dataset, class_names, num_channels, data_list_key)
        for _, problems in tqdm(cases, total=total, desc="checking", unit="case", disable=None):
            found += problems
    for problem in found:
        typer.echo(problem.message, err=True)
    bad = len({problem.case for problem in found})
    if found:
        typer.echo(f"{len(found)} problem(s) in {bad} of {total} cases.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{total} cases, no problem found. Classes: {', '.join(class_names)}.")


@app.command()
def samples(
    output_dir: Annotated[Path, typer.Argument(help="A new folder.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    num_training: Annotated[int, typer.Option("--num_training", min=0, help="Labelled training cases.")] = 16,
    num_test: Annotated[int, typer.Option("--num_test", min=0, help="Labelled test cases.")] = 6,
) -> None:
    """Write a dataset of small synthetic scans to try things on.

    Example: segbundle samples /tmp/samples --seed 0
    """
    from segbundle.data.phantoms import write_samples

    with _plain_errors():
        path = write_samples(output_dir, seed=seed, num_training=num_training, num_test=num_test)
    typer.echo(f"{num_training} training and {num_test} test cases: {path}")


def main() -> None:
    """Entry point of the `segbundle` command."""
    app()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn the errors that users can mend into a message and exit code 1, without a traceback."""
    try:
        yield
    except Exception as error:
        root = root_error(error)
        if not isinstance(root, (SegbundleError, FileExistsError)):
            raise
        typer.echo(f"Error: {root}", err=True)
        raise typer.Exit(1) from None


def split_overrides(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Tell plain words from `--key value` pairs; a key without a value is true. Values are read as Fire reads them.

    Raises:
        ConfigError: an option with a single dash, which no config key is.
    """
    from fire.parser import DefaultParseValue

    plain: list[str] = []
    pairs: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if not equals:
                value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
            pairs[key] = _constant(DefaultParseValue(value))
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(f"unknown option {word!r}; config keys are given as --key value.")
        else:
            plain.append(word)
    return plain, pairs


def _constant(value: Any) -> Any:
    """YAML's spelling of what Fire reads as words."""
    return (
        {"true": True, "false": False, "null": None, "none": None}.get(value, value)
        if isinstance(value, str)
        else value
    )


def default_bundle() -> Path:
    """The bundle that comes with the project, in a checkout or an installed package."""
    package = Path(__file__).parent
    installed = package / "_bundle"
    return installed if installed.is_dir() else package.parents[1] / "bundle"


def _task_classes(dataset: Path, config: Path | None) -> tuple[list[str], int | None]:
    """Class names and channels that the cases must fit: of a task YAML, or those that the dataset describes."""
    from segbundle.data.cases import described_class_names

    if config is not None:
        from monai.bundle import ConfigParser

        task = ConfigParser.load_config_file(_existing(config))
        if "class_names" in task:
            network = task.get("network_def") or {}
            return list(task["class_names"]), task.get("network_def#in_channels", network.get("in_channels"))
    names = described_class_names(dataset)
    if names is None:
        raise ConfigError(f"{dataset}: has no dataset.json that names the classes; give a task YAML by --config.")
    return names, None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file.")
    return path


def _run_workflow(
    name: str, bundle: Path | None, config: list[Path] | None, given: dict[str, Any], words: list[str] | None
) -> None:
    """Run one of the bundle's workflows, as `python -m monai.bundle run` would."""
    with _plain_errors():
        plain, overrides = split_overrides(words or [])
        if plain:
            raise ConfigError(f"unexpected argument {plain[0]!r}; config keys are given as --key value.")
        configs = (bundle or default_bundle()) / "configs"
        files = [_existing(path) for path in (configs / f"{name}.yaml", *(config or []))]
        keys = {
            key: _as_value(value)
            for key, value in {**given, **overrides}.items()
            if value is not None or key in overrides
        }
        _quiet_libraries()
        from monai.bundle import run

        run(
            config_file=[str(path) for path in files],
            meta_file=str(configs / "metadata.json"),
            logging_file=str(configs / "logging.conf"),
            **keys,
        )


def _as_value(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _quiet_libraries() -> None:
    """Hide what is for programmers: deprecations, and MONAI's echo of its arguments and its caution about configs."""
    import logging
    import warnings

    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.simplefilter("ignore", category)
    from monai.bundle import scripts, workflows

    for module in (scripts, workflows):
        module.logger.setLevel(logging.ERROR)
