"""The plain values behind a part of a running workflow's configuration, by which results are recognized."""

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
"""Components that decide the result of a scan."""
_FREE = frozenset(
    {"checkpoints", "dataset", "dataloader", "device", "output_dir", "records", "sw_batch_size", "val_data_loader"}
)
"""Their arguments that do not, or count by the contents of files. Handlers and metrics do not, either."""
_REFERENCES = tuple(f"@{name}" for name in _COMPONENTS)
"""References to components that are described by themselves."""
WEIGHTS = "weights"
"""The setting that counts by the contents of files."""


def configured(settings: Mapping[str, Any], config_id: str) -> dict[str, Any]:
    """Return settings as they are configured: a component by its `_target_` and arguments, a reference by its target.

    The components of the running workflow that decide a result are added to the settings.

    Args:
        settings: by name; described as they are where no workflow is running.
        config_id: place of the settings in the configuration of the running workflow, such as `records#settings`.
    """
    workflow = running_workflow()
    given = None if workflow is None else workflow.parser.get(config_id)
    if workflow is not None and isinstance(given, Mapping) and given.keys() == settings.keys():
        parser = workflow.parser
        components = {name: parser.get(name) for name in _COMPONENTS if name in parser}
        decide = {name: plain_values(parser, _deciding(value)) for name, value in components.items()}
        return {**{name: plain_values(parser, value) for name, value in given.items()}, "components": decide}
    return {name: _described(value) for name, value in settings.items()}


def _deciding(component: Any) -> Any:
    """Return a component without the arguments that do not decide a result."""
    if not isinstance(component, Mapping):
        return component
    return {
        key: value
        for key, value in component.items()
        if key not in _FREE and not key.endswith(("_handlers", "_metric")) and value not in _REFERENCES
    }


def hash_settings(values: Mapping[str, Any], weights: str | Sequence[str] | None) -> str:
    """Return twelve hexadecimal digits that change with settings and with the contents of checkpoints.

    Args:
        values: as `configured` returns them.
        weights: checkpoints, or the folder of a cross-validation.
    """
    paths = checkpoint_paths(weights)
    contents = [hash_file(path) if path.is_file() else str(path) for path in paths]
    return hash_values({**values, WEIGHTS: contents})


def plain_values(parser: ConfigParser, value: Any, within: Sequence[str] = ()) -> Any:
    """Return a value of a configuration with what it refers to in place of references.

    Expressions stay as they are written, with the values that they refer to beside them.

    Args:
        parser: of the configuration.
        value: as configured.
        within: references that are being followed.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_values(parser, one, within) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(parser, one, within) for one in value]
    if not isinstance(value, str) or not value.startswith(("@", "$")):
        return _described(value)
    found = {}
    for name in sorted(ReferenceResolver.match_refs_pattern(value)):
        known = name not in within and name in parser
        found[name] = plain_values(parser, parser.get(name), (*within, name)) if known else name
    return found.get(ReferenceResolver.normalize_id(value)[1:], [value, found])


def _described(value: Any) -> Any:
    """Return something JSON can hold that is the same whenever a value means the same."""
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Path):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, torch.nn.Module):
        return [kind, {name: list(weights.shape) for name, weights in value.state_dict().items()}]
    return kind
