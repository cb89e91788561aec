"""Check MetaImage and NRRD text headers before ITK reads them.

ITK's readers overwrite memory for some invalid headers (fewer than 0 or far more than 5 dimensions, fields of many
thousand characters), and return zeros for compressed voxels that cannot be decompressed. The readers assume 1 mm for
missing voxel sizes, and ignore units and scale factors.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.scan_files import data_files

METAIMAGE, NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
_MAX_HEADER = 1 << 22
"""Maximum size of a header in bytes; 3D Slicer writes several lines per segment."""
_MAX_LINE = 1024
_MAX_CUSTOM_LINE = 1 << 14
"""Maximum number of characters of a comment, or of an NRRD line with a custom key."""
_MAX_DIMENSIONS = 5
_ENCODINGS = ("raw", "gz", "gzip", "bz2", "bzip2")
_CHUNK = 1 << 22
_VECTOR = re.compile(r"\([^)]*\)|\S+")
_UNIT = re.compile(r'"([^"]*)"|([^\s"]+)')
_TYPES = {
    **{
        f"MET_{name}": f"i{size}"
        for name, size in (("CHAR", 1), ("SHORT", 2), ("INT", 4), ("LONG", 4), ("LONG_LONG", 8))
    },
    **{
        f"MET_U{name}": f"u{size}"
        for name, size in (("CHAR", 1), ("SHORT", 2), ("INT", 4), ("LONG", 4), ("LONG_LONG", 8))
    },
    "MET_ASCII_CHAR": "i1",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""NumPy types of MetaImage types; ITK stores MET_LONG in four bytes."""
_NUMBERS_OF_META = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_MATRICES_OF_META = ("TransformMatrix", "Rotation", "Orientation")
_NUMBERS_OF_NRRD = ("spacings", "thicknesses", "axis mins", "axis maxs", "space directions", "space origin")
_JOINED_WORDS = {
    key.replace(" ", ""): key
    for key in (
        *("axis mins", "axis maxs", "block size", "byte skip", "data file", "line skip", "measurement frame"),
        *("old max", "old min", "sample units", "space dimension", "space directions", "space origin", "space units"),
    )
}
"""NRRD keys that may also be written as one word."""
_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
"""NRRD spaces that ITK supports; it treats any other as left-posterior-superior."""
_VOLUME_AXES = ("domain", "space", "time", "???", "unknown", "none")
"""NRRD kinds of spatial axes; other axes are channels."""
_MILLIMETERS = ("mm", "millimeter", "millimeters", "")
_OTHER_LENGTHS = (
    "m",
    "meter",
    "meters",
    "dm",
    "cm",
    "um",
    "µm",
    "micron",
    "microns",
    "micrometer",
    "centimeter",
    "nm",
    "in",
    "inch",
)
"""Units in lower case and American spelling; see `_unit`."""


def check_text_header(path: Path) -> None:
    r"""Raise an error if the header of a MetaImage or NRRD file is invalid, or a data file is missing.

    Files with other suffixes are not checked.

    Args:
        path: path of the file.

    Raises:
        DataError: the header is invalid, or a data file is missing. The message names the field and its value, or the
            data file.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.nrrd"
        ...     _ = path.write_text("NRRD0004\ndimension: 99\n")
        ...     try:
        ...         check_text_header(path)
        ...     except DataError as error:
        ...         print(str(error).partition("ct.nrrd: ")[2])
        cannot be read (dimension is '99', an invalid value). ct.nrrd may be damaged: copy or convert it again.
    """
    suffix = path.suffix.lower()
    if suffix in METAIMAGE:
        _check_metaimage(path)
    elif suffix in NRRD:
        _check_nrrd(path)


