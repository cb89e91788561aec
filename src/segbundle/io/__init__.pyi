from .scan_writing import write_scan
from .scans import Geometry, Scan, read_geometry, read_scan, write_segmentation

__all__ = ["Geometry", "Scan", "read_geometry", "read_scan", "write_scan", "write_segmentation"]
