"""Command `import`: a dataset from a DICOM export, with a table of all volumes, imported or left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from segbundle.cli.convert import read_task_classes
from segbundle.cli.option_types import names_in
from segbundle.datasets.dicom_import import import_dataset
from segbundle.datasets.earlier_cases import OTHER_EXPORT
from segbundle.datasets.import_rows import COLUMNS, ImportResult, ImportRow
from segbundle.masking import masked


def print_import(
    export: Path,
    dataset: Path,
    series: str | None = None,
    class_names: str | None = None,
    unlabeled: bool = False,
    case_names: str = "hash",
    allow_uneven: bool = False,
    remove_missing: bool = False,
) -> bool:
    """Import a DICOM export, and print a table of its volumes to stdout and all problems to stderr.

    Args:
        export: folder of the export.
        dataset: folder of the dataset.
        series: series as on the command line, such as `CT` or `MR, *thorax*`. Default: CT, MR and PT.
        class_names: names as on the command line, such as `[background, liver]`. Default: the names of all segments.
        unlabeled: see `import_dataset` (default False).
        case_names: see `import_dataset` (default `hash`). With `pseudonym`, the table has no column with the places of
            the volumes in the export.
        allow_uneven: see `import_dataset` (default False).
        remove_missing: see `import_dataset` (default False).

    Returns:
        True if at least one volume was imported, and no volume was left out because of a problem

    Raises:
        ConfigError: the class names are not valid.
        DataError: see `import_dataset`.
        OutputError: see `import_dataset`.

    Example:
        >>> print_import(Path("/data/export"), Path("datasets/liver"))  # doctest: +SKIP
    """
    names = read_task_classes([], class_names).names
    words = [series] if series and not series.lstrip().startswith("[") else names_in(series or "")
    result = import_dataset(export, dataset, words, names, unlabeled, case_names, allow_uneven, remove_missing)
    print("\n".join(_table(result.rows, with_place=case_names != "pseudonym")))
    count = {
        status: sum(row.status == status for row in result.rows) for status in ("training", "unlabeled", "left out")
    }
    print(
        f"{dataset}: {count['training']} training cases, {count['unlabeled']} unlabeled, {count['left out']} left out. "
        f"Classes: {', '.join(result.class_names)}."
    )
    _print_earlier(result)
    used = {name for row in result.rows for name in row.classes}
    unused = [name for name in result.class_names[1:] if name not in used]
    if unused and used:
        print(
            f"Classes without a segment in any training case: {', '.join(unused)}. Choose classes with --class_names."
        )
    if result.not_chosen:
        others = ", ".join(f"{name} ({number})" for name, number in sorted(result.not_chosen.items()))
        print(f"Segments that are not in --class_names, with their number of volumes: {others}.")
    automatic = sum("AUTOMATIC" in row.algorithms for row in result.rows if row.status == "training")
    if automatic:
        print(
            f"Warning: {automatic} training cases have segments of an algorithm (AUTOMATIC), such as predictions of a "
            "model. Check them before you train on them.",
            file=sys.stderr,
        )
    messages = [
        f"{row.case}: {error.message or error.reason}"
        for row in result.rows
        if (error := row.error) and error.is_problem
    ]
    if all(row.status == "left out" or row.kept for row in result.rows):
        messages.append(
            f"{export}: no volume was imported. A DICOM SEG or RTSTRUCT must refer to a series; --unlabeled imports "
            "volumes without them."
        )
    if messages:
        print(masked("\n".join(messages)), file=sys.stderr)
    return not messages


def _print_earlier(result: ImportResult) -> None:
    """Print the numbers of kept, replaced and removed cases of earlier imports."""
    others = sum(row.kept == OTHER_EXPORT for row in result.rows)
    own = sum(bool(row.kept) for row in result.rows) - others
    if others or own:
        advice = " To remove cases that this export no longer contains, use --remove_missing." if own else ""
        print(f"{others + own} cases of earlier imports kept: {others} of other exports, {own} of this one.{advice}")
    if result.replaced:
        print(f"{result.replaced} cases of other exports replaced by the same series of this export.")
    if result.removed:
        print(f"{result.removed} cases of earlier imports removed.")


def _table(rows: Sequence[ImportRow], with_place: bool) -> Iterator[str]:
    """Yield the lines of the table, with or without a column for the place of each volume in the export."""
    lines = [(*COLUMNS, *["place"] * with_place), *((*row.cells, *[row.place] * with_place) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
