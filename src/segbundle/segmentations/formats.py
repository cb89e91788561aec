"""Choice of the file formats of predicted label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import ConfigError, DataError, describe
from segbundle.files import run_files
from segbundle.io.dicom import is_dicom
from segbundle.io.geometry import Geometry
from segbundle.segmentations.class_entries import ClassEntry
from segbundle.segmentations.dicom_seg import write_dicom_seg
from segbundle.segmentations.nifti_labels import write_nifti_labels
from segbundle.segmentations.rtstruct import write_rtstruct
from segbundle.segmentations.seg_nrrd import write_seg_nrrd

Writer = Callable[[np.ndarray, Any, Path, Sequence[ClassEntry]], None]
_WRITERS: Mapping[str, Writer] = {
    "nifti": write_nifti_labels,
    "nrrd": write_seg_nrrd,
    "dicom_seg": write_dicom_seg,
    "rtstruct": write_rtstruct,
}
OF_DICOM = ("dicom_seg", "rtstruct")
"""Formats that refer to the slices of a DICOM series."""
_NEED_NAMES = ("nrrd", *OF_DICOM)
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "nifti": (".nii.gz", ".nii"),
    "nrrd": (".seg.nrrd",),
    "dicom_seg": (".dcm",),
    "rtstruct": (".dcm",),
}
"""Suffixes of label maps by output format."""
_MAX_NIFTI = 32767
"""Maximum label value in NIfTI files (int16)."""


def output_formats(value: str | Sequence[str]) -> list[str]:
    """Return the formats of the setting `output_format`, NIfTI first.

    Args:
        value: list of formats, or text with commas.

    Raises:
        ConfigError: a format is unknown or occurs twice, or there is no format.

    Example:
        >>> output_formats("dicom_seg, nifti"), output_formats(["nrrd"])
        (['nifti', 'dicom_seg'], ['nrrd'])
    """
    given = value.split(",") if isinstance(value, str) else list(value)
    given = [str(word).strip() for word in given]
    if not given or len(set(given)) < len(given) or set(given) - set(_WRITERS):
        raise ConfigError(f"output_format is {value!r}; one or several of {', '.join(_WRITERS)} are needed.")
    return sorted(given, key=list(_WRITERS).index)


def check_installed(formats: Sequence[str]) -> None:
    """Raise an error if a format needs a package that is not installed.

    Args:
        formats: output formats.

    Raises:
        ConfigError: highdicom is missing.

    Example:
        >>> check_installed(["nifti", "nrrd"])
    """
    if "dicom_seg" in formats and find_spec("highdicom") is None:
        raise ConfigError(
            "output_format dicom_seg needs the package highdicom. Install it with: pip install 'segbundle[dicom]'"
        )


def check_output_format(dataset: Any, output_format: str | Sequence[str]) -> None:
    """Check before a run that label maps can be written in the chosen formats.

    The bundle's workflows call this function before they read scans. A scan whose label map cannot be written in any
    format fails without being read. If some of the formats are possible, the scan is processed, see
    `write_possible_label_maps`.

    Args:
        dataset: dataset with `data`, a list of datalist entries with `image`. Entries of scans that must fail get the
            item `error`.
        output_format: see `output_formats`.

    Raises:
        ConfigError: see `output_formats`, or a package is missing.
        DataError: a format refers to the slices of a DICOM series, and none of the scans is one.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset = SimpleNamespace(data=[{"image": "ct.nii.gz"}])
        >>> check_output_format(dataset, "nifti")
        >>> dataset.data
        [{'image': 'ct.nii.gz'}]
    """
    formats = output_formats(output_format)
    check_installed(formats)
    problems = {}
    for index, entry in enumerate(dataset.data):
        try:
            if "error" not in entry:
                check_scan(entry["image"], formats)
        except DataError as error:
            problems[index] = error
    if problems and len(problems) == sum("error" not in entry for entry in dataset.data):
        raise next(iter(problems.values()))
    if set(formats) <= set(OF_DICOM):
        dataset.data = [
            {**entry, "error": str(problems[index])} if index in problems else entry
            for index, entry in enumerate(dataset.data)
        ]


def check_scan(image: Any, formats: Sequence[str]) -> None:
    """Raise an error if the label map of a scan cannot be written in one of the formats. No voxels are read.

    Args:
        image: path of the scan, or a list of paths of its channels, or an image in memory.
        formats: output formats.

    Raises:
        DataError: a format refers to the slices of a DICOM series, but the scan is not one.

    Example:
        >>> check_scan("ct.nii.gz", ["dicom_seg"])
        Traceback (most recent call last):
        ...
        segbundle.errors.DataError: ct.nii.gz: is not a DICOM series, so its label map cannot be written as dicom_seg. \
