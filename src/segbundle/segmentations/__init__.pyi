from .class_entries import ClassEntry, class_table, colors_of
from .formats import check_output_format, write_label_maps

__all__ = ["ClassEntry", "check_output_format", "class_table", "colors_of", "write_label_maps"]
