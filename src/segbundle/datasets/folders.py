"""List the content of a folder tree: scan files, skipped files, and paths that cannot be opened."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from segbundle.io.scan_files import (
    SUFFIXES,
    data_files,
    holds_dicom,
    is_scan_file,
    is_uid,
    is_volume_path,
    may_be_slice,
    missing_header,
    stem,
)
from segbundle.terminal import escaped as escaped  # also for the modules that import it from here

_logger = logging.getLogger(__name__)
_SHOWN_ENDINGS = 6
_RESULTS = ("seg", "prob")
"""Suffixes of the names of label maps and probabilities that inference writes."""
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_NOT_A_SCAN = "is a folder without a scan, not a file. Replace it with the scan itself, or remove it."


@dataclass(frozen=True)
class Lost:
    """Path that cannot be opened.

    Attributes:
        path: path of a file, a link, or a folder.
        reason: message that begins with the path.
        scan: True if the path may be a scan or contain scans, because it has the suffix of a scan or may be a folder.
        slice: True if the path may be a file of a DICOM series (default False).

    Example:
        >>> Lost(Path("a.nii"), "a.nii: no such file.", scan=True).slice
        False
    """

    path: Path
    reason: str
    scan: bool
    slice: bool = False


@dataclass
class Tree:
    """Content of a folder and its subfolders.

    Each real folder is listed once, by its own path rather than by the path of a link. Hidden files and folders are
    skipped. Only regular files are opened. By default, all attributes but `root` are empty.

    Attributes:
        root: path of the folder.
        files: paths of regular files with the suffix of a scan, sorted.
        dicom: paths of folders that directly contain DICOM files, sorted.
        lost: paths that cannot be opened, sorted.
        left_out: number of skipped files by kind, such as a suffix or `hidden`.
        no_volumes: case names of DICOM series that are not volumes, by kind of image, such as `a localizer`.
        copies: path of the series that is used, by path of a copy of it in another folder.
        single_slices: paths of series with one slice that are skipped.

    Example:
        >>> Tree(Path("data")).files
        []
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    no_volumes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    copies: dict[Path, Path] = field(default_factory=dict)
    single_slices: list[Path] = field(default_factory=list)


