"""Convert the settings of a workflow to plain values, and hash them to identify results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from segbundle.checkpoints.loading import checkpoint_paths
from segbundle.config.current_workflow import running_workflow
from segbundle.files.hashing import hash_file, hash_values

_COMPONENTS = ("network", "preprocessing", "inferer", "postprocessing", "saving", "evaluator")
"""Components that affect the result of a scan."""
_FREE = frozenset(
    {
        *("checkpoints", "dataset", "dataloader", "device", "output_dir", "records", "settings", "sw_batch_size"),
        "val_data_loader",
    }
)
"""Arguments of these components that do not affect the result, or are hashed by the contents of files, or are listed
separately. Handlers and metrics do not affect it either."""
_REFERENCES = tuple(f"@{name}" for name in _COMPONENTS)
"""References to components that the description lists separately."""
_CHECKPOINTS = ("ckpt_path", "weights")
"""Setting that is hashed by the contents of its files, by its present and its former name."""


def configured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings to plain values that can be written as JSON and hashed.

    In a running workflow, values in the configuration replace the values of `settings` with the same key. A component
    is described by its `_target_` and its arguments, a reference by the value to which it refers. All components that
    affect a result are added under the key `components`.

    Without a running workflow, the given values are converted, and no components are added.

    Args:
        settings: values by key.

    Returns:
        JSON values by key

    Example:
        >>> configured({"overlap": 0.5, "network": torch.nn.Conv3d(1, 2, 1)})["overlap"]
        0.5
    """
    workflow = running_workflow()
    if workflow is None:
        return {name: _described(value) for name, value in settings.items()}
    parser = workflow.parser
    components = {name: parser.get(name) for name in _COMPONENTS if name in parser}
    relevant = {name: plain_values(parser, _relevant(value)) for name, value in components.items()}
    values = {
        name: plain_values(parser, parser.get(name)) if name in parser else _described(value)
        for name, value in settings.items()
    }
    return {**values, "components": relevant}


def checkpoints_in(settings: Mapping[str, Any]) -> Any:
    """Return the value of `ckpt_path`, or of its former name `weights`; None if neither key exists.

    Args:
        settings: values by key.

    Example:
        >>> checkpoints_in({"overlap": 0.5, "ckpt_path": "model.pt"})
        'model.pt'
    """
    return next((settings[name] for name in _CHECKPOINTS if name in settings), None)


def _relevant(component: Any) -> Any:
    """Return a component without the arguments that do not affect a result."""
    if not isinstance(component, Mapping):
        return component
    return {
        key: value
        for key, value in component.items()
        if key not in _FREE and not key.endswith(("_handlers", "_metric")) and value not in _REFERENCES
    }


def hash_settings(values: Mapping[str, Any], weights: str | Sequence[str] | None) -> str:
    """Return 12 hexadecimal digits of a hash of settings and the contents of checkpoints.

    Args:
        values: settings, as `configured` returns them.
        weights: path or paths of checkpoints, or the folder of a cross-validation; None without checkpoints. The path
            of a missing file is hashed instead of its content.

    Example:
        >>> hash_settings({"overlap": 0.5}, None) == hash_settings({"overlap": 0.25}, None)
        False
    """
    paths = checkpoint_paths(weights)
    contents = [hash_file(path) if path.is_file() else str(path) for path in paths]
    return hash_values(
        {**{name: value for name, value in values.items() if name not in _CHECKPOINTS}, "weights": contents}
    )


def plain_values(parser: ConfigParser, value: Any, within: Sequence[str] = ()) -> Any:
    """Convert a value of a configuration to JSON values, with references replaced by the values of their keys.

    An expression is not evaluated, but replaced by a list of its text and of the values of its references.

    Args:
        parser: parser of the configuration.
        value: value as written in the configuration.
        within: keys of the references that are being followed, such as `size#0`, to stop at cycles. Default: none.

    Returns:
        JSON values; a reference to an unknown key, or to a key in `within`, is replaced by that key

    Example:
        >>> parser = ConfigParser({"size": [3, 3], "kernel": "@size#0", "names": "$len(@size)"})
        >>> plain_values(parser, "@kernel"), plain_values(parser, "@names")
        (3, ['$len(@size)', {'size': [3, 3]}])
    """
    if isinstance(value, Mapping):
        return {str(key): plain_values(parser, inner, within) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(parser, inner, within) for inner in value]
    if not isinstance(value, str) or not value.startswith(("@", "$")):
        return _described(value)
    found = {}
    for name in sorted(ReferenceResolver.match_refs_pattern(value)):
        known = name not in within and name in parser
        found[name] = plain_values(parser, parser.get(name), (*within, name)) if known else name
    return found.get(ReferenceResolver.normalize_id(value)[1:], [value, found])


def _described(value: Any) -> Any:
    """Return JSON values that describe a value, equal for values with the same meaning."""
    if isinstance(value, Mapping):
        return {str(key): _described(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(inner) for inner in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Path):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, torch.nn.Module):
        return [kind, {name: list(weights.shape) for name, weights in value.state_dict().items()}]
    return kind
