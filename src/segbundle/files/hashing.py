"""Hashes of values and files that identify inputs and results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK = 2**22
END = 2**18
"""Number of bytes that `file_ends` reads from either end of a file."""
_DIGITS = 12


def shortened(digest: Any) -> str:
    """Return the first 12 hexadecimal digits of a digest.

    Args:
        digest: hash object, such as `hashlib.sha256()`.

    Example:
        >>> shortened(hashlib.sha256())
        'e3b0c44298fc'
    """
    return str(digest.hexdigest()[:_DIGITS])


def hash_values(values: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 digest of JSON values, regardless of the order of keys.

    Args:
        values: JSON values; NaN and infinity are allowed.

    Example:
        >>> hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1})
        True
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(values, sort_keys=True, allow_nan=True).encode())
    return shortened(digest)


def hash_file(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 digest of the size and the content of a file.

    Args:
        path: path of the file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.txt"
        ...     _ = path.write_text("a")
        ...     len(hash_file(path))
        12
    """
    digest = hashlib.sha256()
    add_contents(digest, path)
    return shortened(digest)


def add_contents(digest: Any, path: Path) -> None:
    """Add the size and the content of a file to a digest.

    Args:
        digest: hash object to update, such as `hashlib.sha256()`.
        path: path of the file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> digest = hashlib.sha256()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.txt"
        ...     _ = path.write_text("a")
        ...     add_contents(digest, path)
        ...     shortened(digest) == hash_file(path)
        True
    """
    digest.update(str(path.stat().st_size).encode())
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)


def file_ends(path: Path) -> bytes:
    """Return the size, the first 256 KiB and the last 256 KiB of a file as bytes, to be hashed.

    This is fast for files of any size. The last bytes of gzip files and checkpoints contain checksums of the whole
    file. In files below 512 KiB, the two parts overlap. The result is empty for a missing file.

    Args:
        path: path of the file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> file_ends(Path("/nowhere/model.pt"))
        b''
    """
    if not path.is_file():
        return b""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(END)
        stream.seek(max(size - END, 0))
        return str(size).encode() + first + stream.read(END)
