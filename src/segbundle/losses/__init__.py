"""Losses that stay right when classes are absent, were not annotated, or voxels are unknown."""

from segbundle.losses.combined import DiceCELoss, GeneralizedDiceCELoss
from segbundle.losses.dice import DiceLoss, GeneralizedDiceLoss
from segbundle.losses.ramp import LinearRamp

__all__ = ["DiceCELoss", "DiceLoss", "GeneralizedDiceCELoss", "GeneralizedDiceLoss", "LinearRamp"]
