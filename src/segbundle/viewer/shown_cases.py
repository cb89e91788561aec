"""Cases of a run that the viewer can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segbundle.metrics import Status
from segbundle.report.measurements import read_warnings
from segbundle.results.case_files import CaseFiles, is_there
from segbundle.results.runs import Run, holds_scores, read_predictions, read_run
from segbundle.results.scores import Row


@dataclass(frozen=True)
class ShownCase:
    """Case that the viewer can show.

    Attributes:
        name: name of the case.
        summary: Dice per class (evaluation) or warnings (predictions) as text; may be empty.
        files: paths of the existing files, by name of the volume: `scan`, `reference`, `prediction`.
        ignore_label: value of voxels of unknown class in the reference; None if there are no such voxels.
        unannotated: indices of the classes that were not annotated in the case.
        label_values: loaded value by label value of the reference; None (default) if it is loaded unchanged.

    Example:
        >>> ShownCase("case_1", "", {"reference": "a.nii.gz", "prediction": "b.nii.gz"}, None, []).volumes
        ['reference', 'prediction', 'errors']
    """

    name: str
    summary: str
    files: dict[str, str]
    ignore_label: int | None
    unannotated: Sequence[int]
    label_values: Mapping[int, int] | None = None

    @classmethod
    def of(cls, name: str, summary: str, files: CaseFiles, unannotated: Sequence[int]) -> ShownCase:
        """Return a case with the existing files of `files`. Only the first channel of the scan is shown.

        Args:
            name: name of the case.
            summary: Dice per class, or warnings, as text.
            files: files of the case.
            unannotated: indices of the classes that were not annotated.
        """
        given = {"scan": files.first_image, "reference": files.reference, "prediction": files.prediction}
        existing = {kind: path for kind, path in given.items() if path is not None and is_there(path)}
        return cls(name, summary, existing, files.ignore_label, unannotated, files.label_values)

    @property
    def volumes(self) -> list[str]:
        """Names of the volumes to show: the files, and the error map `errors` if reference and prediction exist."""
        return [*self.files, *(["errors"] if {"reference", "prediction"} <= self.files.keys() else [])]


def shown_cases(
    folder: str | Path, dataset_dir: str | Path | None = None
) -> tuple[list[ShownCase], list[str], dict[str, Any]]:
    """Return the cases of a run that have known files, with the class names and the content of `run.json`.

    For a run with scores, the case with the lowest Dice of any class comes first, and cases without Dice come last.

    Args:
        folder: folder of the run.
        dataset_dir: new folder of the scans, if they were moved. Default: the recorded paths are used.

    Returns:
        three values: the cases, the names of the foreground classes, and the content of `run.json`

    Raises:
        OutputError: the folder does not belong to a run, the run has not finished, or its files cannot be read.

    Example:
        >>> import tempfile
        >>> from segbundle.results.summary import write_scores
        >>> with tempfile.TemporaryDirectory() as run:
        ...     _ = write_scores(run, [], ["background", "liver"])
        ...     shown_cases(run)
        ([], ['liver'], {})
    """
    if holds_scores(folder):
        run = read_run(folder, dataset_dir)
        return list(_scored(run)), run.class_names, run.made_by
    found = read_predictions(folder, dataset_dir)
    return [ShownCase.of(case, "", files, []) for case, files in found.files.items()], found.class_names, found.made_by


def with_warnings(cases: Sequence[ShownCase], measurements: Path) -> list[ShownCase]:
    """Return cases with the warnings in `measurements.csv` as summaries, the case with the most warnings first.

    Args:
        cases: cases of predictions.
        measurements: path of `measurements.csv`, which may be missing.

    Raises:
        OutputError: the file cannot be read (see `segbundle.report.measurements.read_warnings`).

    Example:
        >>> case = ShownCase("case_1", "", {}, None, [])
        >>> with_warnings([case], Path("missing.csv")) == [case]
        True
    """
    warnings = read_warnings(measurements)
    order = {case: number for number, case in enumerate(warnings)}
    annotated = [replace(case, summary=warnings.get(case.name, "")) for case in cases]
    return sorted(annotated, key=lambda case: order.get(case.name, len(order)))


def _scored(run: Run) -> Iterator[ShownCase]:
    rows: dict[str, list[Row]] = {case: [] for case in run.files}
    for row in run.rows:
        rows.get(row.case, []).append(row)
    index_of = {name: index for index, name in enumerate(run.class_names, 1)}
    dice = {case: [(row.dice, row.name) for row in found if row.dice is not None] for case, found in rows.items()}
    for case in sorted(rows, key=lambda case: (min(dice[case], default=(2.0, "")), case)):
        values = ", ".join(f"{name} {value:.3f}" for value, name in dice[case])
        unannotated = [index_of[row.name] for row in rows[case] if row.status is Status.UNANNOTATED]
        yield ShownCase.of(case, f"Dice: {values}" if values else "", run.files[case], unannotated)
