"""Public questions about Dice losses that fail: each reproduced as it was posted, and answered with figures."""

from segbundle.reproductions.runner import reproduce, titles
from segbundle.reproductions.tables import Table

__all__ = ["Table", "reproduce", "titles"]
