from .api import LabelMap, Model, evaluate, load_model, predict, train
from .inference import SlidingWindowInferer
from .io import read_scan
from .losses import DiceCELoss, DiceLoss, GeneralizedDiceCELoss, GeneralizedDiceLoss
from .metrics import per_class_dice

__all__ = [
    "DiceCELoss",
    "DiceLoss",
    "GeneralizedDiceCELoss",
    "GeneralizedDiceLoss",
    "LabelMap",
    "Model",
    "SlidingWindowInferer",
    "evaluate",
    "load_model",
    "per_class_dice",
    "predict",
    "read_scan",
    "train",
]

__version__: str
