"""Loading, preprocessing, augmentation, and restoring predictions to the geometry of the scan."""

from segbundle.transforms.after_network import LargestComponentd, RestoreLabelsd, SaveLabelsd, postprocessing
from segbundle.transforms.augmentation import training_transforms
from segbundle.transforms.before_network import preprocessing
from segbundle.transforms.loading import LoadScand
from segbundle.transforms.preparing import PrepareCase
from segbundle.transforms.restoring import restore_labels

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
