"""Files that a run promised and could not write: the rest of the run is done, and then it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from segbundle.errors import OutputError, describe

_logger = logging.getLogger(__name__)


class UnwrittenFiles:
    """Collects files that could not be written, and why."""

    def __init__(self) -> None:
        self._files: list[str] = []

    @contextmanager
    def promised(self, name: str) -> Iterator[None]:
        """Remember an error of the block instead of raising it.

        Args:
            name: of the file that the block writes.
        """
        try:
            yield
        except Exception as error:
            self._files.append(f"{name} ({describe(error).rstrip('.')})")
            _logger.error("%s was not written: %s", name, describe(error))
            _logger.debug("%s", name, exc_info=True)

    @property
    def message(self) -> str:
        """The end of an error message that names the files; empty if there are none."""
        return f"Not written: {'; '.join(self._files)}." if self._files else ""

    def raise_error(self) -> None:
        """Raise an error if there are files that could not be written.

        Raises:
            OutputError: naming them.
        """
        if self._files:
            raise OutputError(self.message)
