"""Load a case, resample it to the network's grid, and restore labels to the scan's grid."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
