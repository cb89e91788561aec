from .combined import DiceCELoss, GeneralizedDiceCELoss
from .dice import DiceLoss, GeneralizedDiceLoss
from .ramp import LinearRamp

__all__ = ["DiceCELoss", "DiceLoss", "GeneralizedDiceCELoss", "GeneralizedDiceLoss", "LinearRamp"]
