"""Classify the file names of scans and label maps, and list the files that form a scan. No voxels are read."""

from __future__ import annotations

import glob
import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_PAIRS = {".hdr": ".img", ".hdr.gz": ".img.gz"}
"""Suffixes of NIfTI and Analyze headers, and of their data files."""
_OWN_SUFFIXES = (*NIFTI_SUFFIXES, *_PAIRS, ".mgz", ".mgh")
SUFFIXES = (*_OWN_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""File name suffixes that `read_scan` supports. A folder with DICOM files is a scan as well."""
NIBABEL_SUFFIXES = (*_OWN_SUFFIXES, *_PAIRS.values())
"""Suffixes of NIfTI, Analyze and MGH files, including the `.img` of a `.hdr`."""
_HEADER_KEYS = {
    ".mhd": re.compile(r"ElementDataFile\s*=", re.IGNORECASE),
    ".nhdr": re.compile(r"data ?file\s*:", re.IGNORECASE),
}
"""Keys of headers that name the data files."""
_HEADER_BYTES = 1_000_000
_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
"""Suffixes of 3D Slicer segmentations. These are label maps, not images."""
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
VOLUME_SUFFIX = ".volume"
"""Suffix of the path of a DICOM volume that is neither a folder nor all images of its files."""


def stem(path: str | Path) -> str:
    """Return the file name without the suffix of a scan format.

    Args:
        path: path or name of a file.

    Example:
        >>> stem("a/case.01.nii.gz")
        'case.01'
    """
    name = (path if isinstance(path, Path) else Path(path)).name
    for suffix in (*SUFFIXES, *_PAIRS.values(), VOLUME_SUFFIX):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def label_stem(path: str | Path) -> str:
    """Return the case name of a label map: its `stem`, without the `.seg` of 3D Slicer.

    Args:
        path: path or name of a label map.

    Example:
        >>> label_stem("labelsTr/case.seg.nrrd")
        'case'
    """
    name = stem(path)
    return name[: -len(".seg")] if is_segmentation(str(path)) else name


def is_segmentation(name: str) -> bool:
    """Return whether a file has the suffix of a 3D Slicer segmentation.

    Args:
        name: name of a file.

    Example:
        >>> is_segmentation("case.seg.nrrd"), is_segmentation("case.nrrd")
        (True, False)
    """
    return name.lower().endswith(_SEGMENTATIONS)


def is_scan_file(path: Path) -> bool:
    """Return whether a file has the suffix of a supported scan format; False for hidden files.

    Args:
        path: path of a file.

    Example:
        >>> is_scan_file(Path("ct.nii.gz")), is_scan_file(Path("notes.txt"))
        (True, False)
    """
    return not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)


def may_be_slice(name: str) -> bool:
    """Return whether a file name is typical of a DICOM slice: no suffix, a numeric suffix, or one such as `.dcm`.

    Args:
        name: name of a file.

    Example:
        >>> may_be_slice("IM0001"), may_be_slice("notes.txt")
        (True, False)
    """
    ending = Path(name).suffix.lower()
    return ending in DICOM_SUFFIXES or ending == "" or ending[1:].isdigit()


def is_uid(name: str) -> bool:
    """Return whether a name is a DICOM UID, optionally after a modality such as `MR.`.

    Args:
        name: name of a file or folder.

    Example:
        >>> is_uid("MR.1.2.840.113619.2"), is_uid("patient.1"), is_uid("2024.05.01")
        (True, False, False)
    """
    return re.fullmatch(r"([A-Z]{2}\.)?\d+(\.\d+){3,}", name) is not None


def is_dicom_file(path: Path) -> bool:
    """Return whether a path is a DICOM file; False for missing, special and unreadable files.

    Args:
        path: path to check.

    Example:
        >>> is_dicom_file(Path("/nowhere/IM0001.dcm"))
        False
    """
    try:
        return path.is_file() and holds_dicom(path)
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """Return whether a file has the `DICM` prefix after 128 bytes (PS3.10) or begins with DICOM elements.

    Args:
        path: path of a file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "IM0001"
        ...     _ = path.write_bytes(bytes(128) + b"DICM")
        ...     holds_dicom(path)
        True
    """
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or _begins_with_elements(head)


def _begins_with_elements(head: bytes) -> bool:
    """Return whether a file without prefix begins with an element of group 2 or 8, as in old archives."""
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 256


def is_volume_path(path: Path) -> bool:
    """Return whether a path identifies a DICOM volume without being a file, such as `enhanced.dcm/b1000.volume`.

    See `segbundle.io.dicom_folders`.

    Args:
        path: path of a scan.

    Example:
        >>> is_volume_path(Path("/nowhere/enhanced.dcm/b1000.volume"))
        False
    """
    try:
        return path.name.endswith(VOLUME_SUFFIX) and path.parent.exists() and not path.exists()
    except OSError:
        return False


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder directly contains DICOM files, other than the index file DICOMDIR.

    Args:
        path: path of the folder.

    Raises:
        OSError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "IM0001").write_bytes(bytes(128) + b"DICM")
        ...     is_dicom_folder(Path(folder))
        True
    """
    if not path.is_dir():
        return False
    files = (file for file in _visible_files(path) if file.name != "DICOMDIR")
    return any(is_dicom_file(file) for file in files)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())


def files_of(path: str | Path) -> list[Path]:
    """Return all files that form a scan.

    For most formats, this is the file itself. For a file of a DICOM series, these are all files of the series; for a
    folder, all files in the folder except hidden files; for a header (.hdr, .mhd, .nhdr), the header and its existing
    data files.

    Args:
        path: path of a scan. If the scan cannot be read, only this path is returned.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("mr.hdr", "mr.img"):
        ...         (Path(folder) / name).touch()
        ...     [path.name for path in files_of(f"{folder}/mr.hdr")]
        ['mr.hdr', 'mr.img']
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _visible_files(path)
        if is_dicom_file(path) or is_volume_path(path):
            from segbundle.io.dicom import series_files

            return series_files(path)
        return [path, *(file for file in data_files(path) if file.is_file())]
    except (OSError, ValueError):  # DataError is a ValueError
        return [path]


def data_files(header: Path) -> list[Path]:
    """Return the data files of a separate header (.hdr, .mhd, .nhdr); an empty list for any other file.

    Data files that the header names are returned even if they do not exist.

    Args:
        header: path of a file.

    Raises:
        OSError: the header cannot be read.

    Example:
        >>> data_files(Path("mr.hdr")), data_files(Path("ct.nii.gz"))
        ([PosixPath('mr.img')], [])
    """
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
    """Return the path of the header of an `.img` or `.img.gz` file if that header is missing, else None.

    Args:
        path: path of a file.

    Example:
        >>> missing_header(Path("/nowhere/mr.img")).name, missing_header(Path("/nowhere/ct.nii"))
        ('mr.hdr', None)
    """
    for suffix, voxels in _PAIRS.items():
        if path.name.lower().endswith(voxels):
            start, ending = path.name[: -len(voxels)], path.name[-len(voxels) :]
            header = path.with_name(start + (suffix.upper() if ending.isupper() else suffix))
            return None if header.exists() else header
    return None


def _named(folder: Path, name: str) -> list[Path]:
    """Return the files that a header calls `name`: one file, or numbered files as in `slice%03d.raw 1 40 1`."""
    start, numbered, _ = name.partition("%")
    path = folder / start
    if not numbered:
        return [path]
    try:
        return sorted(path.parent.glob(f"{glob.escape(path.name)}*"))
    except (OSError, ValueError):  # the folder does not exist, or the name is invalid
        return []
