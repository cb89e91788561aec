"""Write a plan as a task file with one commented line per setting, without overwriting edits of the user."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from segbundle import __version__
from segbundle.config.options import default_configs
from segbundle.errors import OutputError, SegbundleError
from segbundle.files.atomic import write_text
from segbundle.files.documents import read_yaml
from segbundle.planning.choice import Choice
from segbundle.planning.fingerprint_table import fingerprint_lines
from segbundle.planning.plan import Plan
from segbundle.terminal import escaped

_SCHEMA = "task.schema.json"
SUFFIXES = (".yaml", ".yml")


def plan_text(plan: Plan, path: str | Path) -> str:
    """Return a plan as the text of a task file, with the fingerprint and the reasons as comments.

    Args:
        plan: plan to write.
        path: path of the file, to which the path of the schema is relative.

    Example:
        >>> from segbundle.planning.case_fingerprint import CaseFingerprint
        >>> from segbundle.planning.dataset_fingerprint import DatasetFingerprint
        >>> case = CaseFingerprint(
        ...     "a", (9, 9, 9), (1, 1, 1), "RAS", "int16", 0.5, 0.2, (0,), (900,), ((0, 50, 100),), {0: 720, 1: 9}
        ... )
        >>> fingerprint = DatasetFingerprint(Path("data"), "", [case], ["background", "a"], True, [[True] * 2], [], [])
        >>> text = plan_text(Plan(fingerprint, [Choice("spacing", [1.0, 1.0, 2.5], "mm; median of 1 cases")]), "a.yaml")
        >>> text.splitlines()[-1]
        'spacing: [1.0, 1.0, 2.5] # mm; median of 1 cases'
    """
    schema = os.path.relpath(default_configs().resolve() / _SCHEMA, Path(path).resolve().parent)
    dataset = escaped(plan.fingerprint.dataset.name or plan.fingerprint.dataset.resolve().name)
    header = [
        f"yaml-language-server: $schema={schema}",
        f"Task of the dataset {dataset}, planned by segbundle {__version__}. Edit it freely.",
        "",
        *fingerprint_lines(plan.fingerprint),
        "",
        *plan.notes,
        *(f"Warning: {warning}" for warning in plan.warnings),
    ]
    comments = [f"# {escaped(line)}".rstrip() for line in header]
    return "\n".join([*comments, *map(setting_line, plan.choices)]) + "\n"


def setting_line(choice: Choice) -> str:
    """Return a setting as a line of YAML, with its reason as a comment.

    Args:
        choice: setting with its reason.

    Example:
        >>> setting_line(Choice("class_names", ["background", "no"], "names of the dataset"))
        "class_names: [background, 'no'] # names of the dataset"
    """
    value = yaml.safe_dump(choice.value, default_flow_style=True, sort_keys=False, width=2**20, allow_unicode=True)
    return f"{choice.key}: {value.strip().removesuffix('...').strip()} # {escaped(choice.reason)}"


def write_plan(plan: Plan, path: str | Path, overwrite: bool = False) -> bool:
    """Write a plan as a task file.

    An existing file is not replaced unless `overwrite` is True. If it has the settings of the plan, nothing is written.

    Args:
        plan: plan to write.
        path: path of the file, with the suffix `.yaml` or `.yml`.
        overwrite: whether to replace an existing file (default False).

    Returns:
        True if the file was written, False if it already has the settings of the plan

    Raises:
        OutputError: the file exists and has other settings (see `plan_diff`), or cannot be written.

    Example:
        >>> write_plan(plan, "my_task.yaml")  # doctest: +SKIP
        True
    """
    path = Path(path)
    check_path(path)
    text = plan_text(plan, path)
    if os.path.lexists(path) and not overwrite:
        if _settings_in(path) == plan.values:
            return False
        raise OutputError(
            f"{path}: exists, and its settings differ from this plan. Use --overwrite to replace it, or choose another "
            "file with -o."
        )
    write_text(path, text)
    return True


def check_path(path: Path) -> None:
    """Raise an error if a path cannot be a task file.

    Args:
        path: path of the file.

    Raises:
        OutputError: the path is a folder, or does not have the suffix `.yaml` or `.yml`.

    Example:
        >>> check_path(Path("my_task.yaml"))
    """
    if path.is_dir() or path.suffix.lower() not in SUFFIXES:
        name = path / "my_task.yaml" if path.is_dir() else path.with_suffix(".yaml")
        raise OutputError(f"-o {path}: is not a .yaml file. Use a name such as {name}.")


def plan_diff(plan: Plan, path: str | Path) -> str:
    """Return a unified diff from an existing task file to a plan; empty if the file does not exist.

    Args:
        plan: plan.
        path: path of the file.

    Example:
        >>> plan_diff(plan, "my_task.yaml")  # doctest: +SKIP
        ''
    """
    path = Path(path)
    if not path.is_file():
        return ""
    old = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    new = plan_text(plan, path).splitlines()
    return "\n".join(difflib.unified_diff(old, new, str(path), "plan", lineterm=""))


def _settings_in(path: Path) -> Mapping[str, Any] | None:
    """Return the settings of a task file, or None if it is not a valid YAML file."""
    try:
        return read_yaml(path)
    except SegbundleError:
        return None
