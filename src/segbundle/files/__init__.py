"""Atomic writing of files, reading of documents within limits, and records of written files."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
