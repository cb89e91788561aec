"""Which files are scans, what a scan is called, and which files belong to one; nothing of their voxels is read."""

from __future__ import annotations

import glob
import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""File name endings that `read_scan` knows. A folder that holds DICOM files is a scan as well."""
_HEADER_KEYS = {
    ".mhd": re.compile(r"ElementDataFile\s*=", re.IGNORECASE),
    ".nhdr": re.compile(r"data ?file\s*:", re.IGNORECASE),
}
"""After which a header names the files with its voxels."""


def stem(path: str | Path) -> str:
    """File name without the ending of a scan format: `a/case.01.nii.gz` gives `case.01`."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_scan_file(path: Path) -> bool:
    """Whether the name ends like a scan format that can be read; hidden files never do."""
    return not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries DICOM's mark, `DICM` after 128 bytes (PS3.10), or begins with DICOM's first elements."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _begins_with_elements(head)


def _begins_with_elements(head: bytes) -> bool:
    """Whether a file without that mark begins with an element of group 2 or 8, as old archives write them."""
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 256


def is_dicom_folder(path: Path) -> bool:
    """Whether a folder directly holds DICOM images; the index file of an exported medium (DICOMDIR) is none."""
    if not path.is_dir():
        return False
    return any(is_dicom_file(file) for file in sorted(path.iterdir()) if file.is_file() and file.name != "DICOMDIR")


def files_of(path: str | Path) -> list[Path]:
    """The files that hold a scan: one, a DICOM folder's, or a header (.mhd, .nhdr) and the data that it names."""
    path = Path(path)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.suffix.lower() not in _HEADER_KEYS or not path.is_file():
        return [path]
    header = path.read_text(encoding="latin-1").splitlines()
    key = _HEADER_KEYS[path.suffix.lower()]
    found = [number for number, line in enumerate(header) if key.match(line)]
    names = [key.sub("", header[number]).strip() for number in found]
    if names and names[0].upper().startswith("LIST"):
        names = [line.strip() for line in header[found[0] + 1 :]]
    return [path, *(file for name in names if name for file in _named(path.parent, name) if file.is_file())]


def _named(folder: Path, name: str) -> list[Path]:
    """What a header calls `name`: a file, or numbered ones, as in `slice%03d.raw 1 40 1`."""
    start, numbered, _ = name.partition("%")
    return sorted(folder.glob(f"{glob.escape(start)}*")) if numbered else [folder / name]


def is_nifti(path: Path) -> bool:
    """Whether a path is read by nibabel."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)
