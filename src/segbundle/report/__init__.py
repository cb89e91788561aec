"""HTML reports of runs: scores, comparisons of runs, and predictions without references."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
