"""Speed up PyTorch with rewritten networks, CUDA graphs, process settings and lazy imports."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
