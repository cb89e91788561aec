"""Recognition of files from earlier versions by their contents, for folders without a record of written files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from segbundle.errors import SegbundleError
from segbundle.files import run_files
from segbundle.files.documents import read_json

_KEYS = {
    run_files.RUN_FILE: {"command", "versions", "config"},
    run_files.SUMMARY: {"cases", "mean_dice", "classes"},
    run_files.TASK: {"class_names", "training_cases"},
    run_files.CROSS_VALIDATION: {"class_names", "num_folds"},
}
_HEADERS = {
    run_files.METRICS: b"case,class,status,dice",
    run_files.MEASUREMENTS: b"case,class,status,volume_ml",
    run_files.TRAINING_CASES: b"case,class,volume_ml",
}
_RUNS = (run_files.PREDICTIONS, run_files.RUN_FILE, run_files.TASK, run_files.CROSS_VALIDATION)
_PAGE = b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Bytes near the start of every page that segbundle writes."""
_HEAD = 4096


def recognized(folder: Path) -> list[str]:
    """Return the names of the files in a folder that an earlier version of segbundle wrote.

    If the folder has no file of a run, such as `run.json`, only HTML reports and `measurements.csv` next to a report
    are recognized.

    Args:
        folder: output folder.

    Example:
        >>> recognized(Path("/nowhere"))
        []
    """
    if not folder.is_dir():
        return []
    found = [path.name for path in folder.glob("*.html") if _PAGE in _head(path)]
    if not any(_is_ours(folder / name) for name in _RUNS):
        return found + [name for name in (run_files.MEASUREMENTS,) if found and _is_ours(folder / name)]
    found += [name for name in (*_KEYS, *_HEADERS, run_files.PREDICTIONS) if _is_ours(folder / name)]
    found += [path.name for path in _ranks(folder) if _is_ours(path)]
    found += _label_maps(folder)
    if run_files.TASK in found:
        found += [name for name in (run_files.MODEL, run_files.LAST, run_files.MLFLOW_RUN) if _is_file(folder / name)]
    if run_files.CROSS_VALIDATION in found and is_cache(folder / run_files.CACHE):
        found.append(run_files.CACHE)
    return found


def is_cache(folder: Path) -> bool:
    """Return whether a folder contains only prepared cases and partial files of killed runs.

    The result is False for an empty folder, a link, and anything that is not a folder.

    Args:
        folder: any path.

    Example:
        >>> is_cache(Path("/nowhere"))
        False
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = [path.name for path in folder.iterdir()]
    return bool(found) and all(run_files.PREPARED_CASE.fullmatch(name) or run_files.is_partial(name) for name in found)


def _label_maps(folder: Path) -> Iterator[str]:
    """Yield label maps and probabilities that are listed in records and are not newer than the records."""
    files = [path for path in (folder / run_files.PREDICTIONS, *_ranks(folder)) if _is_ours(path)]
    newest = max(
        (path.stat().st_mtime_ns for path in (*files, folder / run_files.RUN_FILE) if path.exists()), default=0
    )
    for record in (record for path in files for record in _content(path)):
        written = [record.get(key) for key in ("prediction", "probabilities")]
        written += run_files.label_map_files("", str(record["case"])) if record.get("outputs") else []
        for name in written:
            path = folder / PurePath(str(name or ".")).name
            if _is_file(path) and path.lstat().st_mtime_ns <= newest:
                yield path.name


def _ranks(folder: Path) -> list[Path]:
    return [path for path in folder.glob("predictions.rank*.json") if run_files.RANK.fullmatch(path.name)]


def _is_ours(path: Path) -> bool:
    if not _is_file(path):
        return False
    if path.name in _HEADERS:
        return _head(path).removeprefix(b"\xef\xbb\xbf").startswith(_HEADERS[path.name])
    content, keys = _content(path), _KEYS.get(path.name)
    return _is_records(content) if keys is None else isinstance(content, Mapping) and keys <= content.keys()


def _is_records(content: Any) -> bool:
    needed = {"case", "status"}
    return isinstance(content, list) and all(isinstance(each, Mapping) and needed <= each.keys() for each in content)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _content(path: Path) -> Any:
    return _read_or_none(lambda: read_json(path))


def _head(path: Path) -> bytes:
    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(_HEAD)

    return (_read_or_none(read) if _is_file(path) else None) or b""


def _read_or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (SegbundleError, OSError):
        return None
