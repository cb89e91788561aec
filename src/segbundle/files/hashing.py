"""Hashes of values and files that identify inputs and results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK = 2**22
_END = 2**18
_DIGITS = 12


def new_digest() -> Any:
    """Return an empty SHA-256 digest, to which `add_contents` and `add_ends` add files.

    Example:
        >>> new_digest().name
        'sha256'
    """
    return hashlib.sha256()


def shortened(digest: Any) -> str:
    """Return the first 12 hexadecimal digits of a digest.

    Args:
        digest: SHA-256 digest.

    Example:
        >>> shortened(new_digest())
        'e3b0c44298fc'
    """
    return str(digest.hexdigest()[:_DIGITS])


def hash_values(values: Any) -> str:
    """Return 12 hexadecimal digits that identify JSON values. The order of keys does not matter.

    Args:
        values: JSON values; NaN and infinity are allowed.

    Example:
        >>> hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1})
        True
    """
    digest = new_digest()
    digest.update(json.dumps(values, sort_keys=True, allow_nan=True).encode())
    return shortened(digest)


def hash_file(path: Path) -> str:
    """Return 12 hexadecimal digits that identify the content of a file.

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
    digest = new_digest()
    add_contents(digest, path)
    return shortened(digest)


def add_contents(digest: Any, path: Path) -> None:
    """Add the size and the content of a file to a digest.

    Args:
        digest: SHA-256 digest; it is updated.
        path: path of the file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> digest = new_digest()
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


def add_ends(digest: Any, path: Path) -> None:
    """Add the size, the first 256 KiB and the last 256 KiB of a file to a digest.

    This is fast for files of any size. The last bytes of gzip files and checkpoints contain checksums of the whole
    file. A missing file is ignored.

    Args:
        digest: SHA-256 digest; it is updated.
        path: path of the file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> digest = new_digest()
        >>> add_ends(digest, Path("/nowhere/model.pt"))
        >>> shortened(digest) == shortened(new_digest())
        True
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest.update(str(size).encode() + stream.read(_END))
        stream.seek(max(size - _END, 0))
        digest.update(stream.read(_END))


def ends_identify_file(path: Path, size: int) -> bool:
    """Return whether `add_ends` covers the whole content of a file, directly or by a checksum.

    Args:
        path: path of the file.
        size: size of the file in bytes.

    Example:
        >>> ends_identify_file(Path("ct.nii.gz"), 10**9), ends_identify_file(Path("ct.nii"), 10**9)
        (True, False)
    """
    return size <= 2 * _END or path.name.lower().endswith((".gz", ".pt"))
