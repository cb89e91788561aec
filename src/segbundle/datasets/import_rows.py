"""Rows of the table of an import, and the description of the dataset that they give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segbundle.datasets.export_search import LeftOutError
from segbundle.io.geometry import Geometry

COLUMNS = ("case", "status", "reason", "modality", "size (voxels)", "spacing (mm)", "classes", "algorithm")


@dataclass(frozen=True)
class ImportRow:
    """Result for a volume of the export.

    Attributes:
        case: name of the case.
        status: `training`, `unlabeled` or `left out`.
        place: path of the volume below the folder of the export; it is not written to files.
        modality: modality, such as `CT`; empty if unknown.
        geometry: geometry of the volume; None (default) if unknown.
        classes: annotated classes (default none).
        patient: pseudonym of the patient, see `import_dataset`; empty (default) if unknown.
        algorithms: algorithm types of the segments that are classes, such as `MANUAL` (default none).
        error: reason why the volume was left out, or why its earlier version was kept; None (default) for a case.
        kept: origin of a case that an earlier import wrote and this import did not: `an earlier import` of this export,
            or `another export`; empty (default) for other rows.

    Example:
        >>> ImportRow("case_1", "left out", "p1/scout", "CT", error=LeftOutError("no segmentation")).cells[2]
        'no segmentation'
    """

    case: str
    status: str
    place: str
    modality: str
    geometry: Geometry | None = None
    classes: tuple[str, ...] = ()
    patient: str = ""
    algorithms: tuple[str, ...] = ()
    error: LeftOutError | None = field(default=None, compare=False)
    kept: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Row of `import.csv`: the text of each of the columns `COLUMNS`; empty text for unknown values."""
        size = spacing = ""
        if self.geometry is not None:
            size = " x ".join(map(str, self.geometry.shape))
            spacing = " x ".join(f"{value:.3g}" for value in self.geometry.spacing)
        kept = f"kept from {self.kept}" if self.kept else ""
        reason = ": ".join(filter(None, (kept, "" if self.error is None else self.error.reason)))
        algorithms = ", ".join(self.algorithms)
        return self.case, self.status, reason, self.modality, size, spacing, ", ".join(self.classes), algorithms


@dataclass(frozen=True)
class ImportResult:
    """Result of an import.

    Attributes:
        rows: a row for each volume and each kept case, sorted by case.
        class_names: class names of the dataset, background first.
        not_chosen: for each name of a segment that is not a chosen class, the number of volumes with such a segment;
            empty if no class names were chosen.
        replaced: number of cases of other exports that were replaced by the same series of this export (default 0).
        removed: number of cases of earlier imports that were removed (default 0).

    Example:
        >>> ImportResult([], ["background", "liver"], Counter()).problems
        []
    """

    rows: Sequence[ImportRow]
    class_names: Sequence[str]
    not_chosen: Counter[str]
    replaced: int = 0
    removed: int = 0

    @property
    def problems(self) -> list[LeftOutError]:
        """Problems because of which volumes were left out, or earlier versions of cases were kept."""
        return [row.error for row in self.rows if row.error is not None and row.error.is_problem]


def worst_errors(errors: Sequence[tuple[str, LeftOutError | None]]) -> dict[str, LeftOutError]:
    """Return one error for each case with errors, preferably a problem.

    Args:
        errors: pairs of the name of a case and an error or None.

    Example:
        >>> worst_errors([("a", None), ("b", LeftOutError("no segmentation"))])["b"].reason
        'no segmentation'
    """
    found = dict[str, LeftOutError]()
    for case, error in errors:
        if error is not None and (case not in found or (error.is_problem and not found[case].is_problem)):
            found[case] = error
    return found


def dataset_description(name: str, rows: Sequence[ImportRow], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the content of `dataset.json`.

    Args:
        name: name of the dataset.
        rows: a row for each volume and each kept case.
        class_names: class names of the dataset, background first.

    Example:
        >>> row = ImportRow("case_1", "training", "p1/ct", "CT", classes=("liver",))
        >>> dataset_description("ct", [row], ["background", "liver", "spleen"])["training"][0]["annotated"]
        ['liver']
    """
    training, test = list[dict[str, Any]](), list[str]()
    for row in rows:
        if row.status == "training":
            entry: dict[str, Any] = {kind: f"./{kind}sTr/{row.case}.nii.gz" for kind in ("image", "label")}
            if len(row.classes) < len(class_names) - 1:
                entry["annotated"] = list(row.classes)
            if row.patient:
                entry["patient"] = row.patient
            training.append(entry)
        elif row.status == "unlabeled":
            test.append(f"./imagesTs/{row.case}.nii.gz")
    modalities = sorted({row.modality for row in rows if row.status != "left out"})
    return {
        "name": name,
        "description": "Imported from DICOM by segbundle",
        "tensorImageSize": "3D",
        "modality": {"0": ", ".join(modalities)},
        "labels": {str(value): name for value, name in enumerate(class_names)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
