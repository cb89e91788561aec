"""Commands about data: check, plan, convert, import, samples."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segbundle.cli.option_types import DATASET, AllowUneven, ClassNames, Config, Device, Switch, Trust, task_files
from segbundle.cli.running import plain_errors, print_log


class CaseNames(StrEnum):
    """Names of imported cases: hashes of UIDs, paths in the export, or pseudonyms with a random salt.

    Example:
        >>> CaseNames("path").name
        'path'
    """

    hash = "hash"
    path = "path"
    pseudonym = "pseudonym"


def check(
    dataset: Annotated[Path, typer.Argument(help=f"{DATASET}; or a folder with scans.")],
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="Task YAML whose classes and channels the cases must match; may be repeated.", callback=task_files
        ),
    ] = None,
    allow_uneven: AllowUneven = None,
    trust: Trust = False,
) -> None:
    """Check every case of a dataset and print all problems, or list the scans of a folder, such as a PACS export.

    The exit code is 1 if a problem was found.

    Example: segbundle check data_samples
    """
    from segbundle.cli.check import print_check

    with plain_errors(), print_log():
        usable = print_check(
            dataset, config or [], trust, None if allow_uneven is None else allow_uneven is Switch.true
        )
    if not usable:
        raise typer.Exit(1)


def plan(
    dataset: Annotated[Path, typer.Argument(help=f"{DATASET}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Task YAML to write.")],
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory of a training step, such as 8GB.", show_default="by preset, at most 70% of the free memory"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size of the network: small, medium, large, residual or residual-large.",
            show_default="medium on a GPU, small on a CPU",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Duration of the training run in hours.", show_default="by the number of cases"),
    ] = None,
    class_names: ClassNames = None,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing task YAML.")] = False,
) -> None:
    """Measure a dataset, and write a task YAML with fitting settings and the reason for each.

    The settings follow nnU-Net's rules. Time and memory are measured in a few training steps. An existing file is not
    replaced: its differences from the plan are printed, and the exit code is 1.

    Example: segbundle plan data_samples -o planned.yaml
    """
    from segbundle.cli.plan_dataset import print_plan

    with plain_errors(), print_log():
        print_plan(dataset, output, memory, preset, hours, class_names, device, overwrite)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="input", help="Scan or label map: a file, a DICOM folder or a volume of it.")
    ],
    output: Annotated[
        Path, typer.Argument(help="Output file: .nii.gz or .nii; for a label map also .seg.nrrd or .dcm.")
    ],
    labels: Annotated[
        bool,
        typer.Option(
            "--labels", help="The input is a label map. DICOM SEG, RTSTRUCT and .seg.nrrd are recognized as such."
        ),
    ] = False,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output_format",
            help="Format of a label map: nifti, nrrd, dicom_seg or rtstruct.",
            show_default="by the suffix of the output",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Scan on whose voxels the label map is written; DICOM series for dicom_seg and rtstruct."),
    ] = None,
    copy_geometry: Annotated[
        Path | None,
        typer.Option(
            "--copy_geometry",
            help="Scan of the same shape whose geometry replaces that of the label map; the voxels are not changed.",
        ),
    ] = None,
    config: Config = None,
    class_names: ClassNames = None,
    allow_uneven: AllowUneven = None,
    trust: Trust = False,
) -> None:
    """Write a scan or a label map in another file format.

    Example: segbundle convert data_samples/imagesTs/phantom_016.nii.gz /tmp/scan.nii
    """
    from segbundle.cli.convert import convert, read_task_classes

    with plain_errors(), print_log():
        classes = read_task_classes(config or [], class_names, trust)
        uneven = allow_uneven is Switch.true
        written = convert(source, output, labels, output_format, like, classes, uneven, copy_geometry)
    typer.echo(written)


def import_dataset(
    export: Annotated[Path, typer.Argument(help="Folder of a DICOM export; its subfolders are searched.")],
    dataset: Annotated[Path, typer.Argument(help="Folder of the dataset; cases of earlier imports there are kept.")],
    series: Annotated[
        str | None,
        typer.Option(
            help="Series to import: modality, SeriesNumber, SeriesInstanceUID or a pattern of SeriesDescriptions. "
            'Several with commas: "MR, *thorax*".',
            show_default="CT, MR and PT",
        ),
    ] = None,
    class_names: ClassNames = None,
    unlabeled: Annotated[
        bool, typer.Option("--unlabeled", help="Also import volumes without segmentation, into imagesTs.")
    ] = False,
    case_names: Annotated[
        CaseNames, typer.Option("--case_names", help="Name cases by hashes of UIDs, by folders, or by salted hashes.")
    ] = CaseNames.hash,
    allow_uneven: AllowUneven = None,
    remove_missing: Annotated[
        bool,
        typer.Option(
            "--remove_missing", help="Remove cases that an earlier import of this export wrote and this one does not."
        ),
    ] = False,
) -> None:
    """Make a dataset from a DICOM export: volumes with their DICOM SEG and RTSTRUCT become training cases.

    The same command continues a stopped import and adds new series. Cases of earlier imports are kept. The exit code is
    1 if a volume could not be imported because of a problem.

    Example: segbundle import runs/export runs/imported --unlabeled
    """
    from segbundle.cli.import_dataset import print_import

    with plain_errors(" Run the same command to continue."), print_log():
        uneven = allow_uneven is Switch.true
        complete = print_import(
            export, dataset, series, class_names, unlabeled, case_names.value, uneven, remove_missing
        )
    if not complete:
        raise typer.Exit(1)


def samples(
    output_dir: Annotated[Path, typer.Argument(help="New folder for the dataset.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    num_training: Annotated[int, typer.Option("--num_training", min=1, help="Labeled training cases.")] = 16,
    num_test: Annotated[int, typer.Option("--num_test", min=0, help="Labeled test cases.")] = 6,
) -> None:
    """Write a dataset of small synthetic scans for trying out commands.

    Example: segbundle samples /tmp/samples --seed 0
    """
    from segbundle.datasets.samples import write_samples

    with plain_errors():
        path = write_samples(output_dir, seed=seed, num_training=num_training, num_test=num_test)
    typer.echo(f"{num_training} training and {num_test} test cases: {path}")
