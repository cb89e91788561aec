"""Score the predictions of an evaluator per class, on the grid of the scans, and write the scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.utils import CommonKeys

from segbundle.class_values import regions
from segbundle.classes import IGNORE_INDEX, Classes
from segbundle.config.from_settings import from_settings
from segbundle.config.values import nsd_tolerances
from segbundle.distributed import all_gather, rank
from segbundle.files import run_files
from segbundle.inference.scan_records import ScanRecords
from segbundle.metrics import score_case
from segbundle.results.scores import CaseScores
from segbundle.results.summary import print_summary, summarize, write_scores

_logger = logging.getLogger(__name__)


def is_better(current: float, best: float) -> bool:
    """Return whether a validation score replaces the best score so far, so that the current weights are kept.

    A larger score replaces a smaller one. As long as no score is meaningful, the newest score replaces the best: if the
    best is NaN, or if the best is 0 and the new score is 0 or NaN.

    Args:
        current: score of this validation.
        best: best score so far.

    Example:
        >>> is_better(0.8, 0.7), is_better(0.7, 0.7), is_better(0.0, 0.0)
        (True, False, True)
    """
    if math.isnan(current) or math.isnan(best):
        return math.isnan(best) or best == 0
    return current > best or current == best == 0


class MeanDice(Metric):
    """Ignite metric of the mean Dice over classes, as `segbundle.results.summary.summarize` defines it.

    The metric reads the label maps `pred` and `label` (1, X, Y, Z) from the output of the engine, and `case` and
    `annotated` from the batch. The metric adds `scores` to the output of each case. If no class could be scored, the
    mean is 0, so that engines can compare validations.

    Args:
        class_names: names of the classes, background first.
        nsd_tolerance_mm: tolerance of the normalized surface Dice in mm, for all classes or by name (see
            `nsd_tolerances`). Default: None (surface metrics are not computed, and components are not counted).
        records: records of the evaluation, from which the scores of an earlier run are included. Default: None.
        classes: label values by class name, see `segbundle.class_values.class_values`. Default: None.

    Attributes:
        cases: scores of each case of this rank; after the evaluation, scores of the cases of all ranks.

    Raises:
        ConfigError: the class names or the tolerances are invalid (see `nsd_tolerances`).

    Example:
        >>> from monai.data import MetaTensor
        >>> label = MetaTensor(torch.ones(1, 4, 4, 4, dtype=torch.uint8), affine=torch.eye(4))
        >>> metric = MeanDice(["background", "liver"])
        >>> metric.update({"case": "a", "pred": label, "label": label, "annotated": torch.tensor([True, True])})
        >>> metric.compute()
        1.0
    """

    @from_settings
    def __init__(
        self,
        class_names: Sequence[str],
        nsd_tolerance_mm: float | Mapping[str, float] | None = None,
        records: ScanRecords | None = None,
        classes: Mapping[str, Any] | None = None,
    ) -> None:
        self.class_names = Classes(class_names).names
        self.nsd_tolerance_mm = nsd_tolerances(nsd_tolerance_mm, self.class_names)
        self.records = records
        self.regions = regions(classes)
        self.cases: list[CaseScores] = []
        super().__init__()

    def reset(self) -> None:
        """Remove all cases."""
        self.cases = []

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of the current iteration, and add `scores` to their outputs.

        Args:
            engine: evaluator whose batch and output are lists with one dict per case.
        """
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            self.update({**item, **output})
            output["scores"] = self.cases[-1]

    def update(self, output: dict[str, Any]) -> None:
        """Score a case.

        Args:
            output: dict with the name of the `case`, the label maps `pred` and `label` (`MetaTensor` (1, X, Y, Z)), and
                `annotated`, bool (num_classes,).
        """
        pred, label = output[CommonKeys.PRED], output[CommonKeys.LABEL]
        axes = torch.as_tensor(label.affine)[:3, :3].double()
        voxel_mm3 = abs(float(torch.linalg.det(axes)))
        surfaces: dict[str, Any] = {}
        if self.nsd_tolerance_mm is not None:
            surfaces = {"spacing": axes.norm(dim=0).tolist(), "nsd_tolerance_mm": self.nsd_tolerance_mm}
        scores = score_case(
            pred.as_tensor()[0],
            label.as_tensor()[0].to(pred.device),
            len(self.class_names),
            output["annotated"].tolist(),
            IGNORE_INDEX,
            regions=self.regions,
            **surfaces,
        )
        self.cases.append(CaseScores(output["case"], scores, voxel_mm3 / 1000))

    def completed(self, engine: Engine, name: str) -> None:
        """Gather the cases of all ranks and of an earlier run, and add the mean Dice to the metrics of the engine.

        Every rank must call this method, because the ranks exchange their scores.

        Args:
            engine: evaluator.
            name: name under which the mean Dice is added.
        """
        self.cases = all_gather(self.cases)
        if self.records is not None:
            self.cases = sorted([*self.records.earlier_scores, *self.cases], key=lambda scored: scored.case)
        super().completed(engine, name)

    def compute(self) -> float:
        """Return the mean Dice of the cases so far; 0 if no class could be scored."""
        return self.summary()["mean_dice"] or 0.0

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json` for the cases so far, see `segbundle.results.summary.summarize`."""
        return summarize(self.cases, self.class_names, self.nsd_tolerance_mm)


class ScoreReport:
    """Handler that writes `metrics.csv` and `summary.json` after an evaluation, and prints a table of the scores.

    With several ranks, only rank 0 writes and prints. If the engine has `records`, a write error is deferred, so that
    other files are still written.

    Args:
        output_dir: output folder.
        metric: metric with the scores.

    Raises:
        OutputError: a file cannot be written, and the engine has no `records` (raised at the end of the evaluation).

    Example:
        >>> import contextlib, io, os, tempfile
        >>> engine = Engine(lambda engine, batch: None)
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     ScoreReport(folder, MeanDice(["background", "liver"])).attach(engine)
        ...     _ = engine.run([0])
        ...     written = sorted(os.listdir(folder))
        >>> written
        ['metrics.csv', 'summary.json']
    """

    def __init__(self, output_dir: str, metric: MeanDice) -> None:
        self.output_dir = output_dir
        self.metric = metric

    def attach(self, engine: Engine) -> None:
        """Attach the handler to the evaluator.

        Args:
            engine: evaluator to which `metric` is attached.
        """
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        if rank() > 0:
            return
        metric, records = self.metric, getattr(engine, "records", None)
        summary: dict[str, Any] | None = None
        with (
            nullcontext()
            if records is None
            else records.unwritten.defer_error(f"{run_files.METRICS} or {run_files.SUMMARY}")
        ):
            summary = write_scores(self.output_dir, metric.cases, metric.class_names, metric.nsd_tolerance_mm)
        print_summary(summary or metric.summary(), f"{len(metric.cases)} cases, Dice per class")
        if summary is not None:
            _logger.info("scores: %s/metrics.csv, %s/summary.json", self.output_dir, self.output_dir)
