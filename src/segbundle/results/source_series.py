"""DICOM series of scans, as recorded in `predictions.json`: modality and pseudonym, and identifiers if allowed."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segbundle.io.dicom import find_series
from segbundle.io.dicom_folders import listed_series
from segbundle.terminal import readable

FIELDS = ("modality", "pseudonym")
"""Fields that are always recorded."""
IDENTIFIERS = ("uid", "date", "description")
"""Fields that are recorded only with `keep_identifiers`."""
_PSEUDONYM_BYTES = 6
_Key = tuple[str, str]
"""Case name and scan path of a record."""


def series_fields(
    images: Mapping[_Key, str],
    keep_identifiers: bool = False,
    earlier: Mapping[_Key, Mapping[str, Any]] | None = None,
) -> dict[_Key, dict[str, Any]]:
    """Return the fields of the DICOM series of scans, as recorded in `predictions.json`.

    A pseudonym is a random number, and not computed from the UID. Volumes of the same series have the same pseudonym. A
    resumed run reads the UIDs from the scans and the pseudonyms from the records, so no salt or table is stored.

    Args:
        images: path of each scan by the key of its record, a pair of case name and scan path.
        keep_identifiers: whether to include UID, date and description. Default: False.
        earlier: records of an earlier run by key, whose pseudonyms are used again. Default: none.

    Returns:
        by key of the record, a dict `{"series": fields}` with the text of each of `FIELDS` and, if kept, of each of
        `IDENTIFIERS`; scans in other formats, and scans that cannot be read, are left out

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import SimpleITK as sitk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
        ...     image.SetMetaData("0008|0060", "CT")
        ...     sitk.WriteImage(image, f"{folder}/ct.dcm")
        ...     key = ("ct", folder)
        ...     found = series_fields({key: folder})
        >>> found[key]["series"]["modality"], len(found[key]["series"]["pseudonym"])
        ('CT', 12)
    """
    found = {key: fields for key, path in images.items() if (fields := _fields(path)) is not None}
    pseudonyms: dict[str, str] = {}
    for key, fields in found.items():
        known = ((earlier or {}).get(key, {}).get("series") or {}).get("pseudonym")
        if known:
            pseudonyms.setdefault(fields["uid"], known)
    names = (*FIELDS, *(IDENTIFIERS if keep_identifiers else ()))
    for fields in found.values():
        fields["pseudonym"] = pseudonyms.setdefault(fields["uid"], secrets.token_hex(_PSEUDONYM_BYTES))
    return {key: {"series": {name: fields[name] for name in names}} for key, fields in found.items()}


def _fields(path: str) -> dict[str, str] | None:
    try:
        series = listed_series(Path(path)) or find_series(path)
    except (OSError, ValueError):  # DataError is a ValueError; the same error is reported when the scan is read
        return None
    if series is None:
        return None
    found = {"modality": series.modality, "uid": series.uid, "date": series.date, "description": series.description}
    return {name: readable(text) for name, text in found.items()}


def identifiers_of(record: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the identifiers in the record of a scan as pairs of name and value.

    Args:
        record: record of a scan.

    Example:
        >>> identifiers_of({"case": "a", "series": {"modality": "CT", "uid": "1.2.3"}})
        {('uid', '1.2.3')}
    """
    series = record.get("series") or {}
    return {(name, series[name]) for name in IDENTIFIERS if name in series}


def without_identifiers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without the identifiers of its series.

    Args:
        record: record of a scan.

    Example:
        >>> without_identifiers({"case": "a", "series": {"modality": "CT", "uid": "1.2.3"}})
        {'case': 'a', 'series': {'modality': 'CT'}}
    """
    if not record.get("series"):
        return dict(record)
    return {**record, "series": {name: text for name, text in record["series"].items() if name not in IDENTIFIERS}}


def series_by_case(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the fields of the series of each scan from DICOM, by case.

    Args:
        records: records of scans.

    Example:
        >>> series_by_case([{"case": "a"}, {"case": "b", "series": {"modality": "CT", "pseudonym": "5be1"}}])
        {'b': {'modality': 'CT', 'pseudonym': '5be1'}}
    """
    return {record["case"]: dict(record["series"]) for record in records if record.get("series")}


def series_columns(series: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the columns of a table of series: by heading, the name of each field that at least one series has.

    Args:
        series: fields of series by case.

    Example:
        >>> series_columns({"b": {"modality": "CT", "pseudonym": "5be1"}})
        {'modality': 'modality', 'series': 'pseudonym'}
    """
    headings = {"modality": "modality", "series": "pseudonym", **{f"series_{name}": name for name in IDENTIFIERS}}
    return {heading: name for heading, name in headings.items() if any(name in fields for fields in series.values())}