Pass the DICOM series, or use output_format nifti or nrrd.
    """
    needed = [name for name in formats if name in OF_DICOM]
    first = image[0] if isinstance(image, (list, tuple)) and image else image
    if needed and not (isinstance(first, (str, Path)) and is_dicom(Path(first))):
        shown = first if isinstance(first, (str, Path)) else "image in memory"
        raise DataError(
            f"{shown}: is not a DICOM series, so its label map cannot be written as {' or '.join(needed)}. Pass the "
            "DICOM series, or use output_format nifti or nrrd."
        )


def write_label_maps(
    labels: np.ndarray,
    scan: str | Path | Geometry,
    folder: str | Path,
    case: str,
    formats: Sequence[str] = ("nifti",),
    table: Sequence[ClassEntry] = (),
) -> dict[str, str]:
    """Write the label map of a case in several formats.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan. uint8 in Fortran order is fastest.
        scan: path of the scan, or its geometry.
        folder: output folder.
        case: name of the case; see `segbundle.files.run_files.label_map` for the names of the files.
        formats: output formats (default: only NIfTI).
        table: classes. Without it (default), only NIfTI is possible.

    Returns:
        path of each file, by format

    Raises:
        ConfigError: the table of classes is missing.
        DataError: the label map does not fit the scan, or the scan cannot be read.
        OutputError: a file cannot be written.

    Example:
        >>> import nibabel as nib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), f"{folder}/ct.nii.gz")
        ...     written = write_label_maps(np.ones((4, 3, 2), np.uint8), f"{folder}/ct.nii.gz", folder, "ct")
        ...     Path(written["nifti"]).name
        'ct_seg.nii.gz'
    """
    _check_table(formats, table)
    written = {}
    for name in formats:
        path = run_files.label_map(folder, case, name)
        _WRITERS[name](labels, scan if isinstance(scan, Geometry) else Path(scan), path, table)
        written[name] = str(path)
    return written


def write_possible_label_maps(
    labels: np.ndarray,
    scan: str | Path | Geometry,
    folder: str | Path,
    case: str,
    formats: Sequence[str] = ("nifti",),
    table: Sequence[ClassEntry] = (),
) -> tuple[dict[str, str], dict[str, str]]:
    """Write the label map of a case in every format that can be written.

    Args:
        labels: see `write_label_maps`.
        scan: path of the scan, or its geometry.
        folder: output folder.
        case: name of the case.
        formats: output formats (default: only NIfTI).
        table: classes. Without it (default), only NIfTI is possible.

    Returns:
        a pair: path of each written file by format, and error message of each other format by format

    Raises:
        Exception: no format can be written. This is the error of the first format, usually a `SegbundleError`.

    Example:
        >>> import nibabel as nib, tempfile
        >>> from segbundle.segmentations.class_entries import class_table
        >>> table = class_table(["background", "liver"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/ct.nii.gz"
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)
        ...     labels, formats = np.ones((4, 3, 2), np.uint8), ["nifti", "rtstruct"]
        ...     written, failed = write_possible_label_maps(labels, path, folder, "ct", formats, table)
        ...     list(written), list(failed)
        (['nifti'], ['rtstruct'])
    """
    written, errors = dict[str, str](), dict[str, Exception]()
    for name in formats:
        try:
            check_scan(scan, [name])
            written |= write_label_maps(labels, scan, folder, case, [name], table)
        except Exception as error:  # one format must not cost the others; pydicom raises various exceptions
            errors[name] = error
    if errors and not written:
        raise next(iter(errors.values()))
    return written, {name: describe(error) for name, error in errors.items()}


def write_label_map(
    labels: np.ndarray,
    scan: str | Path | Geometry,
    path: str | Path,
    output_format: str,
    table: Sequence[ClassEntry] = (),
) -> None:
    """Write a label map to a path in one format.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan. uint8 in Fortran order is fastest.
        scan: path of the scan, which must be a DICOM series for `dicom_seg` and `rtstruct`; or its geometry.
        path: output path with the suffix of the format (see `suffix_format`).
        output_format: `nifti`, `nrrd`, `dicom_seg` or `rtstruct`.
        table: classes. Without it (default), only NIfTI is possible.

    Raises:
        ConfigError: the table of classes is missing.
        DataError: a label value does not fit into the format, the label map does not fit the scan, or the scan cannot
            be read or is not a DICOM series.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     geometry = Geometry((4, 3, 2), np.eye(4))
        ...     write_label_map(np.ones((4, 3, 2), np.uint8), geometry, f"{folder}/liver.nii.gz", "nifti")
        ...     [file.name for file in Path(folder).iterdir()]
        ['liver.nii.gz']
    """
    _check_table([output_format], table)
    largest = int(labels.max(initial=0))
    limit = _MAX_NIFTI if output_format == "nifti" else len(table)
    if int(labels.min(initial=0)) < 0 or largest > limit:
        wrong = int(labels.min()) if int(labels.min()) < 0 else largest
        raise DataError(
            f"{path}: the label map contains the value {wrong}, but {output_format} takes values from 0 to {limit}"
            f"{'' if output_format == 'nifti' else ' (the number of classes)'}. Correct the label map or the classes."
        )
    source = scan if isinstance(scan, Geometry) else Path(scan)
    if output_format in OF_DICOM:
        check_scan(source if isinstance(source, Path) else None, [output_format])
    _WRITERS[output_format](labels, source, Path(path), table)


def suffix_format(path: str | Path) -> str | None:
    """Return the output format of a label map by its suffix; None for other suffixes.

    Args:
        path: path of a file. The suffix `.dcm` selects `dicom_seg`, not `rtstruct`.

    Example:
        >>> suffix_format("a.nii.gz"), suffix_format("a.seg.nrrd"), suffix_format("a.dcm"), suffix_format("a.png")
        ('nifti', 'nrrd', 'dicom_seg', None)
    """
    name = str(path).lower()
    return next((output_format for output_format, ending in SUFFIXES.items() if name.endswith(ending)), None)


def _check_table(formats: Sequence[str], table: Sequence[ClassEntry]) -> None:
    unnamed = [name for name in formats if name in _NEED_NAMES]
    if unnamed and not table:
        raise ConfigError(f"output_format {unnamed[0]} needs class_names. Set them.")
