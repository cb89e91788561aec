"""Read scans and label maps in all supported formats, and write label maps as NIfTI."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
