"""What the bundle's keys may be set to: said at once, not where a value is first used, which may be hours later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from segbundle.errors import ConfigError, suggestion
from segbundle.inferers import Backend, Precision

_Test = Callable[[Any], bool]


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values of the bundle's own keys that mean nothing.

    Values that only come to be when a configuration is evaluated (references, expressions, components) pass.

    Args:
        config: a workflow's configuration; keys that are not there, and others than the bundle's, are not looked at.

    Raises:
        ConfigError: naming the key, its value, and what is needed; or see `nsd_tolerances`.
    """
    for key, (test, needed) in _NEEDED.items():
        value = config.get(key)
        if key in config and not _is_evaluated_later(value) and not test(value):
            raise ConfigError(f"{key} is {value!r}; {needed} is needed.")
    tolerance, names = config.get("nsd_tolerance_mm"), config.get("class_names")
    if isinstance(tolerance, Mapping) and not (_is_evaluated_later(tolerance) or _is_evaluated_later(names)):
        nsd_tolerances(tolerance, [str(name) for name in names or ()])


def _is_evaluated_later(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_is_evaluated_later, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_evaluated_later, value))
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _whole(least: int = 1) -> _Test:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(least: float, below: float = math.inf) -> _Test:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below


def _positive(value: Any) -> bool:
    return value == math.inf or (_number(0)(value) and value > 0)


def _three(test: _Test) -> _Test:
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(test, value))


def _some(test: _Test) -> _Test:
    return lambda value: isinstance(value, (list, tuple)) and all(map(test, value))


def _one_of(words: Sequence[Any]) -> _Test:
    return lambda value: any(value == word and type(value) is type(word) for word in words)


def _either(*tests: _Test) -> _Test:
    return lambda value: any(test(value) for test in tests)


_NULL, _AUTO = _one_of([None]), _one_of(["auto"])
_SWITCH = _one_of([True, False, "true"])  # MONAI's command line takes true for a word
_BOTH = "true or false (on MONAI's command line: True or False)"
_PRECISIONS, _BACKENDS = get_args(Precision), get_args(Backend)
_SHAPE = "three positive whole numbers of voxels, for instance [48, 48, 48],"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int))  # YAML takes a class called 1 for a number


def _is_tolerances(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_number(0), value.values()))


_NEEDED: dict[str, tuple[_Test, str]] = {
    "class_names": (_some(_is_name), "a list of names, the background's first,"),
    "axcodes": (_either(_NULL, _is_text, _three(_is_text)), "a word of three letters, for instance RAS,"),
    "spacing": (_either(_NULL, _three(_positive)), "three positive sizes in mm, for instance [1.0, 1.0, 1.0], or null"),
    "intensity": (lambda value: isinstance(value, Mapping), "a method, for instance {method: zscore},"),
    "fold": (_either(_NULL, _whole(0)), "a whole number from 0, or null,"),
    "num_folds": (_whole(2), "a whole number from 2"),
    "split_seed": (_whole(0), "a whole number from 0"),
    "seed": (_either(_NULL, _whole(0)), "a whole number from 0, or null,"),
    "data_list_key": (_is_text, "the name of a list in dataset.json, for instance training,"),
    "patch_size": (_three(_whole()), _SHAPE),
    "window_size": (_either(_AUTO, _three(_whole())), f"auto, or {_SHAPE}"),
    "overlap": (_either(_number(0, 1), _three(_number(0, 1))), "a part of a window, at least 0 and less than 1,"),
    "sw_batch_size": (_either(_AUTO, _whole()), "a positive whole number of windows, or auto,"),
    "precision": (_one_of(_PRECISIONS), f"one of {', '.join(_PRECISIONS)}"),
    "backend": (_one_of(_BACKENDS), f"one of {', '.join(_BACKENDS)}"),
    "test_time_flips": (_some(_one_of([0, 1, 2])), "a list of axes, for instance [0],"),
    "skip_air": (_SWITCH, _BOTH),
    "largest_component": (_either(_one_of([True, False]), _some(_is_text)), "true, false, or a list of classes"),
    "save_probabilities": (_SWITCH, _BOTH),
    "nsd_tolerance_mm": (
        _either(_NULL, _number(0), _is_tolerances),
        "a distance in mm, for instance 1.0, or one for each class, for instance {liver: 3.0},",
    ),
    "resume": (_SWITCH, _BOTH),
    "max_epochs": (_whole(), "a positive whole number"),
    "val_interval": (_whole(), "a positive whole number of epochs"),
    "patience": (_either(_NULL, _whole()), "a positive whole number of epochs, or null,"),
    "batch_size": (_whole(), "a positive whole number of patches"),
    "num_workers": (_whole(0), "a whole number from 0"),
    "cache_dir": (_either(_NULL, _is_text), "a folder, or null,"),
    "mlflow_uri": (_either(_NULL, _is_text), "an address, for instance sqlite:///mlflow.db, or null,"),
    "augmentation": (
        _either(_NULL, lambda value: isinstance(value, Mapping)),
        "a mapping, for instance {rotation: 20.0},",
    ),
    "ema_decay": (_either(_NULL, _number(0, 1)), "a number from 0 and less than 1, or null,"),
    "max_gradient_norm": (_either(_NULL, _positive), "a positive number, or null,"),
}
KEYS = tuple(_NEEDED)
"""The bundle's own keys whose values are checked."""


def nsd_tolerances(value: float | Mapping[str, float] | None, class_names: Sequence[str]) -> list[float] | None:
    """The tolerance of the normalized surface Dice for every class, the background's first.

    Args:
        value: in mm: one for all classes, one for each class by name, or None for no surfaces.
        class_names: the background first.

    Raises:
        ConfigError: a class has none, or there is no such class.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return [float(value)] * len(class_names)
    for name in value:
        if name not in class_names[1:]:
            raise ConfigError(f"nsd_tolerance_mm: there is no class {name!r}{suggestion(str(name), class_names[1:])}")
    for name in class_names[1:]:
        if name not in value:
            raise ConfigError(f"nsd_tolerance_mm: class {name!r} has none; give one for each class, or one number.")
    return [0.0, *(float(value[name]) for name in class_names[1:])]
