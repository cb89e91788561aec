"""NIfTI label maps with the names and colors of the classes in a header extension, and a JSON file beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import nibabel as nib
import numpy as np

from segbundle.files.atomic import write_json
from segbundle.io.geometry import Geometry
from segbundle.io.scans import write_segmentation
from segbundle.segmentations.class_entries import ClassEntry, describe_classes

EXTENSION_CODES = (0, 30)
"""Codes of the two copies of the table. Connectome Workbench reads code 30 (Caret). TotalSegmentator writes code 0 and
reads the first extension with nibabel, which (since version 5.3) raises an error for the content of code 30."""
_START = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension>\n<Date><![CDATA[1970-01-01T00:00:00]]></Date>\n'
    '<VolumeInformation Index="0">\n<LabelTable>\n'
)
"""The date is constant, so that the same label map gives the same bytes."""
_END = (
    "</LabelTable>\n<StudyMetaDataLinkSet>\n</StudyMetaDataLinkSet>\n<VolumeType><![CDATA[Label]]></VolumeType>\n"
    "</VolumeInformation>\n</CaretExtension>\n"
)
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_nifti_labels(
    labels: np.ndarray, scan: str | Path | Geometry, path: str | Path, table: Sequence[ClassEntry]
) -> None:
    """Write a label map as NIfTI with names and colors of the classes, and a JSON file with their codes beside it.

    The geometry is that of `write_segmentation`. Names and colors are in a header extension (see `label_extensions`).
    The JSON file has the same name with the suffix `.json`.

    Args:
        labels: (X, Y, Z) integer label values on the stored axes of the scan.
        scan: path of the scan, or its geometry.
        path: output path, with the suffix `.nii.gz` or `.nii`.
        table: classes; if empty, neither the extension nor the JSON file is written.

    Raises:
        DataError: see `write_segmentation`.
        OutputError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> from segbundle.segmentations import class_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scan, table = f"{folder}/ct.nii.gz", class_table(["background", "liver"])
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), scan)
        ...     write_nifti_labels(np.ones((4, 3, 2), np.uint8), scan, f"{folder}/ct_seg.nii.gz", table)
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['ct.nii.gz', 'ct_seg.json', 'ct_seg.nii.gz']
    """
    path = Path(path)
    extensions, described = _described(tuple(table)) if table else ([], [])
    write_segmentation(labels, scan, path, extensions)
    if table:
        write_json(table_file(path), described)


def table_file(path: Path) -> Path:
    """Return the path of the JSON file with the classes of a NIfTI label map.

    Args:
        path: path of the label map.

    Example:
        >>> table_file(Path("runs/ct_seg.nii.gz")).name
        'ct_seg.json'
    """
    return path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) + ".json")


@lru_cache(maxsize=1)
def _described(table: tuple[ClassEntry, ...]) -> tuple[list[nib.nifti1.Nifti1Extension], list[dict[str, Any]]]:
    """Return header extensions and JSON values of a table; all label maps of a run have the same."""
    return label_extensions(table), describe_classes(table)


def label_extensions(table: Sequence[ClassEntry]) -> list[nib.nifti1.Nifti1Extension]:
    """Return two NIfTI header extensions with the names and colors of the classes.

    Both contain the same XML with a `LabelTable`, as Connectome Workbench and TotalSegmentator write it. They differ in
    their codes, 0 and 30, because these programs read different codes (see `EXTENSION_CODES`).

    Args:
        table: classes.

    Example:
        >>> from segbundle.segmentations import class_table
        >>> first, second = label_extensions(class_table(["background", "liver"]))
        >>> first.get_code(), second.get_code(), b"<![CDATA[liver]]>" in first.content
        (0, 30, True)
    """
    rows = "".join(f"<Label {_attributes(entry)}>{_cdata(entry.name)}</Label>\n" for entry in table)
    content = f"{_START}{rows}{_END}".encode("utf-8", "replace")
    return [nib.nifti1.Nifti1Extension(code, content) for code in EXTENSION_CODES]


def _attributes(entry: ClassEntry) -> str:
    red, green, blue = (f"{part / 255:.6g}" for part in entry.color)
    values = {"Key": str(entry.label), "Red": red, "Green": green, "Blue": blue, "Alpha": "1"}
    return " ".join(f"{key}={quoteattr(value)}" for key, value in values.items())


def _cdata(text: str) -> str:
    """Return text as a CDATA section; a `]]>` in it is split, and characters that XML does not allow are removed."""
    return f"<![CDATA[{_NOT_IN_XML.sub('', text).replace(']]>', ']]]]><![CDATA[>')}]]>"
