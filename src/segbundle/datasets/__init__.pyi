from .case import Case
from .cases import load_cases
from .datalist import labeled_data
from .dicom_import import import_dataset
from .finding import find_scans
from .folds import fold_names

__all__ = ["Case", "find_scans", "fold_names", "import_dataset", "labeled_data", "load_cases"]
