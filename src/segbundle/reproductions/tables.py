"""Tables that reproductions return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Table of formatted text.

    Attributes:
        title: title of the table.
        columns: headings.
        rows: cells with their final digits and units.

    Example:
        >>> print(Table("Losses", ["loss", "Dice"], [["DiceLoss", "0.93"]]).markdown())
        Losses
        <BLANKLINE>
        | loss | Dice |
        | --- | --- |
        | DiceLoss | 0.93 |
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown, with its title as a paragraph above."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
