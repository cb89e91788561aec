"""Atomic file output, safe reading of JSON and YAML, and records of the files in output folders."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
