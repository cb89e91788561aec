"""Cache of the fingerprints of cases in a JSON file, so that a dataset is read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from segbundle.datasets.case import Case
from segbundle.errors import OutputError, SegbundleError
from segbundle.files.atomic import write_text
from segbundle.files.documents import read_json
from segbundle.io.scan_files import files_of
from segbundle.planning.case_fingerprint import CaseFingerprint
from segbundle.terminal import say

_FORMAT = "segbundle fingerprint 1"
"""Version of the measurements. A new version invalidates the files of earlier ones."""
Stamp = tuple[str, int, int]
"""Path of a file, its size in bytes, and its modification time in nanoseconds."""


class _Entry(TypedDict):
    files: list[Stamp]
    labels: list[str] | None
    fingerprint: CaseFingerprint


class _Cache(TypedDict):
    format: str
    cases: dict[str, _Entry]


def stamps(case: Case) -> list[Stamp]:
    """Return path, size in bytes and modification time in nanoseconds of each file of a case.

    Args:
        case: case whose files exist.

    Raises:
        OSError: a file does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.nii"
        ...     _ = path.write_bytes(b"1234")
        ...     stamps(Case("a", (path,)))[0][1]
        4
    """
    paths = [*case.image, *([] if case.label is None else [case.label])]
    files = [file for path in paths for file in files_of(path)]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


class FingerprintCache:
    """Fingerprints of earlier runs. A fingerprint is returned only if no file of its case has changed.

    Args:
        path: JSON file; None for an empty cache that is never written. A missing file is an empty cache. A damaged file
            is also an empty cache, and a message is logged.
        labels: class names and other values that affect how label maps are read. Fingerprints that were measured with
            other values are not used. Default: None.

    Example:
        >>> FingerprintCache(None).find(Case("a", (Path("a.nii"),))) is None
        True
    """

    def __init__(self, path: Path | None, labels: Sequence[str] | None = None) -> None:
        self.path = path
        self.labels = None if labels is None else list(labels)
        self._entries: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        try:
            content: Any = read_json(path, _Cache)
        except SegbundleError:
            say(f"{path}: is not a valid fingerprint file, so all cases are measured again")
            return
        if content["format"] == _FORMAT:
            self._entries = content["cases"]

    def find(self, case: Case) -> CaseFingerprint | None:
        """Return the fingerprint of a case, or None if the case is new, or a file or `labels` has changed.

        Args:
            case: case of the dataset.
        """
        entry = self._entries.get(case.name)
        if entry is None or entry["labels"] != self.labels:
            return None
        try:
            found = stamps(case)
        except OSError:
            return None
        return entry["fingerprint"] if [tuple(stamp) for stamp in entry["files"]] == found else None

    def save(self, cases: Sequence[Case], fingerprints: Mapping[str, CaseFingerprint]) -> None:
        """Write the fingerprints of a dataset if they have changed. If the file cannot be written, log a message.

        Args:
            cases: cases of the dataset.
            fingerprints: fingerprints by name of the case.
        """
        known = {name: entry["fingerprint"] for name, entry in self._entries.items()}
        if self.path is None or known == dict(fingerprints):
            return
        entries = {
            case.name: {"files": stamps(case), "labels": self.labels, "fingerprint": asdict(fingerprints[case.name])}
            for case in cases
            if case.name in fingerprints
        }
        try:
            write_text(self.path, json.dumps({"format": _FORMAT, "cases": entries}, separators=(",", ":")))
        except OutputError as error:
            say(f"{error} The next plan measures all cases again.")
