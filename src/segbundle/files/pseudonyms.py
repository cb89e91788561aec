"""Pseudonyms of cases: hashes with a random salt, which stays in the output folder."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from pathlib import Path

from segbundle.errors import OutputError
from segbundle.files.atomic import make_folder

SALT = ".segbundle-salt"
"""File with the salt of an output folder."""
PSEUDONYM = re.compile(r"case_[0-9a-f]{12}")
_NUM_BYTES = 32
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_SECONDS = 5.0
"""Time in which another process writes a salt that it has created."""


class Pseudonyms:
    """Pseudonyms with the salt of an output folder. The same text has the same pseudonym in every run in the folder.

    Without the salt, a pseudonym cannot be traced to its text. With the salt, anyone can check a guess, so delete the
    file `.segbundle-salt` before passing a folder on.

    Args:
        folder: output folder. The folder and its salt are created if missing.

    Raises:
        OutputError: the salt cannot be read or written, or is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first, again = Pseudonyms(folder), Pseudonyms(folder)
        ...     first.of("/data/ct.nii") == again.of("/data/ct.nii"), len(first.of("/data/ct.nii"))
        (True, 17)
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / SALT
        self._salt = self._read_or_create()

    def of(self, text: str) -> str:
        """Return the pseudonym of a text, such as `case_0f3a5be1c2d4`.

        Args:
            text: identity of the case, such as the path of its scan.
        """
        return f"case_{self.digest(text)[:12]}"

    def digest(self, text: str) -> str:
        """Return a salted hash of a text as 64 hexadecimal digits.

        Args:
            text: any text.
        """
        return hmac.digest(self._salt, text.encode("utf-8", "surrogateescape"), "sha256").hex()

    def _read_or_create(self) -> bytes:
        try:
            make_folder(self._path.parent)
            try:
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            except FileExistsError:
                return self._read()
            with os.fdopen(file, "wb") as created:
                created.write(salt := secrets.token_bytes(_NUM_BYTES))
            return salt
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be read or written ({error.strerror}). Choose another --output_dir."
            ) from error

    def _read(self) -> bytes:
        end = time.monotonic() + _SECONDS
        while True:
            with os.fdopen(os.open(self._path, os.O_RDONLY | _FLAGS), "rb") as file:
                salt = file.read(_NUM_BYTES + 1)
            if len(salt) == _NUM_BYTES:
                return salt
            if salt or time.monotonic() > end:
                raise OutputError(
                    f"{self._path}: is damaged; the salt of pseudonyms has {_NUM_BYTES} bytes. Restore it, move it "
                    "away (cases then get new pseudonyms), or choose another --output_dir."
                )
            time.sleep(0.1)
