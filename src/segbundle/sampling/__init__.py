"""Load batches of random patches for training, with deformation and intensity augmentation."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
