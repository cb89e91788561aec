"""Viewer of scans, references and predictions in a browser, served to this machine only."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
