"""Text headers of MetaImage and NRRD files, checked before ITK's readers see them.

ITK's readers overwrite memory for some headers (a number of dimensions below 0 or far above 5, fields of many thousand
characters), and give zeros for compressed voxels that cannot be decompressed. They take 1 mm where a voxel size is
missing, and ignore units and scale factors.
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
"""Bytes of a header; segmentations of 3D Slicer describe every segment in several lines."""
_MAX_LINE = 1024
_MAX_CUSTOM_LINE = 1 << 14
"""Characters of a comment, or of a line of NRRD that begins with a key of the writer's choice."""
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
"""Types of values; ITK stores MET_LONG in four bytes."""
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
"""Keys of NRRD that may also be written as one word."""
_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
"""Spaces of NRRD that ITK knows; it takes any other for left-posterior-superior."""
_VOLUME_AXES = ("domain", "space", "time", "???", "unknown", "none")
"""Kinds of NRRD's axes along which voxels lie; the others count channels."""
_MILLIMETERS = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "")
_OTHER_LENGTHS = ("m", "meter", "meters", "dm", "cm", "um", "µm", "micron", "microns", "micrometer", "nm", "in", "inch")


def check_text_header(path: Path) -> None:
    """Refuse a MetaImage or NRRD file whose header ITK's readers must not see; other files pass.

    Raises:
        DataError: naming the field and its value, or the data file.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in METAIMAGE:
        _check_metaimage(path)
    elif suffix in NRRD:
        _check_nrrd(path)


def compressed_values(path: Path) -> np.ndarray | None:
    """Return the values of a MetaImage file whose voxels are compressed, in the file's order; None for other files.

    Raises:
        DataError: damaged voxels, or fewer or more than the header says.
        OSError: a file cannot be read.
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
    """Fill `target` with the decompressed bytes of a file from a position on; return how many there are, or one more.

    Raises:
        DataError: damaged or truncated voxels.
    """
    from isal import isal_zlib

    damaged: Any = isal_zlib.error
    stream = isal_zlib.decompressobj(wbits=47)  # zlib or gzip: MetaImage has either
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
        raise _unreadable(path, f"ElementType is {_shown(fields.get('ElementType'))}, which is not known")
    if not _is_true(fields.get("BinaryData", "True")):
        raise _refused(path, "its voxels are written as text (BinaryData is False)")
    _check(path, fields, "ElementNumberOfChannels", lambda words: len(words) == 1 and 1 <= int(words[0]) <= 10_000)
    _check(path, fields, "HeaderSize", lambda words: len(words) == 1 and int(words[0]) >= -1)
    for key in _NUMBERS_OF_META:
        _check(path, fields, key, lambda words: len(words) == dimensions and _are_finite(words))
    for key in _MATRICES_OF_META:
        _check(path, fields, key, lambda words: len(words) == dimensions**2 and _are_finite(words))
    _check_scale_of_metaimage(path, fields)
    _check_data_files(path, fields["ElementDataFile"])


def _check_scale_of_metaimage(path: Path, fields: Mapping[str, str]) -> None:
    """Refuse voxel sizes that are missing, not positive or in other units, and values that are still to be scaled."""
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise _without_sizes(path, "ElementSpacing or ElementSize")
    for key in ("ElementSpacing", "ElementSize"):
        _check(path, fields, key, lambda words: min(map(float, words[:3])) > 0)
    units = fields.get("DistanceUnits", "")
    if units.lower() not in (*_MILLIMETERS, "?"):
        raise _in_other_units(path, "DistanceUnits", units)
    for key, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        _check(path, fields, key, lambda words: len(words) == 1 and _are_finite(words))
        if float(fields.get(key, neutral)) != neutral:
            raise DataError(
                f"{path}: {key} is {_shown(fields[key])}, and values are read without it. "
                "Apply it to the voxels, and save them without that field."
            )


def _metaimage_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a header, and where it ends: with the field `ElementDataFile`."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while line := file.readline(_MAX_CUSTOM_LINE + 1):
            key, equals, value = line.decode("latin-1").partition("=")
            key, value = key.strip(), value.strip()
            if key == "" and not equals:
                continue
            most = _MAX_CUSTOM_LINE if key == "Comment" else _MAX_LINE
            if not equals or len(line) > most or file.tell() > _MAX_HEADER:
                raise _unreadable(path, f"its header has a line that is none or too long: {_shown(key or value)}")
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
        raise _refused(path, f"its encoding is {_shown(encoding)}")
    for key in _NUMBERS_OF_NRRD:
        words = fields.get(key, "").replace("(", " ").replace(")", " ").replace(",", " ").split()
        numbers = [word for word in words if word.lower() not in ("none", "nan")]  # nan: of an axis without a place
        if len(words) > _MAX_DIMENSIONS**2 or not _are_finite(numbers):
            raise _unreadable(path, f"{key} is {_shown(fields[key])}, which is not finite numbers")
    _check_scale_of_nrrd(path, fields, dimensions)
    for key in ("line skip", "byte skip"):
        _check(path, fields, key, lambda words: len(words) == 1 and int(words[0]) >= -1)
    _check_data_files(path, fields.get("data file", "LOCAL"))


