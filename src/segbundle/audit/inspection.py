"""Inspection of configurations, bundle folders and zip files, with the inspector for each type of file."""

from __future__ import annotations

import functools
import importlib.machinery
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segbundle.audit import configurations, entries
from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of
from segbundle.errors import ConfigError

if TYPE_CHECKING:
    import zipfile

_LOGGING_SUFFIXES = (".conf", ".ini", ".cfg")
_STARTED = ("sitecustomize", "usercustomize")
"""Modules that Python imports at startup if they exist."""
_MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pyd")
_SCRIPTS = "scripts"


class Inspection:
    """Inspection of a collection of files. Configurations are inspected together, because they share names.

    Args:
        is_unpacked: whether the files were extracted from a zip file (default False). If True, each zip file in the
            collection is a finding.

    Example:
        >>> inspection = Inspection()
        >>> inspection.add_document(entries.Document("task.yaml", {"x": "$open(@file)"}, Path()))
        >>> print(*inspection.findings())
        task.yaml: x: expression uses the name open: $open(@file)
    """

    def __init__(self, is_unpacked: bool = False) -> None:
        self._is_unpacked = is_unpacked
        self._found: list[Finding] = []
        self._documents: list[entries.Document] = []
        self._read: set[tuple[Path, str]] = set()

    def findings(self) -> list[Finding]:
        """Return the findings of all added files."""
        return [*self._found, *configurations.inspect_documents(self._documents)]

    def add_document(self, document: entries.Document) -> None:
        """Add a configuration and the files that it includes. An included file that cannot be parsed is a finding.

        Args:
            document: configuration that was read.
        """
        self._documents.append(document)
        for path in entries.included_files(document):
            self._add_configuration(path, str(path), document.folder)

    def add_folder(self, folder: Path, prefix: str = "") -> None:
        """Inspect all files in a folder and its subfolders.

        Modules that Python could import from the folder, and symbolic links that point outside the folder, are
        findings.

        Args:
            folder: folder of a bundle.
            prefix: prefix of file names in findings. Default: none.
        """
        root = entries.real_path(folder)
        for path in _files_of(folder, self._found):
            name = f"{prefix}{path.relative_to(folder)}"
            if path.is_symlink():
                if not entries.real_path(path).is_relative_to(root):
                    self._report(name, WHOLE_FILE, "is a link that leaves the folder", str(path.readlink()))
                    continue
                if path.is_dir():
                    continue
            self._report_module(path, folder, name)
            self.add_file(path, name, folder)

    def add_file(self, path: Path, name: str, folder: Path) -> None:
        """Add a file of any type. A file that cannot be read or parsed is a finding.

        Args:
            path: path of the file.
            name: file name in findings.
            folder: folder that must contain all included files.
        """
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                self._report(name, WHOLE_FILE, "is not a regular file", "")
            elif path.suffix.lower() in entries.SUFFIXES:
                self._add_configuration(path, name, folder)
            elif path.suffix.lower() in _LOGGING_SUFFIXES:
                from segbundle.audit.logging_files import inspect_logging_file

                self._found += inspect_logging_file(path, name)
            else:
                self._add_data(path, name)
        except OSError as problem:
            self._report(name, WHOLE_FILE, "cannot be read", problem.strerror or str(problem))
        except Exception as problem:  # a crafted file must not stop the audit of other files
            self._report(name, WHOLE_FILE, "cannot be read", str(problem) or type(problem).__name__)

    def _add_configuration(self, path: Path, name: str, folder: Path) -> None:
        real = entries.real_path(path)
        if (real, path.suffix) in self._read:
            return
        self._read.add((real, path.suffix))
        try:
            content = entries.read_document(path)
        except ConfigError as problem:
            reason = str(problem).removeprefix(f"{path}: ")
            self._report(name, WHOLE_FILE, "cannot be parsed", reason)
            return
        self.add_document(entries.Document(name, content, folder))

    def _add_data(self, path: Path, name: str) -> None:
        from segbundle.audit import pickles

        with path.open("rb") as stream:
            head = stream.read(256)
        suffix = path.suffix.lower()
        if suffix == ".zip" or (head.startswith(b"PK\x03\x04") and suffix not in pickles.SUFFIXES):
            self._add_archive(path, name)
        else:
            self._found += pickles.inspect_data_file(path, name, head)

    def _add_archive(self, path: Path, name: str) -> None:
        import tempfile
        import zipfile

        from segbundle.audit import archives, pickles

        def read() -> Iterator[Finding]:
            with zipfile.ZipFile(path) as archive:
                if pickles.is_checkpoint(archive):
                    yield from pickles.inspect_data_file(path, name, b"PK\x03\x04")
                    return
                found = list(archives.archive_findings(archive, name))
                if self._is_unpacked:
                    found.append(Finding(name, WHOLE_FILE, "is a zip file within a zip file", ""))
                yield from found
                if found:
                    return
                with tempfile.TemporaryDirectory() as folder:
                    for entry in archive.infolist():
                        yield from archives.read_archive(
                            name, entry.filename, functools.partial(_unpack, archive, entry, folder)
                        )
                    inner = Inspection(is_unpacked=True)
                    inner.add_folder(Path(folder), f"{name}/")
                    yield from inner.findings()

        self._found += archives.read_archive(name, WHOLE_FILE, read)

    def _report_module(self, path: Path, folder: Path, name: str) -> None:
        """Report a module that Python could import when `python -m` runs in this folder, or when MONAI runs the bundle.

        Packages try optional imports, so a module may be imported even if the bundle does not name it. The exception is
        `scripts`, the folder for a bundle's code in the Model Zoo: no package tries to import it, and a configuration
        that names it is a finding anyway.
        """
        inside = path.relative_to(folder).parts
        if len(inside) > 2 or path.suffix.lower() not in _MODULE_SUFFIXES:
            return
        module = inside[0].partition(".")[0]
        known = module in sys.stdlib_module_names or module in _STARTED
        if known or importlib.machinery.PathFinder.find_spec(module) is not None:
            self._report(name, WHOLE_FILE, "replaces a module when Python runs in this folder", module)
        elif module != _SCRIPTS:
            self._report(name, WHOLE_FILE, "can be imported when MONAI runs the bundle", module)

    def _report(self, name: str, key: str, problem: str, value: str) -> None:
        self._found.append(Finding(name, key, problem, excerpt_of(value)))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: str) -> Iterator[Finding]:
    archive.extract(entry, folder)
    yield from ()


def _files_of(folder: Path, found: list[Finding]) -> Iterator[Path]:
    """Yield the files in a folder and the links to folders. Links are not followed."""

    def report(problem: OSError) -> None:
        found.append(Finding(str(problem.filename), WHOLE_FILE, "cannot be read", problem.strerror or str(problem)))

    for parent, folders, files in os.walk(folder, onerror=report):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*links, *files]):
            yield Path(parent) / name
