"""File names of scans and label maps, and the files that belong to one; no voxels are read."""

from __future__ import annotations

import glob
import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_PAIRS = {".hdr": ".img", ".hdr.gz": ".img.gz"}
"""Endings of NIfTI and Analyze headers, and of the files with their voxels."""
_NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, *_PAIRS, ".mgz", ".mgh")
SUFFIXES = (*_NIBABEL_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""File name endings that `read_scan` knows. A folder that holds DICOM files is a scan as well."""
_HEADER_KEYS = {
    ".mhd": re.compile(r"ElementDataFile\s*=", re.IGNORECASE),
    ".nhdr": re.compile(r"data ?file\s*:", re.IGNORECASE),
}
"""After which a header names the files with its voxels."""
_HEADER_BYTES = 1_000_000
_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
"""Endings of 3D Slicer's segmentations, which are label maps and never scans."""
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")


def stem(path: str | Path) -> str:
    """File name without the ending of a scan format: `a/case.01.nii.gz` gives `case.01`."""
    name = (path if isinstance(path, Path) else Path(path)).name
    for suffix in (*SUFFIXES, *_PAIRS.values()):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def label_stem(path: str | Path) -> str:
    """Return the name of the case that a label map belongs to: its `stem`, without 3D Slicer's `.seg`.

    Example:
        >>> label_stem("labelsTr/case.seg.nrrd")
        'case'
    """
    name = stem(path)
    return name[: -len(".seg")] if is_segmentation(str(path)) else name


def is_segmentation(name: str) -> bool:
    """Return whether a file name is that of a segmentation of 3D Slicer."""
    return name.lower().endswith(_SEGMENTATIONS)


def is_scan_file(path: Path) -> bool:
    """Return whether the name ends like a scan format that can be read; hidden files never do."""
    return not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)


def may_be_slice(name: str) -> bool:
    """Return whether a file name is one that DICOM files have: `.dcm`, no ending, or a UID."""
    ending = Path(name).suffix.lower()
    return ending in DICOM_SUFFIXES or ending == "" or ending[1:].isdigit()


def is_uid(name: str) -> bool:
    """Return whether a name is a DICOM UID, with the modality before it or not.

    Example:
        >>> is_uid("MR.1.2.840.113619.2"), is_uid("patient.1"), is_uid("2024.05.01")
        (True, False, False)
    """
    return re.fullmatch(r"([A-Z]{2}\.)?\d+(\.\d+){3,}", name) is not None


def is_dicom_file(path: Path) -> bool:
    """Return whether a file is DICOM; what is no regular file, such as a named pipe, or cannot be read is not."""
    try:
        return path.is_file() and holds_dicom(path)
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """Return whether a file carries DICOM's mark, `DICM` after 128 bytes (PS3.10), or begins with its first elements.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or _begins_with_elements(head)


def _begins_with_elements(head: bytes) -> bool:
    """Whether a file without that mark begins with an element of group 2 or 8, as old archives write them."""
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 256


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder directly holds DICOM files; the index of an exported medium (DICOMDIR) is none."""
    if not path.is_dir():
        return False
    files = (file for file in _visible_files(path) if file.name != "DICOMDIR")
    return any(is_dicom_file(file) for file in files)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())


def files_of(path: str | Path) -> list[Path]:
    """Return the files of a scan: one, a DICOM series, or a header (.hdr, .mhd, .nhdr) and the data that it names.

    Of what cannot be read, that is the path itself.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _visible_files(path)
        if is_dicom_file(path):
            from segbundle.data.dicom import series_files

            return series_files(path)
        return [path, *(file for file in data_files(path) if file.is_file())]
    except (OSError, ValueError):  # which a DataError is
        return [path]


def data_files(header: Path) -> list[Path]:
    """Return the files with the voxels of a scan that a header of its own describes, whether they exist or not."""
    for suffix, voxels in _PAIRS.items():
        if header.name.lower().endswith(suffix):
            start, ending = header.name[: -len(suffix)], header.name[-len(suffix) :]
            return [header.with_name(start + (voxels.upper() if ending.isupper() else voxels))]
    if header.suffix.lower() not in _HEADER_KEYS or not header.is_file():
        return []
    with header.open(encoding="latin-1") as file:
        lines = file.read(_HEADER_BYTES).splitlines()
    key = _HEADER_KEYS[header.suffix.lower()]
    found = [number for number, line in enumerate(lines) if key.match(line)]
    names = [key.sub("", lines[number]).strip() for number in found]
    if names and names[0].upper().startswith("LIST"):
        names = [line.strip() for line in lines[found[0] + 1 :]]
    return [file for name in names if name and name.upper() != "LOCAL" for file in _named(header.parent, name)]


def missing_header(path: Path) -> Path | None:
    """Return the header that a file of voxels named `x.img` needs, if that does not exist."""
    for suffix, voxels in _PAIRS.items():
        if path.name.lower().endswith(voxels):
            start, ending = path.name[: -len(voxels)], path.name[-len(voxels) :]
            header = path.with_name(start + (suffix.upper() if ending.isupper() else suffix))
            return None if header.exists() else header
    return None


def _named(folder: Path, name: str) -> list[Path]:
    """Return the files that a header calls `name`: one, or numbered ones, as in `slice%03d.raw 1 40 1`."""
    start, numbered, _ = name.partition("%")
    path = folder / start
    if not numbered:
        return [path]
    try:
        return sorted(path.parent.glob(f"{glob.escape(path.name)}*"))
    except (OSError, ValueError):  # no folder, or a name that no file can have
        return []


def is_nifti(path: Path) -> bool:
    """Whether a path is read by nibabel; `.img` is the other half of a `.hdr`."""
    return path.name.lower().endswith((*_NIBABEL_SUFFIXES, *_PAIRS.values()))
