"""Dice losses that handle absent classes, unannotated classes and unknown voxels."""

from segbundle.losses.combined import DiceCELoss, GeneralizedDiceCELoss
from segbundle.losses.dice import DiceLoss, GeneralizedDiceLoss
from segbundle.losses.ramp import LinearRamp

__all__ = ["DiceCELoss", "DiceLoss", "GeneralizedDiceCELoss", "GeneralizedDiceLoss", "LinearRamp"]
