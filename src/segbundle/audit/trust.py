"""Refusal of configurations that could run code, before anything in them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.audit.findings import Finding
from segbundle.errors import ConfigError


def inspect_path(path: Path) -> list[Finding]:
    """Return a finding for each value or file in a task file, a bundle or a zip file that could run code.

    Files that cannot be read or parsed are findings too. Code of the bundle is never imported, evaluated or unpickled;
    only modules of monai, torch, ignite and segbundle are imported to resolve names.

    Args:
        path: path of a YAML or JSON file, a folder or a zip file.

    Raises:
        ConfigError: the file or folder does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "task.json"
        ...     _ = path.write_text('{"x": "$open(@file)"}')
        ...     [(finding.key, finding.problem) for finding in inspect_path(path)]
        [('x', 'expression uses the name open')]
    """
    from segbundle.audit.inspection import Inspection

    inspection = Inspection()
    if path.is_dir():
        inspection.add_folder(path)
    elif path.is_file():
        inspection.add_file(path, str(path), path.parent)
    else:
        raise ConfigError(f"{path}: no such file or folder. Check the path.")
    return inspection.findings()


def refuse_untrusted(
    configs: Sequence[Path],
    bundle: Path | None,
    trust: bool,
    values: Mapping[str, Any] | None = None,
    remedy: str = "add --trust",
) -> None:
    """Raise an error if task files, a bundle or command-line values could run code.

    Args:
        configs: task files. Missing files are skipped here and reported when they are read.
        bundle: folder of a bundle; None for segbundle's bundle, which needs no inspection.
        trust: whether to skip the inspection.
        values: command-line values by key. Only components are inspected, because text is not evaluated. Default: none.
        remedy: advice in the message on how to skip the inspection. Default: "add --trust".

    Raises:
        ConfigError: the inspection has findings, or a task file cannot be read or parsed. The message contains the
            first finding and the number of further findings.

    Example:
        >>> refuse_untrusted([], None, trust=False, values={"max_epochs": 3})
        >>> refuse_untrusted([], None, trust=False, values={"loss#_target_": "os.system"})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: command line: loss#_target_: _target_ is outside monai, torch, ignite ...
    """
    components = {key: value for key, value in (values or {}).items() if not _is_plain(key, value)}
    if trust or not (configs or bundle or components):
        return
    from segbundle.audit.entries import Document, read_document
    from segbundle.audit.inspection import Inspection

    inspection = Inspection()
    for path in configs:
        if path.is_file():
            inspection.add_document(Document(str(path), read_document(path), path.parent))
    if bundle is not None and bundle.is_dir():
        inspection.add_folder(bundle, f"{bundle}/")
    if components:
        inspection.add_document(Document("command line", components, Path(), is_evaluated=False))
    found = inspection.findings()
    if not found:
        return
    others = len(found) - 1
    more = f" {others} more finding{'s' if others > 1 else ''}." if others else ""
    raise ConfigError(
        f"{found[0]}.{more} It could run any code on this computer. List all findings with `segbundle audit PATH`. "
        f"If you trust the author, {remedy} to run it."
    )


def _is_plain(key: str, value: Any) -> bool:
    """Return whether a value of the command line is neither a component nor part of a component."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return "#" not in key and "::" not in key and not any(isinstance(entry, (dict, list, tuple)) for entry in entries)
