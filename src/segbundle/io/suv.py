"""Convert PET images to standardized uptake values (SUV), normalized by body weight.

The rules are those of the QIBA FDG-PET/CT profile (version 1.13, 2016, appendix G).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.errors import DataError
from segbundle.io.dicom import find_series
from segbundle.io.geometry import Scan

_logger = logging.getLogger(__name__)
_TAGS = (
    "Units", "CorrectedImage", "DecayCorrection", "PatientWeight", "RadiopharmaceuticalInformationSequence",
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip
_PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x70531000, 0x70531009
"""Private tags of Philips: factors from counts to SUV and to Bq/ml."""
_DAY = timedelta(days=1)
_MAX_HALF_LIVES = 10
"""Maximum time from the injection to the scan, in half-lives; after more, a thousandth of the activity is left."""
_UNCONVERTED = (
    "%s: is not a DICOM PET series, so intensity#units: suv does not change its values, nor those of similar files. "
    "PET values in such files must be SUV already, but those of converted DICOM series are usually Bq/ml. Use the "
    "DICOM series, convert the files to SUV, or remove intensity#units."
)
_REPAIR = "Export the series again with this element, or remove intensity#units."


_warned: set[str] = set()
"""Warnings that were logged in this process."""


def to_suv(scan: Scan, path: str | Path | list[str | Path]) -> Scan:
    """Return a scan whose PET channels are in SUV (g/ml). Other channels, such as CT, are unchanged.

    If no channel is a DICOM PET series, a warning is logged once per process, because the values must be SUV already.

    Args:
        scan: scan in floating point (C, X, Y, Z), changed in place.
        path: path of the scan, or a list with one path per channel. Channels that are not DICOM PET series, and those
            without a path, are not converted.

    Raises:
        DataError: a PET series has units other than BQML, GML or CNTS, is not corrected for attenuation and decay, or
            lacks a header value that the conversion needs.

    Example:
        >>> from segbundle.io.scans import Geometry
        >>> scan = Scan(np.ones((1, 2, 2, 2), np.float32), Geometry((2, 2, 2), np.eye(4)), Path("ct.nii"))
        >>> to_suv(scan, "ct.nii").array.max()
        np.float32(1.0)
    """
    paths = path if isinstance(path, list) else [path]
    factors = [suv_factor(own) for own in paths]
    for channel, factor in zip(scan.array, factors, strict=False):
        if factor is not None and factor != 1:
            channel *= np.asarray(factor, channel.dtype)
    if not any(factors) and _UNCONVERTED not in _warned:
        _warned.add(_UNCONVERTED)
        _logger.warning(_UNCONVERTED, paths[0])
    return replace(scan)


def suv_factor(path: str | Path) -> float | None:
    """Return the factor from the rescaled values of a PET series to SUV; None for scans that are not DICOM PET.

    Args:
        path: path of a scan.

    Raises:
        DataError: see `to_suv`.

    Example:
        >>> suv_factor("/nowhere/ct.nii.gz") is None
        True
    """
    from pydicom import dcmread
    from pydicom.tag import Tag

    series = find_series(path)
    if series is None or series.modality != "PT":
        return None
    tags: list[Any] = [*map(Tag, _TAGS), Tag(_PHILIPS_SUV), Tag(_PHILIPS_ACTIVITY)]
    headers = [dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True) for file in series.files]
    header: Any = headers[0]
    units = str(header.get("Units") or "")
    if units == "GML":
        return 1.0
    activity = 1.0
    if units == "CNTS":
        direct = _positive_number(header.get(_PHILIPS_SUV))
        if direct is not None:
            return direct
        factor = _positive_number(header.get(_PHILIPS_ACTIVITY))
        if factor is None:
            raise DataError(
                f"{path}: its units are counts (Units: CNTS) without a factor of Philips, so SUVs cannot be computed. "
                "Export the series in Bq/ml, or remove intensity#units."
            )
        activity = factor
    elif units != "BQML":
        raise DataError(
            f"{path}: its units are {units or 'unknown'} (Units); SUVs are computed from BQML, GML and CNTS. "
            "Export the series in Bq/ml, or remove intensity#units."
        )
    return activity * _per_activity(path, headers)


def _per_activity(path: str | Path, headers: list[Any]) -> float:
    """Return the factor from Bq/ml to SUV: body weight in g by the dose in Bq at the time of decay correction."""
    header = headers[0]
    corrected = [str(word) for word in header.get("CorrectedImage") or ()]
    for word, what in (("ATTN", "attenuation"), ("DECY", "decay")):
        if word not in corrected:
            raise DataError(
                f"{path}: is not corrected for {what} (CorrectedImage lacks {word}), so SUVs cannot be computed. Use "
                "the corrected series, or remove intensity#units."
            )
    drug = (header.get("RadiopharmaceuticalInformationSequence") or [{}])[0]
    weight = _positive(path, header, "PatientWeight")
    dose = _positive(path, drug, "RadionuclideTotalDose")
    decay = str(header.get("DecayCorrection") or "")
    if decay == "ADMIN":
        return 1000 * weight / dose
    if decay != "START":
        raise DataError(
            f"{path}: DecayCorrection is {decay or 'missing'}; SUV needs START or ADMIN. Use a series with decay "
            "correction, or remove intensity#units."
        )
    half_life = _positive(path, drug, "RadionuclideHalfLife")
    start, start_name = _scan_start(path, headers)
    injection, injection_name = _injection(path, drug, start)
    half_lives = (start - injection).total_seconds() / half_life
    if not 0 <= half_lives <= _MAX_HALF_LIVES:
        when = "is after" if half_lives < 0 else f"is more than {_MAX_HALF_LIVES} half-lives before"
        raise DataError(
            f"{path}: the injection ({injection_name}) {when} the start of the scan ({start_name}), so SUVs cannot be "
            "computed. De-identification may have changed the dates. Export the series with the original dates and "
            "times, or remove intensity#units."
        )
    return 1000 * weight / (dose * math.exp2(-half_lives))


def _positive(path: str | Path, header: Any, name: str) -> float:
    value = header.get(name)
    number = _positive_number(value)
    if number is None:
        found = "missing" if value is None else "not a positive number"
        raise DataError(f"{path}: {name} is {found}; SUV needs a positive number. {_REPAIR}")
    return number


def _positive_number(value: Any) -> float | None:
    """Return the positive number of a value or element (pydicom); None if it is missing or another value."""
    try:
        number = float(getattr(value, "value", value))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _scan_start(path: str | Path, headers: list[Any]) -> tuple[datetime, str]:
    """Return the time to which decay is corrected, and the name of its element.

    This is the start of the series, or of its first acquisition if that is earlier.
    """
    series = _time(headers[0].get("SeriesDate"), headers[0].get("SeriesTime"))
    acquired = [
        _time(one.get("AcquisitionDate") or one.get("SeriesDate"), one.get("AcquisitionTime")) for one in headers
    ]
    known = [(time, "AcquisitionDate and AcquisitionTime") for time in acquired if time is not None]
    known += [] if series is None else [(series, "SeriesDate and SeriesTime")]
    if not known:
        raise DataError(
            f"{path}: SeriesDate and SeriesTime are missing; SUV needs the time of the scan. Export the series again "
            "with these elements, or remove intensity#units."
        )
    return min(known)


def _injection(path: str | Path, drug: Any, start: datetime) -> tuple[datetime, str]:
    """Return the time of the injection and the name of its element. Without a date, it is in the day before `start`."""
    name = "RadiopharmaceuticalStartDateTime"
    whole = str(drug.get(name) or "")
    found = _time(whole[:8], whole[8:])
    if found is not None:
        return found, name
    name = "RadiopharmaceuticalStartTime"
    found = _time(f"{start:%Y%m%d}", drug.get(name))
    if found is None:
        raise DataError(f"{path}: {name} is missing; SUV needs the time of the injection. {_REPAIR}")
    return (found if found <= start else found - _DAY), name  # injected before midnight


def _time(date: Any, time: Any) -> datetime | None:
    """Return date and time of a header, `20260131` and `101530.25`; None if one is missing or malformed."""
    day, clock = str(date or "")[:8], str(time or "").partition(".")
    try:
        whole = datetime.strptime(day + clock[0][:6], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    digits = "".join(char for char in clock[2][:6] if char.isdigit())
    return whole + timedelta(microseconds=int(digits.ljust(6, "0"))) if digits else whole
