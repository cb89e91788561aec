from .case_scores import ClassScore, Status, per_class_dice, score_case
from .surfaces import SurfaceScore, surface_scores

__all__ = ["ClassScore", "Status", "SurfaceScore", "per_class_dice", "score_case", "surface_scores"]
