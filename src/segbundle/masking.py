"""Replacement of names of files and folders, which may identify patients, in messages, logs and records."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from segbundle.terminal import escaped

HIDDEN = "[hidden]"
"""Replacement of a name that has no pseudonym."""
_SHORTEST = 3
"""Shorter names, such as `CT` or `01`, are replaced only within paths and as names of cases."""
_ORDINARY = frozenset(
    re.findall(
        r"\S+",
        "anat case cases data dataset dataset.json derivatives dicom DICOM DICOMDIR export final home image images "
        "imagesTr imagesTs label labels labelsTr labelsTs media mnt pet PET scan scans segbundle series slice slices "
        "srv test testing the tmp training usr users validation var volume",
    )
)
"""Common names of files and folders that messages contain as words."""
_replacements: dict[str, str] = {}
_lengths: list[int] = []
_names: dict[str, str] = {}
"""Names of the files or folders by pseudonym."""


def hide(names: Iterable[str], paths: Iterable[str] = (), cases: Mapping[str, str] | None = None) -> None:
    """Replace names in all later messages, log lines and warnings of this process.

    Short and common names may be ordinary words, so they are only replaced within `paths` and `cases`.

    Args:
        names: names of files and folders, which become `HIDDEN`.
        paths: whole paths, which become `HIDDEN`. Default: none.
        cases: pseudonyms by name of the case or path of its scan. Default: none.

    Example:
        >>> hide(["Doe_Jane"], cases={"/data/Doe_Jane/ct.nii": "case_1f3a"})
        >>> masked("/data/Doe_Jane/ct.nii: no such file. /data/Doe_Jane: is empty.")
        'case_1f3a: no such file. /data/[hidden]: is empty.'
        >>> show_names()
    """
    if not _replacements:
        _mask_logs()
    chosen = {name for name in names if len(name) >= _SHORTEST and name not in _ORDINARY}
    found = {**dict.fromkeys([*chosen, *paths], HIDDEN), **(cases or {})}
    for name, replacement in found.items():
        for form in {name, name.encode("utf-8", "backslashreplace").decode(), escaped(name)} - {""}:
            _replacements[form] = replacement
    _names.update({pseudonym: name for name, pseudonym in (cases or {}).items() if "/" not in name})
    _lengths[:] = sorted({len(form) for form in _replacements}, reverse=True)


def show_names() -> None:
    """Stop replacing names.

    Example:
        >>> show_names()
    """
    _replacements.clear()
    _lengths.clear()
    _names.clear()


def hides_names() -> bool:
    """Return whether names are replaced.

    Example:
        >>> hides_names()
        False
    """
    return bool(_replacements)


def name_of(pseudonym: str) -> str:
    """Return the name of the file or folder behind a pseudonym of this run; other text is returned unchanged.

    Args:
        pseudonym: name of a case.

    Example:
        >>> name_of("case_1f3a")
        'case_1f3a'
    """
    return _names.get(pseudonym, pseudonym)


def masked(text: str) -> str:
    """Return text with hidden names replaced (see `hide`); the text is unchanged if no names are hidden.

    A name is replaced where no letter or digit precedes or follows it.

    Args:
        text: message.

    Example:
        >>> hide(["Doe_Jane"])
        >>> masked("Doe_Jane and xDoe_Jane"), masked("Doe_Jane_ct: done")
        ('[hidden] and xDoe_Jane', '[hidden]_ct: done')
        >>> show_names()
    """
    if not _replacements:
        return text
    parts, start, place = list[str](), 0, 0
    while place < len(text):
        end = _end_of_name(text, place)
        if end is None:
            place += 1
            continue
        parts += [text[start:place], _replacements[text[place:end]]]
        start = place = end
    return "".join([*parts, text[start:]])


def _end_of_name(text: str, place: int) -> int | None:
    """Return the end of the longest name that begins at a place of a text; None if no name begins there."""
    if place and text[place - 1].isalnum() and text[place].isalnum():
        return None
    for length in _lengths:
        end = place + length
        whole = end >= len(text) or not (text[end].isalnum() and text[end - 1].isalnum())
        if end <= len(text) and whole and text[place:end] in _replacements:
            return end
    return None


def _mask_logs() -> None:
    """Replace names in log records and warnings when these are created."""
    make, form = logging.getLogRecordFactory(), warnings.formatwarning
    if getattr(make, "masks_names", False):
        return

    def masked_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if _replacements:
            record.msg, record.args = masked(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = masked(logging.Formatter().formatException(record.exc_info))
        return record

    def masked_warning(*args: Any, **kwargs: Any) -> str:
        return masked(form(*args, **kwargs))

    masked_record.masks_names = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(masked_record)
    warnings.formatwarning = masked_warning
