from .after_network import LargestComponentd, RestoreLabelsd, SaveLabelsd, postprocessing
from .before_network import LoadScand, preprocessing
from .monai_augmentation import training_transforms
from .preparing import PrepareCase
from .restoring import restore_labels

__all__ = [
    "LargestComponentd",
    "LoadScand",
    "PrepareCase",
    "RestoreLabelsd",
    "SaveLabelsd",
    "postprocessing",
    "preprocessing",
    "restore_labels",
    "training_transforms",
]
