"""Command `convert`: scans and label maps in other file formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.audit import refuse_untrusted
from segbundle.classes import Classes
from segbundle.cli.option_types import names_in
from segbundle.config.overlays import read_config, with_class_names
from segbundle.errors import ConfigError, DataError, OutputError
from segbundle.files.output_folders import refuse_to_replace
from segbundle.io.dicom import is_dicom
from segbundle.io.geometry import Geometry
from segbundle.io.label_maps import dicom_object, referenced_volume
from segbundle.io.nifti import is_nifti
from segbundle.io.scan_files import NIFTI_SUFFIXES, is_segmentation
from segbundle.io.scan_writing import write_scan
from segbundle.io.scans import read_geometry
from segbundle.segmentations.file_classes import classes_in_file
from segbundle.segmentations.formats import (
    OF_DICOM,
    SUFFIXES,
    check_installed,
    check_scan,
    output_formats,
    suffix_format,
    write_label_map,
)
from segbundle.segmentations.named_labels import TaskClasses, named_table, read_named_labels
from segbundle.segmentations.nifti_labels import table_file


def convert(
    source: Path,
    output: Path,
    labels: bool = False,
    output_format: str | None = None,
    like: Path | None = None,
    classes: TaskClasses | None = None,
    allow_uneven: bool = False,
    copy_geometry: Path | None = None,
) -> str:
    """Write a scan or label map in another file format.

    A label map is recognized by its format (DICOM SEG, RTSTRUCT, `.seg.nrrd`), by the output format, by `like` or
    `copy_geometry`, or by class names. Its segments get the label values 1, 2, ... in the order of the classes.

    Args:
        source: path of the scan or label map, see `read_scan` and `read_labels`.
        output: output path. Scans are written as NIfTI.
        labels: whether to treat the source as a label map even if it is not recognized as one (default False).
        output_format: format of a label map, see `output_formats`. Default: that of the suffix of `output`.
        like: path of the scan on whose voxels the label map is written. Default: the voxels of the label map.
        classes: classes of the task. Default: those in the file.
        allow_uneven: see `read_scan` and `read_labels` (default False).
        copy_geometry: path of a scan of the same shape, whose geometry replaces that of the label map. The voxels are
            not changed. Default: the geometry of the label map.

    Returns:
        line that describes the written file: path, kind, number of voxels, and classes

    Raises:
        ConfigError: the output format is unknown, class names are missing, or `like` and `copy_geometry` are given.
        DataError: a file cannot be read, or the label map does not fit the format, the classes or the scan.
        OutputError: the output path is not valid, or segbundle did not write the existing file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = convert(Path("data_samples/imagesTs/phantom_016.nii.gz"), Path(folder) / "scan.nii")
        ...     written.partition(": ")[2]
        'scan, 57 x 47 x 34 voxels'
    """
    classes = classes or TaskClasses()
    kind = _format(output, output_format)
    if os.path.realpath(source) == os.path.realpath(output):
        raise OutputError(f"{output}: is the input. Choose another path for the output file.")
    recognized = is_segmentation(source.name) or dicom_object(source)[1] is not None
    if kind != "nifti" and not (labels or recognized or classes.names) and is_dicom(source):
        raise _scan_error(source, kind)
    if copy_geometry is not None:
        if like is not None:
            raise ConfigError(
                "--like moves the labels to the voxels of a scan, --copy_geometry keeps the voxels and replaces the "
                "header. Choose one."
            )
        return _convert_labels(source, output, kind, copy_geometry, classes, allow_uneven, by_voxel=True)
    if labels or recognized or kind != "nifti" or like is not None or classes.names:
        return _convert_labels(source, output, kind, like, classes, allow_uneven)
    refuse_to_replace(output)
    return f"{output}: scan, {_size(write_scan(source, output, allow_uneven))}"


def _scan_error(source: Path, kind: str) -> DataError:
    return DataError(
        f"{source}: is a scan, not a label map, so it cannot be written as {kind}. Write it as .nii.gz, or pass "
        "--class_names if it is a label map."
    )


def _format(output: Path, given: str | None) -> str:
    """Return the output format, after checking the suffix of the output path."""
    kind = suffix_format(output)
    if given is not None:
        kinds = output_formats(given)
        if len(kinds) > 1:
            raise ConfigError(f"output_format is {given!r}; `segbundle convert` writes one file, so choose one format.")
        kind = kinds[0]
    if kind is None:
        raise OutputError(
            f"{output}: its suffix is not that of an output format. Use {' or '.join(NIFTI_SUFFIXES)} for a scan, and "
            ".nii.gz, .seg.nrrd or .dcm for a label map."
        )
    if not output.name.lower().endswith(SUFFIXES[kind]):
        raise OutputError(f"{output}: output_format {kind} needs the suffix {' or '.join(SUFFIXES[kind])}.")
    return kind


def _convert_labels(
    source: Path,
    output: Path,
    kind: str,
    like: Path | None,
    classes: TaskClasses,
    allow_uneven: bool,
    by_voxel: bool = False,
) -> str:
    check_installed([kind])
    file, dicom_kind = dicom_object(source)
    if by_voxel and dicom_kind is not None:
        raise DataError(
            f"{source}: its segments are placed by the series to which it refers, so its geometry cannot be replaced. "
            "Use --like."
        )
    if like is None and dicom_kind is not None:
        like = referenced_volume(file, allow_uneven)
    if kind in OF_DICOM:
        if like is None:
            raise DataError(
                f"{source}: {kind} refers to the slices of a DICOM series. Pass the series with --like, or choose "
                "another format."
            )
        check_scan(like, [kind])
    found = classes_in_file(source)
    table = named_table(source, found, classes)
    _refuse_to_replace(output, kind, bool(table))
    grid = None if like is None else read_geometry(like, allow_uneven)
    label = read_named_labels(source, found, table, None if by_voxel else grid, allow_uneven)
    if by_voxel and grid is not None and label.geometry.shape != grid.shape:
        raise DataError(
            f"{source}: has {_size(label.geometry)}, but {like} has {_size(grid)}, so its geometry cannot be copied. "
            "Use --like."
        )
    if not table and kind != "nifti" and label.array.min(initial=0) < 0:
        raise _scan_error(source, kind)
    reference = like or (source if is_nifti(source) else replace(label.geometry, channels=1))
    write_label_map(np.asfortranarray(label.array[0]), reference, output, kind, table)
    present = set(np.unique(label.array).tolist())
    names = [entry.name if entry.label in present else f"{entry.name} (empty)" for entry in table]
    shown = f", {len(table)} classes: {', '.join(names)}" if table else ""
    return f"{output}: label map, {_size(label.geometry)}{shown}"


def _refuse_to_replace(output: Path, kind: str, with_table: bool) -> None:
    """Raise an error if an output file exists that segbundle did not write."""
    beside = [table_file(output)] if kind == "nifti" and with_table else []
    refuse_to_replace(output, *beside)


def _size(geometry: Geometry) -> str:
    channels = f" in {geometry.channels} channels" if geometry.channels > 1 else ""
    return f"{' x '.join(map(str, geometry.shape))} voxels{channels}"


def read_task_classes(config: Sequence[Path], class_names: str | None, trust: bool = False) -> TaskClasses:
    """Return the classes of task YAMLs or of the command line.

    Args:
        config: task YAMLs; the last file that defines a key wins.
        class_names: names as on the command line, such as `[background, liver]`; None for those of the task YAMLs.
        trust: whether to use task YAMLs that the audit flags (default False).

    Raises:
        ConfigError: a task YAML is not valid, or defines no class names; or the names do not begin with the background.

    Example:
        >>> read_task_classes([], "background, Left Kidney").names
        ['background', 'Left Kidney']
    """
    refuse_untrusted(config, None, trust)
    task: dict[str, Any] = {}
    for path in config:
        task |= with_class_names(read_config(path))
    names = task.get("class_names")
    if class_names is not None:
        names = names_in(class_names)
        if not names or names[0].lower() != "background":
            raise ConfigError(
                f'--class_names is {class_names!r}; it must begin with background: "[background, liver]".'
            )
    elif config and not isinstance(names, list):
        raise ConfigError(f"{config[-1]}: class_names is {names!r}; a plain list of names is needed.")
    checked = Classes(names).names if names else []
    return TaskClasses(checked, task.get("class_colors") or {}, task.get("class_codes") or {})
