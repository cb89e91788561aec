"""Pseudonyms for the names of files and folders, which may contain names of patients."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segbundle.datasets.description_file import find_description, is_description
from segbundle.errors import ConfigError, SegbundleError
from segbundle.files.documents import read_json
from segbundle.files.pseudonyms import Pseudonyms
from segbundle.io.scan_files import SUFFIXES, stem
from segbundle.masking import hide


def folder_of_pseudonyms(case_names: str, output_dir: str | Path | None) -> str | Path | None:
    """Return the output folder whose salt names cases by pseudonyms; None if cases are named by paths.

    Args:
        case_names: `path` or `pseudonym`.
        output_dir: output folder of the run, or None.

    Raises:
        ConfigError: cases are named by pseudonyms, but there is no output folder.

    Example:
        >>> folder_of_pseudonyms("path", "runs/1") is None, folder_of_pseudonyms("pseudonym", "runs/1")
        (True, 'runs/1')
    """
    if case_names != "pseudonym":
        return None
    if output_dir is None:
        raise ConfigError(
            "case_names is pseudonym, but output_dir is not set. Set output_dir; it stores the salt of the pseudonyms."
        )
    return output_dir


def hide_names_below(paths: Sequence[str | Path], output_dir: str | Path) -> None:
    """Hide the names of all files and folders of scans in later messages, log lines and records (see `masking.hide`).

    This hides the names in the given paths, in given folders, and in the paths of a datalist. The folders of
    `output_dir` are not hidden, because messages name output files.

    Args:
        paths: scans, folders of scans or datasets, or datalists.
        output_dir: output folder of the run.

    Example:
        >>> from segbundle.masking import masked, show_names
        >>> hide_names_below(["/nowhere/Doe_Jane/ct.nii"], "runs/predictions")
        >>> masked("/nowhere/Doe_Jane/ct.nii: no such file.")
        '[hidden]: no such file.'
        >>> show_names()
    """
    names, whole = set[str](), set[str]()
    for path in map(Path, paths):
        forms = {str(path), str(Path.cwd() / path), os.path.realpath(path)}
        whole |= forms
        names |= {part for form in forms for part in Path(form).parts}
        for folder in {path, *_roots(path)}:
            for found, below in _walk(folder):
                whole.add(found)
                names.update(below)
        names |= {part for text in _texts(path) for part in Path(text).parts}
    kept = {*(Path.cwd() / output_dir).parts, *Path(os.path.realpath(output_dir)).parts}
    hide({form for name in names - kept for form in _forms(name)}, whole - {".", os.sep})


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each folder and the names in it. Links are followed, and each real folder is visited once."""
    seen = set[str]()
    for found, folders, files in os.walk(folder, followlinks=True):
        yield found, [*folders, *files]
        folders[:] = [name for name in folders if os.path.realpath(f"{found}{os.sep}{name}") not in seen]
        seen |= {os.path.realpath(f"{found}{os.sep}{name}") for name in folders}


def _forms(name: str) -> set[str]:
    """Return a name with and without its suffix and the number of a channel."""
    short = stem(name) if name.lower().endswith(SUFFIXES) else Path(name).stem
    return {name, short, re.sub(r"_\d{4}$", "", short)}


def _roots(path: Path) -> Iterator[Path]:
    """Yield the folders that an input of Auto3DSeg or a datalist names."""
    if path.is_file() and is_description(path):
        with suppress(SegbundleError, OSError):
            file = find_description(path)
            yield file.root


def _texts(path: Path) -> Iterator[str]:
    """Yield all texts in the description of a dataset."""
    with suppress(SegbundleError, OSError, ValueError):
        file = find_description(path).path
        if file.is_file():
            yield from _leaves(read_json(file))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if "/" in value or value.lower().endswith(SUFFIXES):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def named_by_pseudonym(entries: Sequence[dict[str, Any]], output_dir: str | Path) -> list[dict[str, Any]]:
    """Return datalist entries whose cases are named by pseudonyms, sorted by name.

    A pseudonym is a hash of the real path of the scan with the salt of the output folder. Later messages contain the
    pseudonyms instead of the names and paths.

    Args:
        entries: entries with `case` and `image`, and optionally `label`.
        output_dir: output folder, which contains the file with the salt; the file is created if it does not exist.

    Returns:
        copies of the entries, in which only `case` differs

    Raises:
        OutputError: the salt cannot be read or written.

    Example:
        >>> import tempfile
        >>> from segbundle.masking import show_names
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (entry,) = named_by_pseudonym([{"case": "Doe", "image": "Doe.nii.gz"}], folder)
        >>> entry["case"].startswith("case_"), entry["image"]
        (True, 'Doe.nii.gz')
        >>> show_names()
    """
    pseudonyms, cases, found = Pseudonyms(output_dir), dict[str, str](), dict[str, dict[str, Any]]()
    for entry in entries:
        paths = [path for key in ("image", "label") for path in _listed(entry.get(key, []))]
        identity = os.path.realpath(paths[0])
        name = pseudonyms.of(identity)
        if name in found:  # several messages about one file
            name = pseudonyms.of(f"{identity}\n{entry['case']}")
        found[name] = {**entry, "case": name}
        cases |= dict.fromkeys([path for given in paths for path in (given, os.path.realpath(given))], name)
        cases[str(entry["case"])] = name
    hide([], cases=cases)
    return [found[name] for name in sorted(found)]


def _listed(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given