def _check_scale_of_nrrd(path: Path, fields: Mapping[str, str], dimensions: int) -> None:
    """Refuse voxel sizes that are missing or in other units, and spaces for which ITK takes another one."""
    if "spacings" not in fields and "space directions" not in fields:
        raise _without_sizes(path, "`spacings` or `space directions`")
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or ["???"] * dimensions
    axes = [number for number, kind in enumerate(kinds[:dimensions]) if kind in _VOLUME_AXES][:3]
    if "spacings" in fields:
        _check(path, fields, "spacings", lambda words: len(words) == dimensions and _are_sizes(words, axes))
    else:
        vectors = _VECTOR.findall(fields["space directions"].lower())
        if any(number < len(vectors) and vectors[number] == "none" for number in axes):
            raise _without_sizes(path, "direction for each spatial axis in `space directions`")
    space = fields.get("space", "left-posterior-superior" if fields.get("space dimension") != "3" else "")
    if space.lower() not in _SPACES:
        raise DataError(
            f"{path}: its space is {_shown(space)}, which does not say where left, posterior and superior are. "
            f"Use one of {', '.join(_SPACES[::2])}."
        )
    for unit in _words(fields.get("space units", "")):
        if unit.lower() not in _MILLIMETERS:
            raise _in_other_units(path, "space units", unit)
    for unit in _words(fields.get("units", "")):
        if unit.lower() in _OTHER_LENGTHS:
            raise _in_other_units(path, "units", unit)


def _are_sizes(words: list[str], axes: list[int]) -> bool:
    return all(math.isfinite(float(words[number])) and float(words[number]) > 0 for number in axes)


def _words(text: str) -> list[str]:
    """Units of the axes, which stand in quotes."""
    return [quoted or bare for quoted, bare in _UNIT.findall(text)]


def _nrrd_fields(path: Path) -> dict[str, str]:
    """Return the fields of a header, which ends with an empty line or the file."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(_MAX_LINE).startswith(b"NRRD000"):
            raise _unreadable(path, "it does not begin like an NRRD file")
        while line := file.readline(_MAX_CUSTOM_LINE + 1):
            text = line.decode("latin-1").rstrip("\r\n")
            if not text:
                break
            field, colon, value = text.partition(":")
            custom = text.startswith("#") or value.startswith("=")
            too_long = len(text) > (_MAX_CUSTOM_LINE if custom else _MAX_LINE) or file.tell() > _MAX_HEADER
            if too_long or not (colon or custom):
                raise _unreadable(path, f"its header has a line that is none or too long: {_shown(text)}")
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
    _check(path, fields, key, lambda words: len(words) == 1 and 1 <= int(words[0]) <= _MAX_DIMENSIONS, needed=True)
    return int(fields[key])


def _check_sizes(path: Path, fields: Mapping[str, str], key: str, dimensions: int) -> None:
    _check(path, fields, key, lambda words: len(words) == dimensions and min(map(int, words)) > 0, needed=True)


def _check(
    path: Path, fields: Mapping[str, str], key: str, accepts: Callable[[list[str]], bool], needed: bool = False
) -> None:
    """Refuse a field whose words are not accepted, or are no numbers; one that is missing if it is needed."""
    if key not in fields and not needed:
        return
    try:
        accepted = accepts(fields.get(key, "").split())
    except ValueError:
        accepted = False
    if not accepted:
        raise _unreadable(path, f"{key} is {_shown(fields.get(key))}, which cannot be")


def _are_finite(words: list[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _check_data_files(path: Path, named: str) -> None:
    """Refuse voxels in anything but regular files: a pipe would never end.

    Args:
        path: of the header.
        named: what the header calls the file with the voxels; `LOCAL` is the header's own.
    """
    own = [] if named.upper() == "LOCAL" else [path.parent / named]
    for file in data_files(path) or own:
        try:
            kind = file.stat().st_mode
        except (OSError, ValueError):
            raise DataError(
                f"{path}: the file with its voxels, {file}, is missing. Copy it beside the header."
            ) from None
        if not stat.S_ISREG(kind) or file.samefile(path):
            raise DataError(f"{path}: {file} is not a file that could hold its voxels. Correct the header.")


def _shown(value: str | None) -> str:
    text = repr(value or "")
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: cannot be read ({reason}). {path.name} may be damaged: copy or convert it again.")


def _without_sizes(path: Path, what: str) -> DataError:
    return DataError(f"{path}: its header has no {what}: voxels have no size. Convert the original again.")


def _in_other_units(path: Path, key: str, unit: str) -> DataError:
    return DataError(
        f"{path}: its header gives sizes in {_shown(unit)} ({key}), and millimeters are needed. "
        "Convert the original again."
    )


def _refused(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}, which is not read. Save it as binary, raw or gzip, for instance by 3D Slicer.")
