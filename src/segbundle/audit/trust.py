"""Refuse configurations that could run code, before anything in them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbundle.audit.findings import Finding
from segbundle.errors import ConfigError


def inspect_path(path: Path) -> list[Finding]:
    """Return everything in a task file, a bundle's folder or a zip file that could run code or cannot be judged.

    Nothing in it is imported, evaluated or unpickled; modules of monai, torch, ignite and segbundle may be imported.

    Args:
        path: of a YAML or JSON file, a folder or a zip file.

    Raises:
        ConfigError: there is no such file or folder.
    """
    from segbundle.audit.inspection import Inspection

    inspection = Inspection()
    if path.is_dir():
        inspection.add_folder(path)
    elif path.is_file():
        inspection.add_file(path, str(path), path.parent)
    else:
        raise ConfigError(f"{path}: no such file or folder.")
    return inspection.findings()


def refuse_untrusted(
    configs: Sequence[Path], bundle: Path | None, trust: bool, values: Mapping[str, Any] | None = None
) -> None:
    """Refuse task files, a bundle and values of a command line that could run code.

    Args:
        configs: task files; missing ones are skipped, and reported when they are read.
        bundle: the folder of a bundle, or None for the project's own, which is not inspected.
        trust: whether to run them without inspection.
        values: of the command line; only their components are judged, since their text is never evaluated.

    Raises:
        ConfigError: there are findings; the message names the first one and the number of the others. Or a task file
            cannot be parsed.
    """
    components = {key: value for key, value in (values or {}).items() if not _is_plain(key, value)}
    if trust or not (configs or bundle or components):
        return
    from segbundle.audit.configurations import Document, read_document
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
        f"{found[0]}.{more} It could run any code on this computer. `segbundle audit PATH` lists all findings; "
        "add --trust to run it if you trust its author."
    )


def _is_plain(key: str, value: Any) -> bool:
    """Return whether a value of a command line is neither a component nor a part of one."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return "#" not in key and "::" not in key and not any(isinstance(one, (dict, list, tuple)) for one in entries)
