"""List the cases of a dataset, split them into folds, check them, and generate synthetic scans."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
