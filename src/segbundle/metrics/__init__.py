"""Per-class scores of one case. Knows tensors only."""

from segbundle.metrics.dice import ClassScore, Status, per_class_dice, score_case

__all__ = ["ClassScore", "Status", "per_class_dice", "score_case"]
