"""Group cases by patient, site or another property, so that each group stays in one fold."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segbundle.datasets.case import Case
from segbundle.datasets.folders import some
from segbundle.errors import ConfigError, DataError, suggestion

PATIENT = "patient"
"""Key of an entry in `dataset.json` with the patient, which is the default group."""
_COLUMN = re.compile(r"(?P<table>.+\.(?P<kind>csv|tsv)):(?P<column>.+)", re.IGNORECASE | re.DOTALL)


def groups_of(cases: Sequence[Case], groups: str | None, folder: Path) -> dict[str, str]:
    """Return the group of each case by name.

    Args:
        cases: labeled cases of a dataset.
        groups: one of

            - a key of the entries in `dataset.json`, such as `site`;
            - a column of a table, such as `participants.tsv:site`; the first column of the table has the names of the
              cases or, in BIDS, of the subjects;
            - a regular expression that matches the names of the cases from the start; the part in parentheses is the
              group, as in `(patient\\d+)_`;
            - None for the subjects of a BIDS dataset, or else the key `patient` of `dataset.json` if every case has it.
        folder: folder of the dataset. The path of a table is relative to it, or else to the working directory.

    Returns:
        groups by name of the case; empty if `groups` is None, and the dataset has neither subjects nor at least two
        patients

    Raises:
        ConfigError: the pattern is invalid or does not have exactly one part in parentheses, or no case has the key.
        DataError: some cases have no group, or the table cannot be read.

    Example:
        >>> cases = [Case("p1_a", (Path("p1_a.nii"),)), Case("p1_b", (Path("p1_b.nii"),))]
        >>> groups_of(cases, r"(p\\d+)_", Path("data"))
        {'p1_a': 'p1', 'p1_b': 'p1'}
    """
    if groups is None:
        subjects = {case.name: case.subject for case in cases if case.subject is not None}
        return subjects or _patients(cases)
    if "(" in groups:
        found = _by_pattern(cases, groups)
    elif (match := _COLUMN.fullmatch(groups)) is not None:
        found = _by_column(cases, folder, match)
    else:
        found = _by_key(cases, groups)
    without = [case.name for case in cases if not found.get(case.name)]
    if without:
        raise DataError(
            f"{folder}: groups is {groups!r}, but {len(without)} of {len(cases)} labeled cases have no group: "
            f"{some(without)}. Give each case a group."
        )
    return found


def _patients(cases: Sequence[Case]) -> dict[str, str]:
    """Return the patient of each case; empty if one is unknown, or if all have the same, as after anonymization."""
    found = {case.name: case.properties[PATIENT] for case in cases if case.properties.get(PATIENT)}
    return found if len(found) == len(cases) and len(set(found.values())) > 1 else {}


def _by_pattern(cases: Sequence[Case], pattern: str) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"groups is {pattern!r}; it is not a regular expression ({error}). Correct it.") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"groups is {pattern!r}; a pattern needs exactly one part in parentheses, for instance '(patient\\d+)_'."
        )
    matches = {case.name: compiled.match(case.name) for case in cases}
    return {name: match[1] or "" for name, match in matches.items() if match is not None}


def _by_key(cases: Sequence[Case], key: str) -> dict[str, str]:
    known = sorted({name for case in cases for name in case.properties})
    if key not in known:
        raise ConfigError(
            f"groups is {key!r}, but no case has this key in dataset.json{suggestion(key, known) if known else '.'} "
            "Or use a column, as in participants.tsv:site, or a pattern, as in '(patient\\d+)_'."
        )
    return {case.name: case.properties[key] for case in cases if key in case.properties}


def _by_column(cases: Sequence[Case], folder: Path, match: re.Match[str]) -> dict[str, str]:
    path = folder / match["table"] if (folder / match["table"]).exists() else Path(match["table"])
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if match["kind"].lower() == "tsv" else ",", restval="")
            columns = list(rows.fieldnames or [])
            if match["column"] not in columns:
                raise DataError(f"{path}: has no column {match['column']!r}{suggestion(match['column'], columns)}")
            table = {row[columns[0]].strip(): row[match["column"]].strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}. Correct `groups` or the file.") from error
    return _looked_up(cases, table)


def _looked_up(cases: Sequence[Case], table: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of a table by name of the case, or by its subject with or without `sub-`."""
    found = {}
    for case in cases:
        subject = case.subject or ""
        for name in (case.name, subject, subject.removeprefix("sub-")):
            if name and name in table:
                found[case.name] = table[name]
                break
    return found