def compressed_values(path: Path) -> np.ndarray | None:
    """Decompress the voxels of a compressed MetaImage file; return None for any other file.

    Args:
        path: path of the file.

    Returns:
        a 1D array of the stored dtype, in the order of the file; or None

    Raises:
        DataError: voxels are damaged, or their number differs from the header.
        OSError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ct.mha"
        ...     sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.int16)), str(path), useCompression=True)
        ...     values = compressed_values(path)
        >>> values.shape, int(values.sum())
        ((24,), 24)
    """
    if path.suffix.lower() not in METAIMAGE:
        return None
    fields, start = _metaimage_fields(path)
    if not _is_true(fields.get("CompressedData", "False")):
        return None
    dtype = np.dtype(_TYPES[fields["ElementType"]])
    order = fields.get("ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "False"))
    count = math.prod(map(int, fields["DimSize"].split())) * int(fields.get("ElementNumberOfChannels", "1"))
    source, offset = (
        (path, start) if fields["ElementDataFile"].upper() == "LOCAL" else (path.parent / fields["ElementDataFile"], 0)
    )
    stored = np.empty(count * dtype.itemsize, np.uint8)
    found = _decompress(path, source, offset, stored)
    if found != len(stored):
        what = f"more than {len(stored)}" if found > len(stored) else str(found)
        raise _unreadable(path, f"its header says {count} voxels, {len(stored)} bytes; {source.name} has {what}")
    return stored.view(dtype.newbyteorder(">" if _is_true(order) else "<")).astype(dtype, copy=False)


def _decompress(path: Path, source: Path, offset: int, target: np.ndarray) -> int:
    """Decompress a file from a byte offset into `target`, and return the number of bytes.

    If the bytes do not fit into `target`, its length plus 1 is returned.

    Raises:
        DataError: voxels are damaged or truncated.
    """
    from isal import isal_zlib

    damaged: Any = isal_zlib.error
    stream = isal_zlib.decompressobj(wbits=47)  # zlib or gzip: MetaImage uses either
    found = 0
    try:
        with source.open("rb") as file:
            file.seek(offset)
            while not stream.eof and (chunk := stream.unconsumed_tail or file.read(_CHUNK)):
                part = stream.decompress(chunk, _CHUNK)
                if found + len(part) > len(target):
                    return len(target) + 1
                target[found : found + len(part)] = np.frombuffer(part, np.uint8)
                found += len(part)
    except damaged as error:
        raise _unreadable(path, f"its voxels cannot be decompressed: {error}") from error
    return found if stream.eof else min(found, len(target) - 1)


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "1")


def _check_metaimage(path: Path) -> None:
    fields, _ = _metaimage_fields(path)
    dimensions = _dimensions(path, fields, "NDims")
    _check_sizes(path, fields, "DimSize", dimensions)
    if fields.get("ElementType") not in _TYPES:
        raise _unreadable(path, f"ElementType is {_shown(fields.get('ElementType'))}, an unknown type")
    if not _is_true(fields.get("BinaryData", "True")):
        raise _unsupported(path, "its voxels are written as text (BinaryData is False)")
    _check_field(
        path, fields, "ElementNumberOfChannels", lambda words: len(words) == 1 and 1 <= int(words[0]) <= 10_000
    )
    _check_field(path, fields, "HeaderSize", lambda words: len(words) == 1 and int(words[0]) >= -1)
    for key in _NUMBERS_OF_META:
        _check_field(path, fields, key, lambda words: len(words) == dimensions and _are_finite(words))
    for key in _MATRICES_OF_META:
        _check_field(path, fields, key, lambda words: len(words) == dimensions**2 and _are_finite(words))
    _check_scale_of_metaimage(path, fields)
    _check_data_files(path, fields["ElementDataFile"])


