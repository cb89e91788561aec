"""Loading, preprocessing, augmentation, and the way back to a scan's own geometry."""

from segbundle.transforms.augmentation import training_transforms
from segbundle.transforms.loading import LoadScand
from segbundle.transforms.preprocessing import preprocessing
from segbundle.transforms.restoring import RestoreLabelsd, SaveLabelsd, postprocessing

__all__ = [
    "LoadScand",
    "RestoreLabelsd",
    "SaveLabelsd",
    "postprocessing",
    "preprocessing",
    "training_transforms",
]
