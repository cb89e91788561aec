"""Files of a run: metrics.csv, summary.json, run.json and the records of a batch."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