def _check_scale_of_metaimage(path: Path, fields: Mapping[str, str]) -> None:
    """Raise an error if voxel sizes are missing, not positive or in other units, or if values are scaled."""
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise _sizes_missing(path, "ElementSpacing or ElementSize")
    for key in ("ElementSpacing", "ElementSize"):
        _check_field(path, fields, key, lambda words: min(map(float, words[:3])) > 0)
    units = fields.get("DistanceUnits", "")
    if _unit(units) not in (*_MILLIMETERS, "?"):
        raise _wrong_units(path, "DistanceUnits", units)
    for key, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        _check_field(path, fields, key, lambda words: len(words) == 1 and _are_finite(words))
        if float(fields.get(key, neutral)) != neutral:
            raise DataError(
                f"{path}: {key} is {_shown(fields[key])}, but scale factors are not supported. "
                "Apply it to the voxels, and save the file without this field."
            )


def _metaimage_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a header, and its length in bytes; the last field is `ElementDataFile`."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while line := file.readline(_MAX_CUSTOM_LINE + 1):
            key, equals, value = line.decode("latin-1").partition("=")
            key, value = key.strip(), value.strip()
            if key == "" and not equals:
                continue
            most = _MAX_CUSTOM_LINE if key == "Comment" else _MAX_LINE
            if not equals or len(line) > most or file.tell() > _MAX_HEADER:
                raise _unreadable(path, f"its header has an invalid or too long line: {_shown(key or value)}")
            if key in fields:
                raise _unreadable(path, f"its header has {_shown(key)} twice")
            fields[key] = value
            if key == "ElementDataFile":
                return fields, file.tell()
    raise _unreadable(path, "its header has no ElementDataFile")


