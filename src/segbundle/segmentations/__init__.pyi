from .class_entries import ClassEntry, class_table, colors_of

__all__ = ["ClassEntry", "class_table", "colors_of"]