def list_tree(root: str | Path) -> Tree:
    """Return the content of a folder and its subfolders.

    No error is raised: paths that cannot be opened are listed in `lost`.

    Args:
        root: path of the folder; a folder that cannot be opened is the only entry of `lost`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ct.nii.gz", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     tree = list_tree(folder)
        >>> [path.name for path in tree.files], dict(tree.left_out)
        (['ct.nii.gz'], {'.txt': 1})
    """
    tree = Tree(Path(root))
    seen: set[tuple[int, int]] = set()
    folders, links = [tree.root], list[Path]()  # links last, so that a folder is found by its real path
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                tree.left_out["linked from elsewhere in the folder"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            tree.lost.append(Lost(folder, f"{escaped(folder)}: {_describe_error(error, folder)}", scan=True))
            continue
        plain = [entry for entry in entries if not entry.name.startswith(".")]
        if len(plain) < len(entries):
            tree.left_out["hidden"] += len(entries) - len(plain)
        if folder != tree.root and is_scan_file(folder) and not any(_may_be_scan(entry) for entry in plain):
            tree.lost.append(Lost(folder, f"{escaped(folder)}: {_NOT_A_SCAN}", scan=True))
            continue
        folders += [folder / entry.name for entry in plain if entry.is_dir(follow_symlinks=False)]
        _list_files(tree, folder, [entry for entry in plain if not entry.is_dir(follow_symlinks=False)], links)
    tree.files.sort()
    tree.dicom.sort()
    tree.lost.sort(key=lambda lost: lost.path)
    return tree


def _may_be_scan(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder named like a scan may be the scan: some programs unpack archives this way."""
    return entry.is_dir() or is_scan_file(Path(entry.name)) or may_be_slice(entry.name)


def _list_files(tree: Tree, folder: Path, entries: list[os.DirEntry[str]], links: list[Path]) -> None:
    """Add the files and links of a folder to a tree."""
    scans, others = list[Path](), list[Path]()
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink() or not entry.is_file(follow_symlinks=False):
            reason = path_problem(path)
            if reason is not None:
                tree.lost.append(_lost(path, reason))
                continue
            if path.is_dir():
                links.append(path)
                continue
        (scans if is_scan_file(path) else others).append(path)
    tree.files += scans
    if others:
        data = {file for path in scans for file in _data_of(path)}
        _list_others(tree, folder, [path for path in others if path not in data])


def _data_of(path: Path) -> list[Path]:
    try:
        return data_files(path)
    except OSError:
        return []


def _lost(path: Path, reason: str) -> Lost:
    """Return a `Lost` for a link or special file, classified by name: a broken `patient.1` may be a folder of scans."""
    try:
        path.stat()
        folder = False
    except OSError:
        folder = (not path.suffix or path.suffix[1:].isdigit()) and not is_uid(path.name)
    return Lost(path, reason, scan=is_scan_file(path) or folder, slice=may_be_slice(path.name))


def _list_others(tree: Tree, folder: Path, others: list[Path]) -> None:
    """Find DICOM files, and voxels without a header, among files without the suffix of a scan; count the others."""
    slices = 0
    for path in others:
        if path.name == "DICOMDIR":
            tree.left_out["DICOMDIR"] += 1
            continue
        try:
            is_slice = holds_dicom(path)
        except OSError as error:
            reason = f"{escaped(path)}: {_describe_error(error, path)}"
            tree.lost.append(Lost(path, reason, scan=False, slice=may_be_slice(path.name)))
            continue
        slices += is_slice
        header = None if is_slice else missing_header(path)
        if header is not None:
            reason = f"{escaped(path)}: its header {escaped(header.name)} is missing. Restore it, or remove the file."
            tree.lost.append(Lost(path, reason, scan=True))
        elif not is_slice:
            ending = path.suffix.lower()
            tree.left_out["without an ending" if ending[1:].isdigit() or not ending else ending] += 1
    if slices:
        tree.dicom.append(folder)


def path_problem(path: Path) -> str | None:
    """Return the reason why a path cannot be opened; None for a file, a folder or the path of a DICOM volume.

    The path is not opened.

    Args:
        path: path of a file, folder, link or special file.

    Example:
        >>> path_problem(Path("/nowhere/a.nii"))
        '/nowhere/a.nii: no such file. Check the path, or its entry in dataset.json.'
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return None if is_volume_path(path) else f"{escaped(path)}: {_describe_error(error, path)}"
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kind = _SPECIAL.get(stat.S_IFMT(mode), "a special file")
    return f"{escaped(path)}: is {kind}, not a file. Replace it with the scan itself, or remove it."


def _describe_error(error: OSError | ValueError, path: Path) -> str:
    code = getattr(error, "errno", None)
    if code == errno.ELOOP:
        return "is a symbolic link that forms a loop. Remove it, or link to a file."
    if code in (errno.ENOENT, errno.ENOTDIR) and path.is_symlink():
        target = escaped(path.readlink())
        return f"is a broken link to {target}. Restore the file, or remove the link."
    if code in (errno.ENOENT, errno.ENOTDIR) or code is None:
        return "no such file. Check the path, or its entry in dataset.json."
    return f"cannot be opened ({os.strerror(code)}). Check its permissions, or remove it."


def leave_out_results(tree: Tree) -> list[Path]:
    """Return the scan files of a tree without those that inference wrote.

    A file named `x_seg` or `x_prob`, with any suffix, counts as written by inference if its folder contains a scan `x`
    or a `predictions.json`. Such files are counted as skipped.

    Args:
        tree: content of a folder tree; its `left_out` is updated.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("x.nii.gz", "x_seg.nii.gz"):
        ...         (Path(folder) / name).touch()
        ...     [path.name for path in leave_out_results(list_tree(folder))]
        ['x.nii.gz']
    """
    kept = []
    for file in tree.files:
        name, _, kind = stem(file).rpartition("_")
        scans = (file.with_name(name + suffix) for suffix in SUFFIXES)
        beside = kind in _RESULTS and (file.parent / "predictions.json").exists()
        if beside or (kind in _RESULTS and any(scan.exists() for scan in scans)):
            tree.left_out["predictions"] += 1
        else:
            kept.append(file)
    return kept


def left_out_in_words(left_out: Counter[str]) -> str:
    """Return a one-line summary of skipped files; an empty string without skipped files.

    Args:
        left_out: number of skipped files by kind.

    Example:
        >>> left_out_in_words(Counter({".txt": 10, "hidden": 2}))
        '12 files skipped: 10 .txt, 2 hidden'
    """
    kinds = [f"{count} {escaped(kind)}" for kind, count in left_out.most_common()]
    if not kinds:
        return ""
    total = left_out.total()
    more = f", {len(kinds) - _SHOWN_ENDINGS} more kinds" if len(kinds) > _SHOWN_ENDINGS else ""
    return f"{total} file{'s' * (total > 1)} skipped: {', '.join(kinds[:_SHOWN_ENDINGS])}{more}"


def log_left_out(trees: Iterable[Tree]) -> None:
    """Log the skipped files of folder trees, and files other than scans that cannot be opened.

    Each line is logged once per process.

    Args:
        trees: contents of folder trees.

    Example:
        >>> log_left_out([Tree(Path("data"))])
    """
    for tree in trees:
        words = left_out_in_words(tree.left_out)
        if words:
            log_once(f"{escaped(tree.root)}: {words}")
        for why, series in tree.no_volumes.items():
            log_once(f"{escaped(tree.root)}: DICOM series skipped because they are not volumes ({why}): {some(series)}")
        if tree.copies:
            pairs = [" of ".join(str(path.relative_to(tree.root)) for path in pair) for pair in tree.copies.items()]
            log_once(f"{escaped(tree.root)}: DICOM series skipped because they are copies: {some(pairs)}")
        others = [lost.reason for lost in tree.lost if not lost.scan]
        for reason in first_of(others):
            log_once(reason, logging.WARNING)


@lru_cache(maxsize=1000)
def log_once(message: str, level: int = logging.INFO) -> None:
    """Log a message only once per process, because training lists a dataset several times.

    Args:
        message: message to log.
        level: logging level (default INFO).

    Example:
        >>> log_once("12 files skipped")
    """
    _logger.log(level, "%s", message)


def first_of(messages: Sequence[str], most: int = 3) -> list[str]:
    """Return the first messages of a list, followed by the number of other messages.

    Args:
        messages: problems.
        most: maximum number of messages, without the last line about the others (default 3).

    Example:
        >>> first_of(["a", "b", "c"], 1)
        ['a', '2 more problems of this kind; `segbundle check` prints all problems of a dataset.']
    """
    left = len(messages) - most
    if left <= 0:
        return list(messages)
    more = f"{left} more problem{'s' if left > 1 else ''} of this kind"
    return [*messages[:most], f"{more}; `segbundle check` prints all problems of a dataset."]


def some(names: Sequence[object], most: int = 5) -> str:
    """Return the first names of a list as text, with the number of other names.

    Args:
        names: names, or any objects to convert to text.
        most: number of names to show (default 5).

    Example:
        >>> some(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(escaped(str(name)) for name in names[:most]) + more
