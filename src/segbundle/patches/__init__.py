"""Random patches for training: cropping and augmentation on the training device, in batches."""

from segbundle.patches.augmentation import Augmentation, Change
from segbundle.patches.cutting import cut
from segbundle.patches.degrading import degrade
from segbundle.patches.loader import PatchLoader

__all__ = ["Augmentation", "Change", "PatchLoader", "cut", "degrade"]
