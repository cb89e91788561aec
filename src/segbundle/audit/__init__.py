"""Find what could run code in a configuration or bundle from someone else, before anything in it is imported."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
