"""Classes and functions that a configuration may name: those in known modules of monai, torch, ignite and segbundle.

A dotted name is resolved to its object, because MONAI follows attributes: `torch.optim.os.system` is not an optimizer.
To resolve names, only modules of these four packages are imported.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import sys
from collections.abc import Collection
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.audit.allowed_names import IMPORTS, NAMES, PASSED_THROUGH
from segbundle.audit.call_arguments import downloads, takes_code_names, takes_downloads
from segbundle.former_names import CURRENT_PACKAGES

PACKAGES = ("monai", "torch", "ignite", "segbundle")
OUTSIDE = "is outside monai, torch, ignite and segbundle"


def _within(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


_HARMLESS_MODULES = (
    *_within("monai", "data engines handlers inferers losses metrics networks optimizers transforms"),
    *_within("monai.apps", "deepedit deepgrow detection generation nuclick pathology reconstruction vista3d"),
    *_within("torch", "amp cuda.amp optim utils.tensorboard.writer"),
    *_within("torch.nn", "functional init modules parameter parallel.data_parallel parallel.distributed"),
    *_within("torch.utils.data", "dataloader dataset distributed sampler"),
    *_within("ignite", "engine handlers metrics"),
)
"""Modules whose classes and functions, including those of submodules, are harmless."""
_EXCEPTIONS = (
    *_within("monai.data", "torchscript_utils"),  # loads code
    *_within("monai.handlers", "clearml_handlers mlflow_handler"),  # send data to a server
    *_within("monai", "handlers.trt_handler networks.trt_compiler networks.layers.gmm"),  # compile and run
    *_within("monai", "losses.perceptual"),  # runs code from torch.hub
    *_within("monai.networks.nets", "cell_sam_wrapper resnet.get_pretrained_resnet_medicalnet transchex"),  # download
    *_within("monai.networks.utils", "convert_to_onnx convert_to_torchscript convert_to_trt save_state"),
    *_within("monai.networks.utils", "look_up_named_module replace_modules replace_modules_temp set_named_module"),
    *_within("monai.networks.utils", "simple_replace"),  # like the line above: any attribute of any object
    *_within("monai.networks.nets.flexible_unet", "FlexUNetEncoderRegister"),  # finds a class by its name
    *_within("monai.transforms", "utils_create_transform_ims"),  # writes pictures
    *_within("ignite.handlers", "clearml_logger comet_logger mlflow_logger neptune_logger polyaxon_logger"),
    *_within("ignite.handlers", "fbresearch_logger visdom_logger wandb_logger"),
    *_within("ignite.handlers.utils", "global_step_from_engine"),  # any attribute of any object
)
"""Exceptions within these modules: they load or run code, access any attribute, or send data to a server."""
_HARMLESS_FUNCTIONS = (
    *_within("monai.utils.misc", "ensure_tuple ensure_tuple_rep ensure_tuple_size fall_back_tuple first"),
    *_within("monai.utils.misc", "issequenceiterable set_determinism"),
    *_within("monai.auto3dseg.utils", "datafold_read"),
)
"""Harmless functions outside these modules."""
_PARENT_MODULES = frozenset(
    name[:end]
    for name in (*_HARMLESS_MODULES, *_HARMLESS_FUNCTIONS, "monai.utils.enums.")
    for end, char in enumerate(name)
    if char == "."
)
_OWN_COMPONENTS: dict[str, frozenset[str] | None] = {
    "class_values": frozenset({"class_values", "regions"}),
    "classes": frozenset({"num_classes"}),
    "config": frozenset({"fixed_settings", "in_bundle", "locate_bundle", "select_settings"}),
    "datasets": frozenset({"Case", "find_scans", "fold_names", "labeled_data", "load_cases"}),
    "distributed": frozenset({"local_device", "share_of_rank", "shared_gradients", "stop_ranks"}),
    "io": frozenset({"Geometry", "read_scan"}),
    "segmentations": frozenset({"check_output_format"}),
    **dict.fromkeys(("acceleration", "checkpoints", "inference", "losses", "metrics", "sampling")),  # all of `__all__`
    **dict.fromkeys(("training", "transforms", "workflow")),
}
_REPRODUCTION = re.compile(r"segbundle\.reproductions\.[a-z]\w*\.run")
_PLACEHOLDER = "???"  # in the template of MONAI's `init_bundle`
_DOTTED = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)*", re.ASCII)


class Walked(NamedTuple):
    """Result of resolving a dotted name.

    Attributes:
        found: class, function or value; None if the name was not looked up or does not exist.
        rest: remaining names, attributes of `found`.
        problem: why the name may not be used; None (default) if the name is allowed.
        listed: whether the name is in `NAMES`. Default: False.

    Example:
        >>> Walked(None, [], "does not exist").problem
        'does not exist'
    """

    found: Any
    rest: list[str]
    problem: str | None = None
    listed: bool = False


def target_problem(name: str) -> str | None:
    """Return why a name is not allowed as a `_target_`, or None if it is allowed.

    Args:
        name: name in the configuration: a dotted name, or the bare name of a component of MONAI. `???`, the placeholder
            in the template of MONAI's `init_bundle`, is allowed.

    Example:
        >>> target_problem("os.system")
        'is outside monai, torch, ignite and segbundle'
    """
    if name == _PLACEHOLDER:
        return None
    if not _DOTTED.fullmatch(name):
        return "is not a plain dotted name"
    if "." not in name:
        return _bare_problem(name)
    if name.partition(".")[0] not in PACKAGES:
        return OUTSIDE
    walked = walk(name)
    if walked.problem is not None:
        return walked.problem
    if walked.rest:
        return "is an attribute of a class"
    if walked.listed and name.rpartition(".")[0] not in ("torch", "torch.cuda"):
        return "is not known to be harmless for all arguments"
    return None


def callable_target_problem(name: str) -> str | None:
    """Return why a `_target_` may not have `_mode_: callable`, or None if that is allowed.

    Expressions can call such a component with any arguments.

    Args:
        name: name of a target for which `target_problem` returns None.

    Example:
        >>> callable_target_problem("LoadImage")
        'may not be callable, since its arguments can name code or servers'
        >>> callable_target_problem("monai.networks.nets.UNet") is None
        True
    """
    found = _candidates(name)
    if any(takes_code_names(candidate) for candidate in found):
        return "may not be callable, since its arguments can name code or servers"
    if any(takes_downloads(candidate) for candidate in found):
        return "may not be callable, since its arguments can make it download weights"
    return None


def downloads_by_default(name: str, given: Collection[str]) -> bool:
    """Return whether a network downloads weights, because the argument that prevents the download is not given.

    Args:
        name: name of a target for which `target_problem` returns None.
        given: names of the given arguments; their values are checked by `argument_problem`.

    Example:
        >>> downloads_by_default("monai.networks.nets.UNet", [])
        False
    """
    return any(downloads(candidate, (), dict.fromkeys(given)) for candidate in _candidates(name))


def is_known_module(name: str) -> bool:
    """Return whether a dotted name is a module that is known to be harmless, or a package that contains one.

    Args:
        name: dotted name.

    Example:
        >>> is_known_module("monai.transforms"), is_known_module("monai.bundle")
        (True, False)
    """
    known = name in _PARENT_MODULES or any(_is_within(name, room) for room in _HARMLESS_MODULES)
    return (
        known
        and not any(_is_within(name, exception) for exception in _EXCEPTIONS)
        and (isinstance(found := _locate(name), ModuleType) and found.__name__ == name)
    )


@lru_cache(maxsize=4096)
def walk(name: str) -> Walked:
    """Resolve a dotted name up to the first class, function or value. The remaining names are its attributes.

    Args:
        name: dotted name that begins with a module.

    Returns:
        the resolved object, the remaining names, and why the name may not be used. Names in `NAMES` are allowed and not
        looked up, so their object is None. Modules, and names in modules that are not known to be harmless, are not
        allowed.

    Example:
        >>> walk("monai.losses.DiceLoss.forward").rest
        ['forward']
    """
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        prefix, rest = ".".join(parts[:end]), parts[end:]
        if prefix in NAMES:
            return Walked(None, rest, listed=True)
        if not _DOTTED.fullmatch(prefix):
            break
        if _is_importable(prefix):
            found = _locate(prefix)
            if found is None:
                # if only the last name is misspelled, MONAI itself reports that it does not exist
                return Walked(None, [], "does not exist" if rest else None)
            if not isinstance(found, ModuleType):
                return Walked(found, rest, object_problem(found, prefix))
            if found.__name__ != prefix:
                return Walked(found, rest, f"is the module {found.__name__}")
        elif prefix not in PASSED_THROUGH and prefix not in IMPORTS:
            break
    else:
        return Walked(None, [], "is a module")
    return Walked(None, [], "is not known to be harmless")


def object_problem(found: Any, name: str = "") -> str | None:
    """Return why an object of monai, torch, ignite or segbundle may be harmful, or None if it is known to be harmless.

    Args:
        found: class, function or value.
        name: dotted name that was resolved to the object. Default: unknown.

    Example:
        >>> object_problem(range)
        'is builtins.range (outside monai, torch, ignite and segbundle)'
    """
    if isinstance(found, (bool, int, float, str, enum.Enum)):
        return None
    if isinstance(found, BuiltinFunctionType) and name.startswith("torch.nn.functional."):
        return None
    if not inspect.isclass(found) and not isinstance(found, FunctionType):
        return f"is a {type(found).__name__}, not a class or function"
    home = f"{found.__module__}.{found.__qualname__}"
    if home.partition(".")[0] not in PACKAGES:
        return f"is {home} ({OUTSIDE.removeprefix('is ')})"
    if any(_is_within(home, exception) for exception in _EXCEPTIONS):
        return f"is {home} (can run code or send data)"
    option = inspect.isclass(found) and issubclass(found, enum.Enum) and _is_within(home, "monai.utils")
    known = (
        option
        or home in _HARMLESS_FUNCTIONS
        or any(_is_within(home, room) for room in _HARMLESS_MODULES)
        or _is_own(found)
    )
    return None if known and not found.__qualname__.startswith("_") else f"is {home} (not known to be harmless)"


def _is_importable(name: str) -> bool:
    """Return whether a dotted name may be imported: it is, contains, or is within a module of the lists above."""
    package, *rooms = name.split(".")
    if package == "segbundle":
        return not rooms or rooms[0] == "reproductions" or rooms[0] in _OWN_COMPONENTS or rooms[0] in CURRENT_PACKAGES
    leading = name in _PARENT_MODULES or name.rpartition(".")[0] in _PARENT_MODULES
    return leading or any(_is_within(name, room) for room in _HARMLESS_MODULES)


def _locate(name: str) -> Any:
    """Return the object that MONAI would find under a dotted name, or None."""
    import pydoc

    with fast_imports():
        try:
            return pydoc.locate(name)
        except pydoc.ErrorDuringImport:
            return None


def _candidates(name: str) -> list[Any]:
    return [walk(name).found] if "." in name else _bare_candidates(name)


@lru_cache(maxsize=4096)
def _bare_candidates(name: str) -> list[Any]:
    """Return all components of MONAI that a bare name can refer to."""
    with fast_imports():
        importlib.import_module("monai.bundle")
    return [
        found
        for module in [known for known in sys.modules if known.startswith("monai")]
        if (found := vars(sys.modules[module]).get(name)) is not None
        and (inspect.isclass(found) or inspect.isfunction(found))
        and found.__module__ == module
    ]


def _bare_problem(name: str) -> str | None:
    candidates = _bare_candidates(name)
    if not candidates:
        return f"is not a component of MONAI, and {OUTSIDE.removeprefix('is ')}"
    return next((problem for found in candidates if (problem := object_problem(found))), None)


def _is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _is_own(found: Any) -> bool:
    package, *rooms = found.__module__.split(".")
    if package != "segbundle" or not rooms:
        return False
    if _REPRODUCTION.fullmatch(f"{found.__module__}.{found.__qualname__}"):
        return True
    if rooms[0] not in _OWN_COMPONENTS:
        return False
    room = sys.modules[f"segbundle.{rooms[0]}"]
    names = _OWN_COMPONENTS[rooms[0]]
    offered = room.__all__ if names is None else names
    return found.__name__ in offered and getattr(room, found.__name__, None) is found
