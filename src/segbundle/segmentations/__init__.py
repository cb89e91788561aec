"""Write label maps with names, colors and codes of the classes, in the formats of other programs."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
