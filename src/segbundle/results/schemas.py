"""Pydantic schemas of the JSON files of a run. Files may have additional keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segbundle.metrics import Status

Amount = Annotated[float, Field(ge=0)]
Interval = Annotated[list[float | None], Field(min_length=2, max_length=2)]
Files = str | Annotated[list[str], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _ClassScores(_Strict):
    status: Annotated[Status, Field(strict=False)]
    dice: Annotated[float, Field(ge=0, le=1)] | None
    voxels_ref: Amount
    voxels_pred: Amount
    hd95_mm: Amount | None
    nsd: Annotated[float, Field(ge=0, le=1 + 1e-9)] | None  # a quotient of sums with rounding errors
    components_ref: Annotated[int, Field(ge=0)] | None
    components_pred: Annotated[int, Field(ge=0)] | None

    @model_validator(mode="after")
    def _check_dice(self) -> Self:
        if (self.dice is None) != (self.status in (Status.TRUE_ABSENT, Status.UNANNOTATED)):
            wanted = "a number" if self.dice is None else "null"
            raise ValueError(f"dice must be {wanted} for a class with status {self.status.value}")
        return self


class Scores(_Strict):
    """Scores of one case in `predictions.json`.

    Attributes:
        voxel_ml: volume of a voxel in ml.
        classes: scores per class, background first.

    Example:
        >>> Scores(voxel_ml=0.001, classes=[]).classes
        []
    """

    voxel_ml: Amount
    classes: list[_ClassScores]


class Record(_Strict):
    """Record of one scan in `predictions.json`.

    Attributes:
        case: name of the case.
        status: whether the scan was predicted (`ok`) or an error occurred (`failed`).
        image: path of the scan, or None.
        prediction: path of the predicted label map; None for a failed scan.
        probabilities: path of the class probabilities; None if they were not saved.
        error: error message; None for a scan that was predicted.
        failed_formats: error message of each output format that could not be written; None if all were written.
        scores: scores of an evaluation; None for a prediction or a failed scan.
        series: fields of the DICOM series; None for a scan in another format.

    Example:
        >>> Record(case="case_1", status="failed", error="case_1.nii.gz: cannot be read").status
        'failed'
    """

    case: str
    status: Literal["ok", "failed"]
    image: str | None = None
    prediction: str | None = None
    probabilities: str | None = None
    error: str | None = None
    failed_formats: dict[str, str] | None = None
    scores: Scores | None = None
    series: dict[str, str] | None = None


class Case(_Strict):
    """Files of a case in `run.json`.

    Attributes:
        image: path of the scan, or one path per channel.
        reference: path of the annotated label map, or None.
        ignore_label: value of voxels of unknown class in the reference; None if there are no such voxels.
        label_values: loaded value by label value of the reference; None if it is loaded unchanged.

    Example:
        >>> Case(image="a.nii.gz", reference=None).ignore_label is None
        True
    """

    image: Files
    reference: str | None
    ignore_label: int | None = None
    label_values: dict[str, int] | None = None


class Intensity(_Strict):
    """Intensity normalization of a task.

    Attributes:
        lower: lower limit to which intensities are clipped; None without clipping. Text is an unresolved reference.
        upper: upper limit to which intensities are clipped; see `lower`.

    Example:
        >>> Intensity(lower=-100.0, upper=250.0).upper
        250.0
    """

    lower: float | str | None = None
    upper: float | str | None = None


class Config(_Strict):
    """Settings in `run.json` that reports use.

    For a training run, a value may be an unresolved reference, such as the text `@max_epochs`.

    Attributes:
        class_names: names of the classes, background first.
        classes: label values by class name; None if these are the indices of the classes.
        ckpt_path: path of the model, or paths of the members of an ensemble.
        dataset_dir: folder of the dataset, or paths of scans.
        intensity: intensity normalization.
        max_epochs: number of training epochs.
        fold: fold that was held out.
        num_folds: number of folds.

    Example:
        >>> Config(class_names=["background", "liver"], fold=0).class_names
        ['background', 'liver']
    """

    class_names: Annotated[list[str], Field(min_length=1)] | str | None = None
    classes: dict[str, int | str | list[int | str]] | str | None = None
    ckpt_path: str | list[str] | None = None
    dataset_dir: str | list[str] | None = None
    intensity: Intensity | str | None = None
    max_epochs: int | float | str | None = None
    fold: Any = None
    num_folds: Any = None


class MadeBy(_Strict):
    """Provenance of a run and the files of its cases, as in `run.json`.

    Attributes:
        config: configuration of the run.
        cases: files by name of the case.
        trained_on: names of the cases on which the models were trained; None if unknown.
        chosen_by: names of the cases whose Dice selected the epoch of a model.
        versions: versions by name of the package.
        date: date and time of the run in ISO 8601, such as "2026-01-31T12:00:00+00:00".
        device: device of the run.
        data_fingerprint: hash of the data of the run; for a cross-validation, the hashes of its folds.

    Example:
        >>> MadeBy(date="2026-01-31").cases
        {}
    """

    config: Config | None = None
    cases: dict[str, Case] = {}
    trained_on: list[str] | None = None
    chosen_by: list[str] = []
    versions: dict[str, str] = {}
    date: str | None = None
    device: str | None = None
    data_fingerprint: str | None = None


class _Class(_Strict):
    dice_mean: float | None
    dice_ci95: Interval
    hd95_mm_mean: float | None = None
    hd95_mm_ci95: Interval = [None, None]
    nsd_mean: float | None = None
    nsd_ci95: Interval = [None, None]
    nsd_tolerance_mm: float | None = None
    n_scored: int
    n_missed: int
    n_false_positive: int
    n_true_absent: int
    n_unannotated: int


assert {f"n_{status.value}" for status in Status} <= _Class.model_fields.keys()


class Summary(_Strict):
    """Mean scores, as in `summary.json`; see `segbundle.results.summary.summarize`.

    Attributes:
        cases: number of cases.
        mean_dice: mean Dice over classes; None if no class could be scored.
        mean_dice_present: mean Dice without false positives; None if no reference contains a class.
        mean_dice_ci95: bootstrap interval of `mean_dice`; [None, None] if unknown.
        classes: scores by name of the class.
        epoch: epoch after which a training run was validated; None for other runs.

    Example:
        >>> Summary(cases=0, mean_dice=None, mean_dice_present=None, classes={}).mean_dice_ci95
        [None, None]
    """

    cases: int
    mean_dice: float | None
    mean_dice_present: float | None
    mean_dice_ci95: Interval = [None, None]
    classes: dict[str, _Class]
    epoch: int | None = None
