"""Progress of long loops: a progress bar on a terminal, otherwise occasional lines in the log.

This module also formats text for terminals: durations, and escapes for unprintable characters.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can show progress bars.

    Example:
        >>> is_terminal() in (True, False)
        True
    """
    return sys.stderr is not None and sys.stderr.isatty()


def escaped(text: str | Path) -> str:
    r"""Replace unprintable characters of a text, such as line breaks and bytes that are not UTF-8, by escapes.

    Args:
        text: text or path.

    Example:
        >>> escaped("gr\udcf6sse.nii")
        'gr\\udcf6sse.nii'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def duration(seconds: float) -> str:
    """Return a duration as text with a suitable unit.

    Args:
        seconds: duration in seconds.

    Example:
        >>> duration(12.34), duration(300), duration(9000)
        ('12.3 s', '5.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class LineLimit:
    """Rate limit of progress lines: the first lines pass, and later lines only at intervals.

    Args:
        free: number of first lines that are exempt from the limit.
        begun: start time of the loop in seconds, on the same clock as the argument of `passes`.
        seconds: minimum time between later lines in seconds (default 10).

    Example:
        >>> limit = LineLimit(free=1, begun=0.0)
        >>> limit.passes(1.0), limit.passes(2.0), limit.passes(12.0)
        (True, False, True)
    """

    def __init__(self, free: int, begun: float, seconds: float = 10.0) -> None:
        self._free = free
        self._last = begun
        self._seconds = seconds

    def passes(self, now: float) -> bool:
        """Return whether a line may be written now. If so, the line is counted as written.

        Args:
            now: current time in seconds.
        """
        if self._free <= 0 and now - self._last < self._seconds:
            return False
        self._free, self._last = self._free - 1, now
        return True


def counted(
    items: Iterable[_T],
    total: int,
    description: str,
    unit: str,
    leave: bool = True,
    free_lines: int = 0,
    delay: float = 0.0,
) -> Iterator[_T]:
    """Yield items, and show the progress: a bar on a terminal, otherwise a line at most every 10 seconds.

    Args:
        items: items of the loop.
        total: number of items.
        description: name of the loop, such as `checking`.
        unit: name of an item, such as `case`.
        leave: whether the finished bar stays on the terminal (default True).
        free_lines: number of first lines that are exempt from the rate limit, if stderr is not a terminal (default 0).
        delay: seconds before the bar appears on a terminal (default 0).

    Example:
        >>> list(counted("ab", total=2, description="checking", unit="case"))
        ['a', 'b']
    """
    from tqdm import tqdm

    if is_terminal():
        yield from tqdm(items, desc=description, unit=unit, total=total, leave=leave, delay=delay)
        return
    limit = LineLimit(free_lines, begun=time.monotonic())
    for done, item in enumerate(items, 1):
        yield item
        if limit.passes(time.monotonic()):
            say(f"{description}: {done} of {total}")


def say(line: str) -> None:
    """Write a line to the log, or to stderr if the log level would hide it.

    Args:
        line: text without a line break.

    Example:
        >>> say("checking: 5 of 20")
    """
    if _logger.isEnabledFor(logging.INFO):
        _logger.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)


def readable(text: str) -> str:
    r"""Replace bytes of a text that are not UTF-8 by escapes such as `\udcff`, so that the text can be encoded.

    Args:
        text: text with surrogate escapes, for instance a file name.

    Example:
        >>> print(readable(b"a\xff.nii".decode("utf-8", "surrogateescape")))
        a\udcff.nii
    """
    return text.encode("utf-8", "backslashreplace").decode()
