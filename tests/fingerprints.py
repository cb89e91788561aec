"""Fingerprints for tests of the rules of plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segbundle.planning.case_fingerprint import CaseFingerprint
from segbundle.planning.dataset_fingerprint import DatasetFingerprint

CASE = CaseFingerprint(
    "a", (100, 100, 100), (1.0, 1.0, 1.0), "RAS", "int16", 1.0, 0.0, (0.0,), (900.0,),
    (tuple(float(value) for value in range(101)),), {0: 900_000, 1: 100_000},
)  # fmt: skip


def dataset_of(
    cases: Sequence[dict[str, Any]] = ({},),
    names: Sequence[str] = ("background", "liver"),
    channel_names: Sequence[str] = (),
    folder: Path = Path("/nowhere"),
) -> DatasetFingerprint:
    """Return the fingerprint of a dataset whose cases differ from `CASE` by the given attributes."""
    found = [replace(CASE, **{"case": f"case_{index}", **changes}) for index, changes in enumerate(cases)]
    masks = [[True] * len(names) for _ in found]
    return DatasetFingerprint(
        folder, "Decathlon", found, list(names), True, masks, list(channel_names), [], None, len(found)
    )
