"""Per-class scores of a case. Works on tensors only, without file access."""

from segbundle.metrics.cases import ClassScore, Status, per_class_dice, score_case
from segbundle.metrics.surfaces import SurfaceScore, surface_scores

__all__ = ["ClassScore", "Status", "SurfaceScore", "per_class_dice", "score_case", "surface_scores"]
