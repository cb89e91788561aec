"""Scores per class of the cases that pass an evaluator, in each scan's own geometry."""

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

from segbundle.classes import IGNORE_INDEX, Classes
from segbundle.config.values import nsd_tolerances
from segbundle.distributed import all_gather, rank
from segbundle.files import run_files
from segbundle.inference.scan_records import ScanRecords
from segbundle.metrics import score_case
from segbundle.results.scores import CaseScores, print_summary, summarize, write_scores

_logger = logging.getLogger(__name__)


def is_better(current: float, best: float) -> bool:
    """Whether the weights of a validation are kept instead of the best ones so far.

    A higher score is better. Where scores say nothing (0 as before, or NaN) the newer weights are.
    """
    if math.isnan(current) or math.isnan(best):
        return math.isnan(best) or best == 0
    return current > best or current == best == 0


class MeanDice(Metric):
    """Mean Dice over classes as `summary.json` defines it; keeps each case's scores in `cases`.

    Reads label maps `pred` and `label` (1, X, Y, Z) from the engine's output, and `case` and `annotated` from its
    batch, and adds a case's `scores` to its output. Zero where no class of no case could be scored, so that engines
    can compare it.

    Args:
        class_names: the task's classes, the background first.
        nsd_tolerance_mm: also measure surfaces and count components, with this tolerance (see `nsd_tolerances`).
        records: of an evaluation; scores of the cases that an earlier run finished are counted, too.

    Raises:
        ConfigError: see `nsd_tolerances`.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        nsd_tolerance_mm: float | Mapping[str, float] | None = None,
        records: ScanRecords | None = None,
    ) -> None:
        self.class_names = Classes(class_names).names
        self.nsd_tolerance_mm = nsd_tolerances(nsd_tolerance_mm, self.class_names)
        self.records = records
        self.cases: list[CaseScores] = []
        super().__init__()

    def reset(self) -> None:
        """Forget the cases of an earlier run."""
        self.cases = []

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases that the engine has just predicted."""
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            self.update({**item, **output})
            output["scores"] = self.cases[-1]

    def update(self, output: dict[str, Any]) -> None:
        """Score one case."""
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
            **surfaces,
        )
        self.cases.append(CaseScores(output["case"], scores, voxel_mm3 / 1000))

    def completed(self, engine: Engine, name: str) -> None:
        """Collect the cases of all processes and of an earlier run, and put the mean into the engine's state."""
        self.cases = all_gather(self.cases)
        if self.records is not None:
            self.cases = sorted([*self.records.earlier_scores, *self.cases], key=lambda scored: scored.case)
        super().completed(engine, name)

    def compute(self) -> float:
        """The mean Dice over the cases so far."""
        return self.summary()["mean_dice"] or 0.0

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json` for the cases so far."""
        return summarize(self.cases, self.class_names, self.nsd_tolerance_mm)


class ScoreReport:
    """When an evaluation ends, writes `metrics.csv` and `summary.json` and prints a table with a row per class.

    Args:
        output_dir: where the files go.
        metric: holds the scores.
    """

    def __init__(self, output_dir: str, metric: MeanDice) -> None:
        self.output_dir = output_dir
        self.metric = metric

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        if rank() > 0:
            return
        metric, records = self.metric, getattr(engine, "records", None)
        summary: dict[str, Any] | None = None
        with (
            nullcontext()
            if records is None
            else records.unwritten.promised(f"{run_files.METRICS} or {run_files.SUMMARY}")
        ):
            summary = write_scores(self.output_dir, metric.cases, metric.class_names, metric.nsd_tolerance_mm)
        print_summary(summary or metric.summary(), f"{len(metric.cases)} cases, Dice per class")
        if summary is not None:
            _logger.info("scores: %s/metrics.csv, %s/summary.json", self.output_dir, self.output_dir)
