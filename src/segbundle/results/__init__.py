"""Result files of runs: metrics.csv, summary.json, run.json and predictions.json."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
