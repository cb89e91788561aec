"""Names, colors and codes of the classes that a label file contains itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from segbundle.errors import DataError
from segbundle.files.documents import read_json
from segbundle.io.dicom_headers import read_dataset
from segbundle.io.label_maps import dicom_object, segment_fields
from segbundle.io.label_tables import find_label_table, read_label_table
from segbundle.io.nifti import is_nifti
from segbundle.io.scan_files import is_segmentation
from segbundle.io.scans import unreadable
from segbundle.io.segments import find_class
from segbundle.io.structure_sets import RTSTRUCT
from segbundle.segmentations.class_entries import MAX_CODE, MAX_MEANING, OWN_SCHEME, ClassEntry, class_table
from segbundle.segmentations.nifti_labels import EXTENSION_CODES, table_file
from segbundle.segmentations.palette import TO_RGB, WHITE, Rgb
from segbundle.segmentations.snomed import find_code

ALGORITHMS = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")
_TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")
_TABLE = re.compile(rb"<LabelTable>.*</LabelTable>", re.DOTALL)


@dataclass(frozen=True)
class FileClass:
    """Class as a label file describes it.

    Attributes:
        number: number of the segment, or label value.
        name: name; empty if the file contains none.
        color: red, green and blue, 0 to 255; None (default) if the file contains none.
        code: `scheme`, `value`, `meaning` and, for classes with a side, `laterality`; None (default) if the file
            contains none.
        algorithm: `AUTOMATIC`, `SEMIAUTOMATIC` or `MANUAL`; empty (default) if the file contains none of these.
        algorithm_name: name of the program that made the segment; empty (default) if unknown.

    Example:
        >>> FileClass(1, "liver").color is None
        True
    """

    number: int
    name: str
    color: Rgb | None = None
    code: Mapping[str, str] | None = None
    algorithm: str = ""
    algorithm_name: str = ""


def classes_in_file(path: str | Path) -> list[FileClass]:
    """Return the classes that a label file describes, sorted by number.

    These are the segments of DICOM SEG and 3D Slicer (`.seg.nrrd`), and the structures of RTSTRUCT. For NIfTI, these
    are the rows of the label table in the header, with the codes in the JSON file beside it; without such a table, the
    rows of the `dseg.tsv` that applies to a BIDS segmentation. In DICOM SEG and NIfTI, the number 0 is the background,
    which is not included.

    Args:
        path: path of the file.

    Returns:
        the classes; empty if the file describes none

    Raises:
        DataError: the file cannot be read.

    Example:
        >>> classes_in_file("/nowhere/ct.nii.gz")
        []
    """
    path = Path(path)
    try:
        if is_segmentation(path.name):
            found = [_of_slicer(index, fields) for index, fields in segment_fields(path).items()]
        elif is_nifti(path):
            found = _of_nifti(path)
        else:
            found = _of_dicom(*dicom_object(path))
    except DataError:
        raise
    except Exception as error:  # of pydicom and nibabel, for damaged files
        raise unreadable(path, error) from error
    return sorted(found, key=lambda entry: entry.number)


def table_of(
    classes: Sequence[FileClass],
    class_names: Sequence[str] = (),
    class_colors: Mapping[str, Any] | None = None,
    class_codes: Mapping[str, Any] | None = None,
) -> list[ClassEntry]:
    """Return the table of the classes of a file, with the label values 1, 2, ... in their order.

    Args:
        classes: classes of the file.
        class_names: class names of the task, background first. The classes of the file give them colors and codes.
            Default: the classes of the file, all of which need names.
        class_colors: see `class_table`; these take precedence over the colors of the file (default None).
        class_codes: see `class_table`; these take precedence over the codes of the file (default None).

    Raises:
        ConfigError: a name occurs twice; or see `class_table`.

    Example:
        >>> [entry.hex_color for entry in table_of([FileClass(4, "liver", (1, 2, 3)), FileClass(7, "lesion")])]
        ['#010203', '#56b4e9']
    """
    names = list(class_names) or ["background", *(entry.name for entry in classes)]
    own = {}
    for entry in classes:
        value = find_class(entry.name, names) if entry.name else None
        if value:
            own[names[value]] = replace(entry, name=names[value])
    colors = {name: list(entry.color) for name, entry in own.items() if entry.color is not None}
    codes = {name: dict(entry.code) for name, entry in own.items() if entry.code is not None and _is_new(entry)}
    return class_table(names, {**colors, **(class_colors or {})}, {**codes, **(class_codes or {})})


def with_algorithms(table: Sequence[ClassEntry], classes: Sequence[FileClass]) -> list[ClassEntry]:
    """Return a table with the algorithm types of a file; classes without one become `SEMIAUTOMATIC`.

    DICOM SEG needs a type. A segmentation of unknown origin must pass neither as manual nor as a prediction.

    Args:
        table: classes.
        classes: classes of the file, see `classes_in_file`.

    Example:
        >>> table = class_table(["background", "liver", "lesion"])
        >>> found = with_algorithms(table, [FileClass(1, "Liver", algorithm="MANUAL")])
        >>> [(entry.algorithm, entry.algorithm_name) for entry in found]
        [('MANUAL', 'unknown'), ('SEMIAUTOMATIC', 'unknown')]
    """
    names = ["background", *(entry.name for entry in table)]
    own = {find_class(entry.name, names): entry for entry in classes if entry.name and entry.algorithm}
    return [
        replace(
            entry, algorithm=own[entry.label].algorithm, algorithm_name=own[entry.label].algorithm_name or "unknown"
        )
        if entry.label in own
        else replace(entry, algorithm="SEMIAUTOMATIC", algorithm_name="unknown")
        for entry in table
    ]


def _algorithm(value: Any) -> str:
    text = str(value or "").strip().upper()
    return text if text in ALGORITHMS else ""


def _is_new(entry: FileClass) -> bool:
    """Return whether a code is valid and is not the one that the class has by its name."""
    code, known = entry.code or {}, find_code(entry.name)
    if code.get("scheme") == OWN_SCHEME or (known is not None and known.type.value == code.get("value")):
        return False
    short = max(len(code.get("scheme", "")), len(code.get("value", ""))) <= MAX_CODE
    return short and len(code.get("meaning", "")) <= MAX_MEANING


def _of_dicom(path: Path, kind: str | None) -> list[FileClass]:
    if kind is None:
        return []
    dataset = read_dataset(path, stop_before_pixels=True)
    if kind == RTSTRUCT:
        return _of_structure_set(dataset)
    return [_of_segment(item) for item in dataset.SegmentSequence if int(item.SegmentNumber)]


def _of_segment(item: Any) -> FileClass:
    lab = item.get("RecommendedDisplayCIELabValue")
    kind = (item.get("SegmentedPropertyTypeCodeSequence") or [None])[0]
    sides = None if kind is None else kind.get("SegmentedPropertyTypeModifierCodeSequence")
    color = None if lab is None else rgb_of_lab(lab)
    algorithm = _algorithm(item.get("SegmentAlgorithmType"))
    program = str(item.get("SegmentAlgorithmName") or "")
    return FileClass(
        int(item.SegmentNumber), str(item.get("SegmentLabel") or ""), color, _code(kind, sides), algorithm, program
    )


def _of_structure_set(dataset: Any) -> list[FileClass]:
    colors = {
        int(item.ReferencedROINumber): item.get("ROIDisplayColor") for item in dataset.get("ROIContourSequence") or []
    }
    kinds = {
        int(item.ReferencedROINumber): (item.get("RTROIIdentificationCodeSequence") or [None])[0]
        for item in dataset.get("RTROIObservationsSequence") or []
    }
    found = []
    for item in dataset.StructureSetROISequence:
        number = int(item.ROINumber)
        color = None if not colors.get(number) else _rgb([float(part) for part in colors[number]])
        algorithm = _algorithm(item.get("ROIGenerationAlgorithm"))
        name, code = str(item.get("ROIName") or ""), _code(kinds.get(number), None)
        found.append(FileClass(number, name, color, code, algorithm))
    return found


def _code(concept: Any, sides: Any) -> dict[str, str] | None:
    """Return a coded concept (pydicom) with an optional modifier for the side."""
    names = {"scheme": "CodingSchemeDesignator", "value": "CodeValue", "meaning": "CodeMeaning"}
    code = {} if concept is None else {key: str(concept.get(name) or "") for key, name in names.items()}
    if not code or not all(code.values()):
        return None
    side = str(sides[0].get("CodeMeaning") or "").lower() if sides else ""
    return {**code, "laterality": side} if side in ("left", "right") else code


def rgb_of_lab(values: Sequence[int]) -> Rgb:
    """Return the color of a RecommendedDisplayCIELabValue of DICOM as red, green and blue, 0 to 255.

    Args:
        values: L*, a* and b* as integers of 16 bits.

    Example:
        >>> rgb_of_lab([65535, 32896, 32896])
        (255, 255, 255)
    """
    light, a, b = values[0] * 100 / 65535, values[1] * 255 / 65535 - 128, values[2] * 255 / 65535 - 128
    y = (light + 16) / 116
    roots = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 16 / 116) / 7.787) * WHITE
    linear = np.clip(TO_RGB @ xyz, 0, 1)
    return _rgb(255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear))


def _rgb(parts: Any) -> Rgb:
    red, green, blue = (min(max(round(float(part)), 0), 255) for part in parts)
    return red, green, blue


def _of_slicer(index: int, fields: Mapping[str, str]) -> FileClass:
    number = int(fields.get("LabelValue", index + 1))
    color = _rgb([255 * float(part) for part in fields["Color"].split()]) if "Color" in fields else None
    return FileClass(number, fields.get("Name", ""), color, _terminology(fields.get("Tags", "")))


def _terminology(tags: str) -> dict[str, str] | None:
    """Return the type and the side in the terminology entry of a segment of 3D Slicer."""
    found = _TERMINOLOGY.search(tags)
    parts = [part.split("^") for part in found[1].split("~")] if found else []
    if len(parts) < 4 or len(parts[2]) != 3 or not all(parts[2]):
        return None
    scheme, value, meaning = parts[2]
    side = parts[3][-1].lower()
    code = {"scheme": scheme, "value": value, "meaning": meaning}
    return {**code, "laterality": side} if side in ("left", "right") else code


def _of_nifti(path: Path) -> list[FileClass]:
    """Return the classes of the label table in the header, or else of `dseg.tsv`.

    The codes of a table in the header are in the JSON file of `write_nifti_labels`.
    """
    header: Any = nib.load(path.absolute()).header
    for extension in getattr(header, "extensions", []):
        table = _TABLE.search(_content(extension)) if extension.get_code() in EXTENSION_CODES else None
        if table is not None:
            codes = _codes_beside(path)
            try:
                found = [_of_label(label, codes) for label in ElementTree.fromstring(table[0]).iter("Label")]
            except (ElementTree.ParseError, ValueError):
                continue  # of another program
            return [entry for entry in found if entry.number > 0]
    bids = find_label_table(path)
    rows = [] if bids is None else read_label_table(bids)
    return [FileClass(row.value, row.name, row.color) for row in rows if row.value > 0]


def _content(extension: Any) -> bytes:
    """Return the content of a header extension as bytes; nibabel has `content` since version 5.3."""
    return bytes(extension.content if hasattr(extension, "content") else extension.get_content())


def _of_label(label: ElementTree.Element, codes: Mapping[str, Mapping[str, str]]) -> FileClass:
    name = (label.text or "").strip()
    color = _rgb([255 * float(label.get(part, "0")) for part in ("Red", "Green", "Blue")])
    return FileClass(int(label.get("Key", "0")), name, color, codes.get(name))


def _codes_beside(path: Path) -> dict[str, Mapping[str, str]]:
    """Return the code of each class in the JSON file beside a NIfTI label map."""
    file = table_file(path)
    try:
        content: Any = read_json(file) if file.is_file() else []
    except DataError:
        return {}
    rows = [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return {
        str(row.get("name")): {key: str(part) for key, part in row["code"].items()}
        for row in rows
        if isinstance(row.get("code"), dict) and {"scheme", "value", "meaning"} <= set(row["code"])
    }
