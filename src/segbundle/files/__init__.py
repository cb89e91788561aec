"""Write files atomically, read documents within limits, and record what a run wrote."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
