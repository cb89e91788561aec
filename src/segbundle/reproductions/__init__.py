"""Reproductions of public questions about Dice losses that do not train, each with an explanation and a solution."""

from segbundle.reproductions.runner import reproduce, titles
from segbundle.reproductions.tables import Table

__all__ = ["Table", "reproduce", "titles"]
