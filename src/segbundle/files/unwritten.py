"""Deferred errors of files that could not be written: the run continues and fails at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from segbundle.errors import OutputError, describe

_logger = logging.getLogger(__name__)


class UnwrittenFiles:
    """Collection of files that could not be written, with the reasons.

    Example:
        >>> unwritten = UnwrittenFiles()
        >>> with unwritten.defer_error("report.html"):
        ...     raise OSError("disk full")
        >>> unwritten.message
        'Not written: report.html (disk full).'
    """

    def __init__(self) -> None:
        self._files: list[str] = []

    @contextmanager
    def defer_error(self, name: str) -> Iterator[None]:
        """Log and store an error that is raised in the `with` block, instead of raising it.

        Args:
            name: name of the file that the block writes.
        """
        try:
            yield
        except Exception as error:
            self._files.append(f"{name} ({describe(error).rstrip('.')})")
            _logger.error("%s was not written: %s", name, describe(error))
            _logger.debug("%s", name, exc_info=True)

    @property
    def message(self) -> str:
        """Error message with the names of the files; empty if all files were written."""
        return f"Not written: {'; '.join(self._files)}." if self._files else ""

    def raise_error(self) -> None:
        """Raise an error if any file could not be written.

        Raises:
            OutputError: a file could not be written. The message contains the names of the files and the reasons.
        """
        if self._files:
            raise OutputError(self.message)
