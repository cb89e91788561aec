"""Static inspection of third-party configurations and bundles for code, before anything in them is imported."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
