"""Progress of long loops: a bar on a terminal, elsewhere lines in the log, and not too many of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


def is_terminal() -> bool:
    """Return whether progress bars can be seen."""
    return sys.stderr is not None and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Return a time for people.

    Example:
        >>> duration(12.34), duration(300), duration(9000)
        ('12.3 s', '5.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class LineLimit:
    """A limit for lines of progress: the first ones pass, later ones at intervals.

    Args:
        free: number of lines that pass at once.
        begun: time in seconds when the loop began.
        seconds: interval of the others.
    """

    def __init__(self, free: int, begun: float, seconds: float = 10.0) -> None:
        self._free = free
        self._last = begun
        self._seconds = seconds

    def passes(self, now: float) -> bool:
        """Return whether a line may be written.

        Args:
            now: a time in seconds.
        """
        if self._free <= 0 and now - self._last < self._seconds:
            return False
        self._free, self._last = self._free - 1, now
        return True


def counted(
    items: Iterable[_T], total: int, description: str, unit: str, leave: bool = True, free_lines: int = 0
) -> Iterator[_T]:
    """Yield items and show how many are done.

    Args:
        items: of the loop.
        total: how many there are.
        description: what is done with them.
        unit: name of an item.
        leave: whether the full bar stays on the terminal.
        free_lines: without a terminal, number of lines before they get rare.
    """
    from tqdm import tqdm

    if is_terminal():
        yield from tqdm(items, desc=description, unit=unit, total=total, leave=leave)
        return
    limit = LineLimit(free_lines, begun=time.monotonic())
    for done, item in enumerate(items, 1):
        yield item
        if limit.passes(time.monotonic()):
            say(f"{description}: {done} of {total}")


def say(line: str) -> None:
    """Write a line to the log, or to stderr where nothing is logged."""
    if _logger.isEnabledFor(logging.INFO):
        _logger.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)
