"""Names of the label values of BIDS segmentations, from `dseg.tsv`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segbundle.errors import DataError
from segbundle.files.documents import shortened
from segbundle.io.scan_files import stem
from segbundle.io.segments import find_class
from segbundle.terminal import escaped

_SUFFIX = "dseg"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_VALUE = re.compile(r"[0-9]{1,9}")
_LARGEST = 5_000_000
"""Size in bytes above which a table is not read."""


class LabelRow(NamedTuple):
    """Row of a label table.

    Attributes:
        value: label value.
        name: name of the class.
        color: red, green and blue, 0 to 255; None if the table has no valid color.

    Example:
        >>> LabelRow(1, "liver", (255, 0, 0)).name
        'liver'
    """

    value: int
    name: str
    color: tuple[int, int, int] | None


def find_label_table(path: str | Path) -> Path | None:
    """Return the label table that applies to a BIDS segmentation, by the inheritance principle.

    The table is named `dseg.tsv`, with none, some or all of the entities of the segmentation before it. It is in the
    folder of the segmentation or in a folder above it, up to that of the dataset; for derivatives, also in the raw
    dataset. The nearest folder takes precedence, then the table with the most entities.

    Args:
        path: path of the segmentation. Only files named `*_dseg` have a table.

    Returns:
        path of the table; None without a table

    Example:
        >>> find_label_table("sub-01/anat/sub-01_T1w.nii.gz") is None
        True
    """
    parts = stem(Path(path)).split("_")
    if parts[-1] != _SUFFIX:
        return None
    for folder in _folders_above(Path(path), parts[0]):
        found = [table for table in folder.glob(f"*{_SUFFIX}.tsv") if _applies(table, parts)]
        if found:
            return max(found, key=lambda table: (len(table.name.split("_")), table.name))
    return None


def _folders_above(path: Path, subject: str) -> list[Path]:
    """Return the folder of a file and the folders above it, up to the folder of the raw dataset."""
    folder = Path.cwd() / path.parent
    above = [folder, *folder.parents]
    of_subject = next((number for number, each in enumerate(above) if each.name == subject), None)
    if of_subject is None:
        return above[:1]
    last = of_subject + 1
    derivatives = [number for number, each in enumerate(above[:-1]) if each.name == "derivatives" and number >= last]
    if derivatives and derivatives[0] <= last + 1:
        last = derivatives[0] + 1
    return above[: last + 1]


def _applies(table: Path, parts: Sequence[str]) -> bool:
    own = table.stem.split("_")
    return own[-1] == _SUFFIX and set(own) <= set(parts) and table.is_file()


def read_label_table(path: Path) -> list[LabelRow]:
    """Return the rows of a `dseg.tsv` file, sorted by label value.

    Args:
        path: path of the table, with the columns `index` and `name`, and optionally `color`.

    Raises:
        DataError: the file cannot be read, is larger than 5 MB, is not UTF-8 text, lacks a column or a name, or has an
            index twice or one that is not a whole number of at most nine digits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "dseg.tsv"
        ...     _ = path.write_text("index\\tname\\tcolor\\n1\\tliver\\t#ff0000\\n")
        ...     read_label_table(path)
        [LabelRow(value=1, name='liver', color=(255, 0, 0))]
    """
    lines = [line.split("\t") for line in _text(path).splitlines() if line.strip()]
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not {"index", "name"} <= set(header):
        raise DataError(
            f"{escaped(path)}: has no columns `index` and `name`, separated by tabs. Correct the table of labels."
        )
    rows: dict[int, LabelRow] = {}
    for number, cells in enumerate(lines[1:], 2):
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        value, name, color = row.get("index", ""), row.get("name", ""), row.get("color", "")
        if not _VALUE.fullmatch(value) or name in ("", "n/a") or escaped(name) != name:
            raise DataError(
                f"{escaped(path)}: row {number} has the index {shortened(value)} and the name {shortened(name)}, but "
                "needs a whole number of at most nine digits and a name. Correct the table of labels."
            )
        if int(value) in rows:
            raise DataError(f"{escaped(path)}: has the index {value} twice. Correct the table of labels.")
        rgb = tuple(bytes.fromhex(color[1:])) if _COLOR.fullmatch(color) else None
        rows[int(value)] = LabelRow(int(value), name, None if rgb is None else (rgb[0], rgb[1], rgb[2]))
    return [rows[value] for value in sorted(rows)]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{escaped(path)}: is larger than a table of labels. Correct it, or move it away.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{escaped(path)}: cannot be read ({error.strerror}). Correct it, or move it away.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{escaped(path)}: is not UTF-8 text. Save the table of labels as UTF-8.") from error


def table_class_names(rows: Sequence[LabelRow]) -> tuple[list[str], int | None]:
    """Return the class names of a label table, and the label value of the row named `ignore`.

    Args:
        rows: rows of the table, see `read_label_table`. The value 0 is the background, whatever its name.

    Returns:
        a pair: the names, each once, with `background` first and the others in the order of the rows; and the value of
        the (first) row named `ignore` in any case, or None without such a row

    Example:
        >>> table_class_names([LabelRow(0, "Unknown", None), LabelRow(3, "liver", None), LabelRow(9, "ignore", None)])
        (['background', 'liver'], 9)
    """
    ignored = [row.value for row in rows if row.value and row.name.lower() == "ignore"]
    names = [row.name for row in rows if row.value and row.value not in ignored]
    return list(dict.fromkeys(["background", *names])), ignored[0] if ignored else None


def renumber_by_name(path: Path, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return a BIDS segmentation with the label values of the task, matched by the names in its table.

    Label maps without a table, those whose table has no name of a class of the task, and those with a floating-point
    dtype are returned unchanged. Voxels with the value of the row named `ignore` keep this value.

    Args:
        path: path of the segmentation.
        labels: integer label map of any shape.
        class_names: class names of the task, background first.

    Returns:
        `labels` itself if no value changes, else a copy of the same shape and dtype

    Raises:
        DataError: the table cannot be read or gives `ignore` the value of a class, or a voxel has a value without a
            class of the task.

    Example:
        >>> renumber_by_name(Path("ct_seg.nii.gz"), np.array([0, 2]), ["background", "liver"])
        array([0, 2])
    """
    table = find_label_table(path)
    if table is None or not np.issubdtype(labels.dtype, np.integer):
        return labels
    rows = read_label_table(table)
    _, ignored = table_class_names(rows)
    values = {row.value: find_class(row.name, class_names) for row in rows if row.value and row.value != ignored}
    if not any(values.values()):
        return labels
    if ignored is not None and ignored < len(class_names):
        raise DataError(
            f"{escaped(table)}: `ignore` has the index {ignored}, which is the label value of a class. Give it an "
            f"index from {len(class_names)} to 255 in the table and in the label maps."
        )
    names, result = {row.value: row.name for row in rows}, labels
    for value in np.unique(labels).tolist():
        if value in (0, ignored) or values.get(value) == value:
            continue
        if not values.get(value):
            named = f"named {names[value]!r}" if value in names else "without a name"
            raise DataError(
                f"{escaped(path)}: contains the label value {value}, {named} in {escaped(table)}; the classes of the "
                f"task are {', '.join(map(str, class_names))}. Correct the table, or change class_names."
            )
        if result is labels:
            result = labels.copy()
        result[labels == value] = values[value]
    return result
