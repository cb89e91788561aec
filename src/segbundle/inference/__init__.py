"""Segment scans one by one: sliding-window inference, saving, records and scores."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
