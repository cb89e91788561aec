from .runner import reproduce, titles
from .tables import Table

__all__ = ["Table", "reproduce", "titles"]
