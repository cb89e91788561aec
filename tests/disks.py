"""Full file systems for tests."""

from __future__ import annotations

import os
from pathlib import Path


def fill(disk: Path, left: int) -> None:
    """Write a file `filler` that leaves `left` bytes of a disk free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(bytes(max(0, free - left)))
