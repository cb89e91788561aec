"""Hashes of values and files, by which results and inputs are recognized."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK = 2**22
_END = 2**18
_DIGITS = 12


def new_digest() -> Any:
    """Return an empty SHA-256 digest, to be passed to the functions below."""
    return hashlib.sha256()


def shortened(digest: Any) -> str:
    """Return the first twelve hexadecimal digits of a digest."""
    return str(digest.hexdigest()[:_DIGITS])


def hash_values(values: Any) -> str:
    """Return twelve hexadecimal digits that change with JSON values, and not with the order of keys.

    Example:
        >>> hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1})
        True
    """
    digest = new_digest()
    digest.update(json.dumps(values, sort_keys=True, allow_nan=True).encode())
    return shortened(digest)


def hash_file(path: Path) -> str:
    """Return twelve hexadecimal digits that change with the contents of a file.

    Raises:
        OSError: the file cannot be read.
    """
    digest = new_digest()
    add_contents(digest, path)
    return shortened(digest)


def add_contents(digest: Any, path: Path) -> None:
    """Add size and contents of a file to a digest.

    Raises:
        OSError: the file cannot be read.
    """
    digest.update(str(path.stat().st_size).encode())
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)


def add_ends(digest: Any, path: Path) -> None:
    """Add size, first and last 256 KB of a file to a digest; nothing for a missing file.

    This is fast for files of any size. The ends of gzip files and checkpoints hold checksums of their contents.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest.update(str(size).encode() + stream.read(_END))
        stream.seek(max(size - _END, 0))
        digest.update(stream.read(_END))


def ends_tell_all(path: Path, size: int) -> bool:
    """Return whether `add_ends` covers all of the contents of a file: directly, or by a checksum."""
    return size <= 2 * _END or path.name.lower().endswith((".gz", ".pt"))
