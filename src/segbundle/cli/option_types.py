"""Types of the options that several commands have, with their help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from segbundle.cli.running import plain_errors
from segbundle.config.options import join_switches, split_overrides, task_file
from segbundle.errors import DataError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[--KEY VALUE]...", help="Any other config key, for instance --max_epochs 100."),
]
Bundle = Annotated[Path | None, typer.Option(help="Folder of the bundle.", show_default="the project's bundle")]


class Switch(StrEnum):
    """Value of a setting that is true or false.

    Example:
        >>> Switch("true").name
        'true'
    """

    true = "true"
    false = "false"


AllowUneven = Annotated[
    Switch | None,
    typer.Option(
        "--allow_uneven",
        help="Resample DICOM series with missing slices or a variable slice spacing to an even spacing.",
        show_default="false",
        case_sensitive=False,
    ),
]


def names_in(text: str) -> list[str]:
    """Return the names of a list on the command line, with or without brackets and quotes.

    Args:
        text: names separated by commas.

    Example:
        >>> names_in("[MR, *thorax*]"), names_in("background, 'Left, right'")
        (['MR', '*thorax*'], ['background', 'Left, right'])
    """
    inner = text.strip().removeprefix("[").removesuffix("]")
    return [str(name) for name in split_overrides([f"--class_names=[{inner}]"])[1]["class_names"]]


def task_files(paths: list[Path] | None) -> list[Path]:
    """Return the paths of task files, including those of the project (see `task_file`).

    Args:
        paths: paths as given on the command line; None for no task file.

    Example:
        >>> task_files(None)
        []
    """
    return [task_file(path) for path in paths or []]


Config = Annotated[
    list[Path] | None,
    typer.Option(
        help="Task YAML that overrides the bundle's values; may be repeated. configs/phantom.yaml is included.",
        callback=task_files,
    ),
]
Checkpoint = Annotated[
    list[Path] | None,
    typer.Option("--ckpt_path", help="Trained weights; repeat for an ensemble.", show_default="the bundle's"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="CUDA if present")]


def _existing_folder(folder: Path | None) -> Path | None:
    with plain_errors():
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: no such folder. Set --dataset_dir to the folder of the dataset.")
    return folder


MovedDataset = Annotated[
    Path | None,
    typer.Option(
        "--dataset_dir",
        help="Folder of the dataset, if it was moved.",
        show_default="its original folder",
        callback=_existing_folder,
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run configurations and bundles that the audit flags; they can run any code."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Skip scans that an earlier run in output_dir has finished.")]
Slurm = Annotated[
    Any,
    typer.Option(
        "--slurm",
        parser=str,
        metavar="NAME=VALUE,...",
        help="Submit the command as a SLURM job with these parameters of sbatch, such as partition=gpu,time=24:00:00.",
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option("--class_names", help='Names of the classes, background first: "[background, liver, lesion]".'),
]
DATASET = "Dataset: Decathlon, nnU-Net raw, BIDS, MONAI Label, imagesTr and labelsTr, or a datalist (.json)"
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


class WithKeys(TyperCommand):
    """Command that accepts any config key. `--resume true` means `--resume`; words after `--` are not options.

    The value of the option `--slurm` is a `Submission` with the whole command line.

    Example:
        >>> WithKeys("train").name
        'train'
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {option for param in self.params if getattr(param, "is_flag", False) for option in param.opts}
        given = list(args)
        rest = super().parse_args(ctx, join_switches(args, flags - {"--help"}))
        if ctx.params.get("slurm") is not None:
            from segbundle.cli.slurm import parse_submission

            with plain_errors():
                ctx.params["slurm"] = parse_submission(ctx.params["slurm"], [self.name or "", *given])
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from segbundle.cli.settings_help import help_lines

        super().format_options(ctx, formatter)
        for theme, lines in help_lines(self.name or "", [param.name or "" for param in self.params]).items():
            with formatter.section(theme):
                formatter.write_dl(lines)
