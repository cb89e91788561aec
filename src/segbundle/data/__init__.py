"""Datasets and scan files: cases, folds, image input and output, checks, and synthetic phantoms."""

from segbundle.data.case import Case
from segbundle.data.cases import load_cases
from segbundle.data.datalist import labelled_data
from segbundle.data.finding import find_scans
from segbundle.data.folds import fold_names
from segbundle.data.scans import Geometry, Scan, read_geometry, read_scan, write_segmentation

__all__ = [
    "Case",
    "Geometry",
    "Scan",
    "find_scans",
    "fold_names",
    "labelled_data",
    "load_cases",
    "read_geometry",
    "read_scan",
    "write_segmentation",
]
