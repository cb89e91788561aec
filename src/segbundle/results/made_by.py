"""Provenance of a run: `run.json` is written, read and described."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from segbundle.class_values import regions
from segbundle.credentials import without_credentials
from segbundle.errors import OutputError
from segbundle.files import run_files
from segbundle.files.atomic import write_json
from segbundle.files.documents import read_json, validate
from segbundle.results.journal import damage_named


def write_run(folder: str | Path, made_by: dict[str, Any], data: Sequence[dict[str, Any]]) -> None:
    """Write `run.json` with the provenance of a run and the absolute paths of its scans and references.

    Args:
        folder: folder of the run.
        made_by: command, versions and configuration.
        data: datalist entries with `case`, `image`, `label` and, optionally, `ignore_label` and `label_values`.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(folder, {"command": "segbundle ..."}, [{"case": "a", "image": "a.nii", "label": "b.nii"}])
        ...     list(json.loads((Path(folder) / "run.json").read_text())["cases"])
        ['a']
    """
    folder = Path(folder)
    cases = {
        entry["case"]: {
            "image": _absolute(entry["image"]),
            "reference": _absolute(entry["label"]),
            "ignore_label": entry.get("ignore_label"),
            "label_values": entry.get("label_values"),
        }
        for entry in data
    }
    write_json(folder / run_files.RUN_FILE, {**made_by, "cases": cases})


def _absolute(path: str | list[str]) -> str | list[str]:
    return str(Path(path).resolve()) if isinstance(path, str) else [str(Path(each).resolve()) for each in path]


def read_made_by(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json` without credentials; an empty dict if the file is missing.

    Args:
        folder: folder of the run.

    Returns:
        JSON values by key, see `segbundle.results.schemas.MadeBy`; `config` is a dict even if the file has none

    Raises:
        OutputError: the file cannot be read or is not valid.

    Example:
        >>> read_made_by(Path("/nowhere"))
        {}
    """
    from segbundle.results.schemas import MadeBy

    path = folder / run_files.RUN_FILE
    made_by: dict[str, Any] = read_validated(path, MadeBy) if os.path.lexists(path) else {}
    if not made_by:
        return {}
    shown = {key: without_credentials(made_by[key]) for key in ("command",) if key in made_by}
    return {**made_by, **shown, "config": without_credentials(made_by.get("config") or {})}


def read_validated(path: Path, schema: Any) -> Any:
    """Return the validated content of a JSON file of a run.

    Args:
        path: JSON file.
        schema: pydantic model, or another type that Pydantic can validate.

    Returns:
        the plain JSON values in the file, not an instance of the schema

    Raises:
        OutputError: the file cannot be read or does not match the schema.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "numbers.json"
        ...     _ = path.write_text("[1, 2]")
        ...     read_validated(path, list[int])
        [1, 2]
    """
    with damage_named(path):
        content: Any = read_json(path, error=OutputError)
        validate(content, schema, str(path), OutputError)
    return content


def window_of(made_by: dict[str, Any]) -> tuple[float, float] | None:
    """Return the range of intensities (lower, upper) to which a task clips scans, or None without clipping.

    Args:
        made_by: content of `run.json`.

    Example:
        >>> window_of({"config": {"intensity": {"method": "window", "lower": -100, "upper": 250}}})
        (-100.0, 250.0)
        >>> window_of({"config": {"intensity": {"method": "zscore"}}}) is None
        True
    """
    intensity = made_by.get("config", {}).get("intensity")
    lower, upper = (intensity.get(key) if isinstance(intensity, dict) else None for key in ("lower", "upper"))
    if not isinstance(lower, (int, float)) or not isinstance(upper, (int, float)):
        return None
    return float(lower), float(upper)


def regions_of(made_by: Mapping[str, Any]) -> list[list[int]] | None:
    """Return the loaded values of each class of a run if its classes overlap; None otherwise.

    Args:
        made_by: content of `run.json`.

    Returns:
        one list of values in loaded label maps per class, background first, see `segbundle.class_values.regions`

    Raises:
        ConfigError: the setting `classes` of the run is not valid.

    Example:
        >>> regions_of({"config": {"classes": {"whole": [1, 2], "core": [2]}}})
        [[0], [1, 2], [2]]
        >>> regions_of({"config": {"class_names": ["background", "liver"]}}) is None
        True
    """
    classes = made_by.get("config", {}).get("classes")
    return regions(classes) if isinstance(classes, Mapping) else None


def about(made_by: Mapping[str, Any]) -> list[str]:
    """Return short descriptions of a run: its data, validation fold, model and date.

    Args:
        made_by: content of `run.json`.

    Returns:
        one text per value, such as "Data: data"; unknown values are left out

    Example:
        >>> about({"config": {"dataset_dir": "data", "fold": 1, "num_folds": 5}})
        ['Data: data', 'Held out: fold 1 of 5']
    """
    config = made_by.get("config", {})
    fold = config.get("fold")
    values = [
        ("Data", config.get("dataset_dir")),
        ("Held out", None if fold is None else f"fold {fold} of {config.get('num_folds')}"),
        ("Model", config.get("ckpt_path")),
        ("Date", str(made_by.get("date", ""))[:10]),
    ]
    return [
        f"{label}: {', '.join(_short_path(path) for path in (value if isinstance(value, list) else [value]))}"
        for label, value in values
        if value
    ]


def _short_path(path: str) -> str:
    return "/".join(PurePath(path).parts[-3:])
