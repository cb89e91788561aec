"""Checks of the arguments of components in a configuration against the signatures of the components."""

from __future__ import annotations

import inspect
import math
import pydoc
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from monai.bundle import ComponentLocator

from segbundle.config.values import is_evaluated_later
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened

_AUTO_ENCODER = {"channels": {"strides": 0}, "inter_channels": {"inter_dilations": 0}}
_LEVELS: dict[str, dict[str, dict[str, int]]] = {
    "AttentionUnet": {"channels": {"strides": -1}},
    "AutoEncoder": _AUTO_ENCODER,
    **{
        name: {"channels": {"strides": 0}}
        for name in ("Classifier", "Critic", "Discriminator", "Generator", "Regressor")
    },
    "DynUNet": {"strides": {"kernel_size": 0, "filters": 0, "upsample_kernel_size": -1}},
    "MedNeXt": {"blocks_down": {"encoder_expansion_ratio": 0, "blocks_up": 0, "decoder_expansion_ratio": 0}},
    **{
        name: {"blocks_down": {"blocks_up": -1}}
        for name in ("SegResNet", "SegResNetDS", "SegResNetDS2", "SegResNetVAE")
    },
    "UNet": {"channels": {"strides": -1}},
    "VarAutoEncoder": _AUTO_ENCODER,
}
"""Arguments of MONAI's networks with an entry per level: the argument that sets the number of levels, and for each
dependent argument, by how many entries it is longer. Some networks ignore extra entries at the end of a list."""
_FIXED_LEVELS: dict[str, dict[str, tuple[int, ...]]] = {
    "AHNet": {"layers": (4,)},
    "FlexibleUNet": {"decoder_channels": (4, 5)},
    "ResNet": {"layers": (4,), "block_inplanes": (4,)},
    "SENet": {"layers": (4,)},
    "SwinUNETR": {"depths": (4,), "num_heads": (4,), "hyena_stages": (4,)},
}
"""Arguments of networks of MONAI with a fixed number of levels: allowed lengths. Extra entries are ignored."""
_MONAI_ARGUMENTS = frozenset({"_target_", "_mode_", "_requires_", "_disabled_", "_desc_"})
"""Keys of a component that MONAI reads itself."""
_ARRAYS = ("Tensor", "ndarray")
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_arguments(config: Any, locator: ComponentLocator, path: str = "") -> None:
    """Raise an error if an argument of a component does not match the signature of the component.

    Args:
        config: configuration with components at any depth of mappings and lists.
        locator: MONAI's locator, which finds components by their short names.
        path: key of `config` in the whole configuration, shown in the message. Default: empty, if `config` is the whole
            configuration.

    Raises:
        ConfigError: an argument does not exist (the message suggests the closest name), a value has the wrong type, or
            two arguments of a network with one entry per level, such as `channels` and `strides`, do not match in
            length.

    Example:
        >>> check_arguments({"_target_": "torch.optim.SGD", "lr": 0.1}, ComponentLocator(), "optimizer")
        >>> check_arguments({"_target_": "torch.optim.SGD", "momentun": 0.9}, ComponentLocator(), "sgd")
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: config key 'sgd#momentun': SGD has no such argument: did you mean 'momentum'?
    """
    if isinstance(config, (list, tuple)):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return
    if isinstance(config.get("_target_"), str):
        _check_component(config, locator, path)
    for key, value in config.items():
        check_arguments(value, locator, f"{path}#{key}" if path else str(key))


def _check_component(component: dict[str, Any], locator: ComponentLocator, path: str) -> None:
    name = component["_target_"]
    module = locator.get_component_module_name(name)
    try:
        target: Any = pydoc.locate(f"{module}.{name}" if isinstance(module, str) else name)
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError, pydoc.ErrorDuringImport):  # MONAI reports missing components; some have no signature
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _type_hints(target)
    for key, value in component.items():
        if key in _MONAI_ARGUMENTS:
            continue
        if key not in parameters and not takes_any:
            short = name.rpartition(".")[2]
            raise ConfigError(f"config key '{path}#{key}': {short} has no such argument{suggestion(key, parameters)}")
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        hint = hints.get(key, _type_of_default(default))
        if value != default and not is_evaluated_later(value) and not _fits(value, hint):
            raise ConfigError(f"config key '{path}#{key}' is {shortened(value)}; {_describe(hint)} is needed.")
    if target.__module__.startswith("monai."):
        _check_levels(component, parameters, target.__name__, path)


def _check_levels(component: Mapping[str, Any], parameters: Mapping[str, Any], name: str, path: str) -> None:
    """Raise a `ConfigError` if the length of a list does not match the number of levels of a network."""
    for key, allowed in _FIXED_LEVELS.get(name, {}).items():
        given = _length(component.get(key))
        if given is not None and given not in allowed:
            raise ConfigError(
                f"config key '{path}#{key}' has {given} entries; {name} has {' or '.join(map(str, allowed))} levels. "
                "Add or remove entries."
            )
    for first, others in _LEVELS.get(name, {}).items():
        levels, *lengths = (_length(component.get(key, parameters[key].default)) for key in (first, *others))
        for (key, more), length in zip(others.items(), lengths, strict=True):
            if levels is not None and length is not None and length != levels + more:
                raise ConfigError(
                    f"config key '{path}#{key}' has {length} entries; {name} needs {levels + more}, because "
                    f"'{path}#{first}' has {levels}. Add or remove entries."
                )


def _length(value: Any) -> int | None:
    """Return the number of entries of a list. Other values, and values that are evaluated later, give None."""
    return len(value) if isinstance(value, (list, tuple)) and not is_evaluated_later(value) else None


def _type_hints(target: Any) -> dict[str, Any]:
    """Return the type hints of a component's arguments, including those of its base classes."""
    if not isinstance(target, type):
        return _own_hints(target)
    found: dict[str, Any] = {}
    for base in reversed(target.__mro__):
        found |= _own_hints(vars(base).get("__init__"))
    return found


def _own_hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # hints may use names that are imported only for type checkers
        return {}


def _type_of_default(default: Any) -> Any:
    """Return the type of an argument without a type hint, derived from its default."""
    return float if type(default) in (int, float) else Any


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value may fit a type hint. Hints of other types accept any value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if value is None:
        return hint not in _PLAIN
    if hint is type(None):
        return False
    kind = origin or hint
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind is float or (math.isfinite(value) and value == int(value)))
    if kind is str:
        return isinstance(value, str)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind in (list, tuple, Sequence, Iterable):
        entries = [entry for entry in inner if entry is not ...] or [Any]
        return isinstance(value, (list, tuple)) and all(any(_fits(e, entry) for entry in entries) for e in value)
    return not (getattr(kind, "__name__", "") in _ARRAYS and isinstance(value, (str, Mapping)))


def _describe(hint: Any) -> str:
    """Return a type hint in words, for a message."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_describe(option) for option in get_args(hint) if option is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    kind = get_origin(hint) or hint
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping"
    if kind in (list, tuple, Sequence, Iterable):
        entries = [_describe(entry) for entry in get_args(hint) if entry is not ...]
        return f"a list, each entry {' or '.join(dict.fromkeys(entries))}," if entries else "a list"
    return f"a {getattr(kind, '__name__', kind)}"