def _check_nrrd(path: Path) -> None:
    fields = _nrrd_fields(path)
    dimensions = _dimensions(path, fields, "dimension")
    _check_sizes(path, fields, "sizes", dimensions)
    encoding = fields.get("encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise _unsupported(path, f"its encoding is {_shown(encoding)}")
    for key in _NUMBERS_OF_NRRD:
        words = fields.get(key, "").replace("(", " ").replace(")", " ").replace(",", " ").split()
        numbers = [word for word in words if word.lower() not in ("none", "nan")]  # NaN: a non-spatial axis
        if len(words) > _MAX_DIMENSIONS**2 or not _are_finite(numbers):
            raise _unreadable(path, f"{key} is {_shown(fields[key])}; it must be finite numbers")
    _check_scale_of_nrrd(path, fields, dimensions)
    for key in ("line skip", "byte skip"):
        _check_field(path, fields, key, lambda words: len(words) == 1 and int(words[0]) >= -1)
    _check_data_files(path, fields.get("data file", "LOCAL"))


def _check_scale_of_nrrd(path: Path, fields: Mapping[str, str], dimensions: int) -> None:
    """Raise an error if voxel sizes are missing or in other units, or if ITK would misinterpret the space."""
    if "spacings" not in fields and "space directions" not in fields:
        raise _sizes_missing(path, "`spacings` or `space directions`")
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or ["???"] * dimensions
    axes = [number for number, kind in enumerate(kinds[:dimensions]) if kind in _VOLUME_AXES][:3]
    if "spacings" in fields:
        _check_field(path, fields, "spacings", lambda words: len(words) == dimensions and _are_sizes(words, axes))
    else:
        vectors = _VECTOR.findall(fields["space directions"].lower())
        if any(number < len(vectors) and vectors[number] == "none" for number in axes):
            raise _sizes_missing(path, "direction for each spatial axis in `space directions`")
    space = fields.get("space", "left-posterior-superior" if fields.get("space dimension") != "3" else "")
    if space.lower() not in _SPACES:
        raise DataError(
            f"{path}: its space is {_shown(space)}, which does not define anatomical directions. "
            f"Use one of {', '.join(_SPACES[::2])}."
        )
    for unit in _words(fields.get("space units", "")):
        if _unit(unit) not in _MILLIMETERS:
            raise _wrong_units(path, "space units", unit)
    for unit in _words(fields.get("units", "")):
        if _unit(unit) in _OTHER_LENGTHS:
            raise _wrong_units(path, "units", unit)


def _unit(text: str) -> str:
    """Return the name of a unit in lower case, with British endings replaced by American ones."""
    return re.sub(r"met(re)(s?)$", r"meter\2", text.lower())


def _are_sizes(words: list[str], axes: list[int]) -> bool:
    return all(math.isfinite(float(words[number])) and float(words[number]) > 0 for number in axes)


def _words(text: str) -> list[str]:
    """Return the units of the axes without quotes."""
    return [quoted or bare for quoted, bare in _UNIT.findall(text)]


def _nrrd_fields(path: Path) -> dict[str, str]:
    """Return the fields of a header. It ends with an empty line or with the file."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(_MAX_LINE).startswith(b"NRRD000"):
            raise _unreadable(path, "it does not begin with NRRD000")
        while line := file.readline(_MAX_CUSTOM_LINE + 1):
            text = line.decode("latin-1").rstrip("\r\n")
            if not text:
                break
            field, colon, value = text.partition(":")
            custom = text.startswith("#") or value.startswith("=")
            too_long = len(text) > (_MAX_CUSTOM_LINE if custom else _MAX_LINE) or file.tell() > _MAX_HEADER
            if too_long or not (colon or custom):
                raise _unreadable(path, f"its header has an invalid or too long line: {_shown(text)}")
            if custom:
                continue
            key = _JOINED_WORDS.get(field.lower(), field.lower())
            if key in fields:
                raise _unreadable(path, f"its header has {_shown(field)} twice")
            fields[key] = value.strip()
            if value.strip().upper().startswith("LIST") and key == "data file":
                break
    return fields


def _dimensions(path: Path, fields: Mapping[str, str], key: str) -> int:
    _check_field(
        path, fields, key, lambda words: len(words) == 1 and 1 <= int(words[0]) <= _MAX_DIMENSIONS, required=True
    )
    return int(fields[key])


def _check_sizes(path: Path, fields: Mapping[str, str], key: str, dimensions: int) -> None:
    _check_field(path, fields, key, lambda words: len(words) == dimensions and min(map(int, words)) > 0, required=True)


def _check_field(
    path: Path, fields: Mapping[str, str], key: str, accepts: Callable[[list[str]], bool], required: bool = False
) -> None:
    """Raise an error if the words of a field are not accepted or not numbers, or if a required field is missing."""
    if key not in fields and not required:
        return
    try:
        accepted = accepts(fields.get(key, "").split())
    except ValueError:
        accepted = False
    if not accepted:
        raise _unreadable(path, f"{key} is {_shown(fields.get(key))}, an invalid value")


def _are_finite(words: list[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _check_data_files(path: Path, named: str) -> None:
    """Raise an error if data files are missing or not regular files: a pipe would block forever.

    Args:
        path: path of the header.
        named: name of the data file in the header; `LOCAL` for the header itself.
    """
    named_file = [] if named.upper() == "LOCAL" else [path.parent / named]
    for file in data_files(path) or named_file:
        try:
            kind = file.stat().st_mode
        except (OSError, ValueError):
            raise DataError(f"{path}: its data file {file} is missing. Copy it to the folder of the header.") from None
        if not stat.S_ISREG(kind) or file.samefile(path):
            raise DataError(
                f"{path}: {file} cannot contain its voxels, because it is the header itself or not a regular file. "
                "Correct the name in the header."
            )


def _shown(value: str | None) -> str:
    text = repr(value or "")
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: cannot be read ({reason}). {path.name} may be damaged: copy or convert it again.")


def _sizes_missing(path: Path, what: str) -> DataError:
    return DataError(f"{path}: its header has no {what}, so the voxel size is unknown. Convert the original again.")


def _wrong_units(path: Path, key: str, unit: str) -> DataError:
    return DataError(
        f"{path}: its header gives sizes in {_shown(unit)} ({key}) instead of millimeters. Convert the original again."
    )


def _unsupported(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}, which is not supported. Save it as raw or gzip, for instance with 3D Slicer.")
