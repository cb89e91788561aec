"""Paths of scans in the records of a run, which are left out if cases are named by pseudonyms."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import write_csv
from segbundle.files.hashing import shortened
from segbundle.files.output_folders import folder_of
from segbundle.files.pseudonyms import PSEUDONYM, Pseudonyms
from segbundle.io.scan_files import files_of
from segbundle.results.journal import records_of

_Key = tuple[str, str]


class ScanSources:
    """Paths of the scans of a run, and hashes of their files.

    Args:
        folder: output folder.
        hidden: whether cases are named by pseudonyms.
        keep_identifiers: whether paths are recorded nevertheless. Default: False.

    Attributes:
        paths: path of the scan by case; set by the run.
        were_recorded: whether a record of an earlier run has a path that this run hides.

    Example:
        >>> sources = ScanSources(Path("runs/1"), hidden=False)
        >>> sources.as_written({"case": "a", "image": "a.nii.gz"})
        {'case': 'a', 'image': 'a.nii.gz'}
    """

    def __init__(self, folder: Path, hidden: bool, keep_identifiers: bool = False) -> None:
        self.folder = folder
        self.hidden = hidden
        self.paths: dict[str, str] = {}
        self.were_recorded = False
        self._keep_identifiers = keep_identifiers

    @cached_property
    def _pseudonyms(self) -> Pseudonyms:
        return Pseudonyms(self.folder)

    def restored(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a record that was read from a file, with the path of its scan in `image`.

        A record is returned unchanged if paths are not hidden, or if this run does not include the case.

        Args:
            record: record as `as_written` returns it.
        """
        if not self.hidden or record["case"] not in self.paths:
            return record
        self.were_recorded |= bool(record.get("image")) and not self._keep_identifiers
        return {**record, "image": self.paths[record["case"]]}

    def as_written(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written to a file: without the path of its scan if cases are named by pseudonyms.

        Args:
            record: record of a scan.
        """
        hidden = ("image",) if self.hidden and not self._keep_identifiers else ()
        return {name: value for name, value in record.items() if name not in hidden}

    def hash_of(self, entry: Mapping[str, Any]) -> str:
        """Return 12 hexadecimal digits that identify the files of a scan and of its reference, if there is a reference.

        The hash covers paths, sizes and modification times, as well as the annotated classes, the ignore label and the
        label values of the reference.
        With pseudonyms, the hash is salted, so that paths cannot be guessed.

        Args:
            entry: datalist entry with `image` and, for an evaluation, `label`; `annotated`, `ignore_label` and
                `label_values` are hashed if they exist.
        """
        found = _fingerprint(entry)
        return self._pseudonyms.digest(found)[: len(found)] if self.hidden else found

    def refuse_names(self, path: Path) -> None:
        """Raise an error if an earlier run named cases by their files, and this run names them by pseudonyms.

        Args:
            path: file with records of the earlier run.

        Raises:
            OutputError: a case of the earlier run has another name than a pseudonym.
        """
        if self.hidden and not all(PSEUDONYM.fullmatch(record["case"]) for record in records_of(path)):
            raise OutputError(
                f"{self.folder}: has label maps that are named by the files of their scans. For pseudonyms "
                "(--case_names pseudonym), choose another --output_dir."
            )

    def write_table(self) -> None:
        """Write `case_names.csv` if cases are named by pseudonyms and identifiers are kept; otherwise remove it.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.hidden and self._keep_identifiers:
            write_csv(self.folder / run_files.CASE_NAMES, ("case", "image"), sorted(self.paths.items()))
        else:
            folder_of(self.folder).remove([run_files.CASE_NAMES])


def _fingerprint(entry: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for key in ("annotated", "ignore_label", "label_values"):
        if key in entry:
            digest.update(f"{key} {entry[key]}\n".encode())
    for given in [*paths_of(entry["image"]), *paths_of(entry.get("label", []))]:
        try:
            files = files_of(os.path.realpath(given))
            known = [file.stat() if file.exists() else None for file in files]
        except (OSError, ValueError) as error:  # the same error is reported when the scan is read
            files, known = [Path(f"{given} {error}")], [None]
        for file, found in zip(files, known, strict=True):
            digest.update(os.fsencode(f"{file} {found and found.st_size} {found and found.st_mtime_ns}\n"))
    return shortened(digest)


def paths_of(given: str | Sequence[str]) -> list[str]:
    """Return one or several paths as a list.

    Args:
        given: path of a scan, or one path per channel.

    Example:
        >>> paths_of("ct.nii.gz")
        ['ct.nii.gz']
    """
    return [given] if isinstance(given, str) else [str(path) for path in given]
