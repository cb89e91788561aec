from .augmentation import Augmentation, Change
from .cropping import cut
from .degradation import degrade
from .loader import PatchLoader

__all__ = ["Augmentation", "Change", "PatchLoader", "cut", "degrade"]
