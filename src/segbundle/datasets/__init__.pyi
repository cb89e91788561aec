from .case import Case
from .cases import load_cases
from .datalist import labeled_data
from .finding import find_scans
from .folds import fold_names

__all__ = ["Case", "find_scans", "fold_names", "labeled_data", "load_cases"]
