"""What the bundle's keys may be set to: said at once, not where a value is first used, which may be hours later."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

from segbundle.classes import Classes
from segbundle.config.choices import Backend, Precision
from segbundle.config.literals import restore
from segbundle.config.options import NAME_LISTS, TEXT_KEYS
from segbundle.errors import ConfigError, suggestion
from segbundle.files.documents import shortened

_Test = Callable[[Any], bool]
_MAY_BE_INFINITE = ("max_gradient_norm",)
_LARGEST_IN_NETWORK = 2**20
"""Of whole numbers in `network_def`: channels, kernels, layers."""
_EXPONENT = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?)([0-9]+)")


def check_values(config: Mapping[str, Any], evaluated: bool = False) -> None:
    """Refuse values of the bundle's own keys that mean nothing, and numbers anywhere that are none.

    Args:
        config: a workflow's configuration; keys that are not there pass.
        evaluated: whether references, expressions and components in it have been replaced by what they stand for.
            Otherwise they pass.

    Raises:
        ConfigError: naming the key, its value, and what is needed; or see `nsd_tolerances`.
    """
    for key, value in _leaves(restore(config), ""):
        _check_number(key, value)
    for key, (test, needed) in {**_PATHS, **_NEEDED}.items():
        found, value = find(config, key)
        if found and (evaluated or not is_evaluated_later(value)) and not test(value):
            raise ConfigError(f"{key} is {shortened(value)}; {needed} is needed.")
    tolerance, names = config.get("nsd_tolerance_mm"), config.get("class_names")
    if isinstance(names, list) and not is_evaluated_later(names):
        Classes(names)
    if isinstance(tolerance, Mapping) and not (is_evaluated_later(tolerance) or is_evaluated_later(names)):
        nsd_tolerances(tolerance, [str(name) for name in names or ()])


def is_evaluated_later(value: Any) -> bool:
    """Whether a value only comes to be when a configuration is evaluated."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(is_evaluated_later, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_evaluated_later, value))
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def find(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Whether a configuration has a key, whose parts are separated by `#`, and its value."""
    value: Any = config
    for part in key.split("#"):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value in a configuration that is no mapping and no list, with its key."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(one, f"{key}#{name}" if key else str(name))
    else:
        yield key, value


def _check_number(key: str, value: Any) -> None:
    """Refuse NaN, infinity, numbers beyond 64 bits, and text that YAML 1.2 reads as a number and MONAI does not."""
    names = key.split("#")
    if isinstance(value, float) and not math.isfinite(value) and names[-1] not in _MAY_BE_INFINITE:
        raise ConfigError(f"config key {key!r} is {value}; a finite number is needed.")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"config key {key!r} is nan; a number is needed.")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ConfigError(f"config key {key!r} is {shortened(value)}; a number below 2^64 is needed.")
    if isinstance(value, int) and names[0] == "network_def" and value > _LARGEST_IN_NETWORK:
        raise ConfigError(f"config key {key!r} is {value}; a whole number up to {_LARGEST_IN_NETWORK} is needed.")
    number = _EXPONENT.fullmatch(value) if isinstance(value, str) else None
    if number and names[-1] not in TEXT_KEYS and not NAME_LISTS.intersection(names):
        spelt = f"{number[1]}{'' if '.' in number[1] else '.0'}e{number[2] or '+'}{number[3]}"
        raise ConfigError(f"config key {key!r} is the text {value!r}; write {spelt} where a number is meant.")


def _whole(least: int = 1, most: float = math.inf) -> _Test:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(least: float, below: float = math.inf) -> _Test:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below


def _positive(value: Any) -> bool:
    return _number(0)(value) and bool(value > 0)


def _three(test: _Test) -> _Test:
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(test, value))


def _some(test: _Test) -> _Test:
    return lambda value: isinstance(value, (list, tuple)) and all(map(test, value))


def _one_of(words: Sequence[Any]) -> _Test:
    return lambda value: any(value == word and type(value) is type(word) for word in words)


def _either(*tests: _Test) -> _Test:
    return lambda value: any(test(value) for test in tests)


_is_number = _number(-math.inf)
_NULL, _AUTO = _one_of([None]), _one_of(["auto"])
_SWITCH = _one_of([True, False, "true"])  # MONAI's command line takes true for a word
_BOTH = "true or false (on MONAI's command line: True or False)"
_PRECISIONS, _BACKENDS = get_args(Precision), get_args(Backend)
_SHAPE = "three positive whole numbers of voxels, for instance [48, 48, 48],"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)  # YAML takes a class called 1 for a number


def _is_orientation(value: Any) -> bool:
    letters = list(value) if isinstance(value, (str, list, tuple)) else []
    if len(letters) != 3 or not all(map(_is_text, letters)):
        return False
    return all(any(letter in pair for letter in letters) for pair in ("LR", "PA", "IS"))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_increasing(value: Any) -> bool:
    """Whether a value is a list of positive whole numbers, each larger than the one before."""
    return _some(_whole())(value) and all(one < other for one, other in pairwise(value))


def _is_tolerances(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_number(0), value.values()))


_PATHS: dict[str, tuple[_Test, str]] = {
    "bundle_root": (_is_text, "a path"),
    "device": (_either(_is_text, _whole(0)), "cpu, cuda or cuda:N"),
    "dataset_dir": (_either(_is_text, _some(_is_text)), "a path"),
    "output_dir": (_is_text, "a path"),
    "ckpt_path": (_either(_NULL, _is_text, _some(_is_text)), "a path, a list of paths, or null,"),
}
_NEEDED: dict[str, tuple[_Test, str]] = {
    "class_names": (_some(_is_name), "a list of names (in quotes: no, yes, on, off), the background's first,"),
    "axcodes": (_either(_NULL, _is_orientation), "a word of three letters, for instance RAS,"),
    "spacing": (_either(_NULL, _three(_positive)), "three positive sizes in mm, for instance [1.0, 1.0, 1.0], or null"),
    "intensity": (_is_mapping, "a method, for instance {method: zscore},"),
    "intensity#method": (_is_text, "the name of a method, for instance zscore,"),
    "intensity#lower": (_is_number, "a number"),
    "intensity#upper": (_is_number, "a number"),
    "intensity#mean": (_is_number, "a number"),
    "intensity#std": (_positive, "a positive number"),
    "fold": (_either(_NULL, _whole(0)), "a whole number from 0, or null,"),
    "num_folds": (_whole(2), "a whole number from 2"),
    "split_seed": (_whole(0, 2**32 - 1), "a whole number from 0 and below 2^32"),
    "seed": (_either(_NULL, _whole(0)), "a whole number from 0, or null,"),
    "data_list_key": (_is_text, "the name of a list in dataset.json, for instance training,"),
    "patch_size": (_three(_whole()), _SHAPE),
    "window_size": (_either(_AUTO, _three(_whole())), f"auto, or {_SHAPE}"),
    "overlap": (_either(_number(0, 1), _three(_number(0, 1))), "a part of a window, at least 0 and less than 1,"),
    "network_def#spatial_dims": (_one_of([3]), "3"),
    "network_def#in_channels": (_whole(1, 4096), "a whole number of channels from 1 to 4096"),
    "sw_batch_size": (_either(_AUTO, _whole(1, 1024)), "a whole number of windows from 1 to 1024, or auto,"),
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
    "num_workers": (_whole(0, 1024), "a whole number from 0 to 1024"),
    "cache_dir": (_either(_NULL, _is_text), "a folder, or null,"),
    "mlflow_uri": (_either(_NULL, _is_filled), "an address, for instance sqlite:///mlflow.db, or null,"),
    "augmentation": (_either(_NULL, _is_mapping), "a mapping, for instance {rotation: 20.0},"),
    "augmentation#flip_axes": (_either(_AUTO, _some(_one_of([0, 1, 2]))), "auto, or a list of axes, for instance [0],"),
    "augmentation#rotation": (_either(_number(0), _three(_number(0))), "an angle in degrees, or one for each axis,"),
    "augmentation#scaling": (_number(0), "a number from 0"),
    "augmentation#intensity": (_one_of([True, False]), "true or false"),
    "lr_scheduler#total_iters": (_whole(), "a positive whole number"),
    "lr_scheduler#T_max": (_whole(), "a positive whole number"),
    "lr_scheduler#step_size": (_whole(), "a positive whole number of epochs"),
    "lr_scheduler#milestones": (_is_increasing, "a list of increasing epochs, for instance [20, 30],"),
    "ema_decay": (_either(_NULL, _number(0, 1)), "a number from 0 and less than 1, or null,"),
    "max_gradient_norm": (_either(_NULL, _one_of([math.inf]), _positive), "a positive number, or null,"),
}
KEYS = tuple(key for key in _NEEDED if "#" not in key)
"""The bundle's own keys whose values are checked."""


def is_own_key(key: str) -> bool:
    """Return whether a key is one of those whose values are checked."""
    return key in _PATHS or key in _NEEDED


def check_as(key: str, path: str, value: Any, shown: Any) -> None:
    """Refuse a value of an argument that refers to one of the bundle's own keys by default.

    Args:
        key: of the bundle.
        path: of the argument.
        value: what stands in place of the reference; what is evaluated later passes.
        shown: the value for the message.

    Raises:
        ConfigError: naming the argument, its value, and what is needed.
    """
    test, needed = _PATHS[key] if key in _PATHS else _NEEDED[key]
    if not is_evaluated_later(value) and not test(value):
        raise ConfigError(f"config key {path!r} is {shortened(shown)}; {needed} is needed.")


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
