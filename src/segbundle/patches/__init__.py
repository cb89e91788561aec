"""What a training sees of its cases: patches, deformed and degraded at random, as batches on the training's device."""

from segbundle.patches.augmentation import Augmentation, Change
from segbundle.patches.cutting import cut
from segbundle.patches.degrading import degrade
from segbundle.patches.loader import PatchLoader

__all__ = ["Augmentation", "Change", "PatchLoader", "cut", "degrade"]
