"""Inspection of arguments that make harmless components dangerous: names of code, unpickling, downloads, servers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

_FORMATS = ("itk", "nibabel", "nrrd", "numpy", "pil", "pydicom", "wsi", "fastmri")
_READERS = frozenset(
    {f"{name}{kind}" for name in _FORMATS for kind in ("reader", "writer")}
    | {"imagewriter", "avgmerger", "zarravgmerger", "cucim", "openslide", "tifffile"}
)
"""Allowed names in `reader`, `writer` and `merger_cls`. MONAI imports and calls any other name."""
_NAMING = frozenset({"merger_cls", "reader", "writer"})
_CODE_ARGUMENTS = _NAMING | {"allow_pickle", "compile_kwargs", "pickle_module", "weights_only"}

_DOWNLOADS = frozenset({"pretrained", "pretrained_backbone", "pretrained_url"})
"""Arguments that make networks download weights."""
_SERVERS = frozenset({"count_store", "kwargs_read_csv", "mlflow_uri", "store", "tracking_uri", "value_store"})
"""Arguments that name a location to read from or write to, including servers."""
_ADDRESSES = frozenset({"count_store", "mlflow_uri", "src", "store", "tracking_uri", "url", "value_store"})
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*):/(?=/)", re.IGNORECASE)
_LOCAL = frozenset({"env", "file", "sqlite"})
UNKNOWN = object()
"""Placeholder for a value that is known only when the configuration runs."""


def has_address(text: str) -> bool:
    """Return whether a text contains a URL that may lead to another computer.

    URLs with the schemes `env`, `file` and `sqlite` are local.

    Args:
        text: any text.

    Example:
        >>> has_address("see http://server:5000"), has_address("sqlite:///mlflow.db")
        (True, False)
    """
    return any(scheme.lower() not in _LOCAL for scheme in _ADDRESS.findall(text))


def argument_problem(name: str, value: Any) -> str | None:
    """Return why a value is not allowed for an argument, or None if it is allowed.

    Args:
        name: name of the argument.
        value: value in the configuration, or an item of a list. A component is inspected separately, by its `_target_`.

    Example:
        >>> argument_problem("reader", "os.system")
        "names code other than MONAI's readers, writers and mergers"
        >>> argument_problem("reader", "ITKReader") is None
        True
    """
    if value is None:
        return None
    if name in _DOWNLOADS:
        return None if value is False else "makes networks download weights"
    if name == "weights" and isinstance(value, str) and value[:1] not in ("$", "@"):
        return "makes networks download weights"
    if name in _ADDRESSES:
        hidden = isinstance(value, str) and value.startswith(("$", "%", "databricks"))
        return "may name a server" if hidden else None
    if name not in _CODE_ARGUMENTS:
        return None
    if name in _NAMING:
        return None if _is_reader(value) else "names code other than MONAI's readers, writers and mergers"
    if name == "compile_kwargs":
        return None if value == {} else "chooses the programs that compile code"
    if name == "pickle_module":
        return None if value == "pickle" else "names code that unpickles"
    return None if value is (name == "weights_only") else "unpickles the file that is loaded"


def makes_object(component: Any) -> bool:
    """Return whether a value is a component whose `_target_` is a class, rather than a function.

    A class is recognized by the capital first letter of the last part of its name. The result is False for components
    with a `_mode_`, and for values that are not components.

    Args:
        component: any value of a configuration; a component is a mapping with a `_target_`.

    Example:
        >>> makes_object({"_target_": "ITKReader"}), makes_object({"_target_": "os.getenv"})
        (True, False)
    """
    if not isinstance(component, dict) or "_mode_" in component:
        return False
    name = component.get("_target_")
    return isinstance(name, str) and name.rpartition(".")[2][:1].isupper()


def _is_reader(value: Any) -> bool:
    if isinstance(value, dict):
        return makes_object(value)
    if not isinstance(value, str):
        return False
    name = value.removeprefix("$monai.data.")
    return name.lower() in _READERS if "." not in name else False


def takes_code_names(component: Any) -> bool:
    """Return whether a class or function, such as `LoadImage`, has a parameter that can name code or a server.

    Args:
        component: class or function.

    Example:
        >>> takes_code_names(lambda reader: None), takes_code_names(lambda image: None)
        (True, False)
    """
    return not (_CODE_ARGUMENTS | _SERVERS).isdisjoint(_parameters(component))


def takes_downloads(component: Any) -> bool:
    """Return whether a class or function has a parameter, such as `pretrained`, that can trigger a download of weights.

    Args:
        component: class or function.

    Example:
        >>> takes_downloads(lambda pretrained=False: None), takes_downloads(lambda image: None)
        (True, False)
    """
    return not _DOWNLOADS.isdisjoint(_parameters(component))


def downloads(component: Any, positional: Iterable[Any], named: Mapping[str, Any]) -> bool:
    """Return whether a class or function may download weights when it is called with certain arguments.

    This is the case if an argument such as `pretrained` is neither False nor None, or is not known.

    Args:
        component: class or function.
        positional: positional arguments; `UNKNOWN` for values that are known only when the configuration runs.
        named: keyword arguments; `UNKNOWN` as for `positional`.

    Example:
        >>> downloads(lambda pretrained=False: None, [], {}), downloads(lambda pretrained=False: None, [True], {})
        (False, True)
    """
    known = _parameters(component)
    given = {**known, **dict(zip(known, positional, strict=False)), **named}
    names = _DOWNLOADS.intersection(known)
    if names and "weights" in known:  # argument of torchvision's networks
        names |= {"weights"}
    return any(given[name] not in (False, None) for name in names)


@lru_cache(maxsize=4096)
def _parameters(component: Any) -> dict[str, Any]:
    """Return the arguments and defaults of a function, or of a class followed by those of its base classes."""
    bases = inspect.getmro(component) if inspect.isclass(component) else ()
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    found: dict[str, Any] = {}
    for maker in makers or [component]:
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError):  # built in, without a signature
            continue
        for name, parameter in parameters.items():
            if not (makers and name == "self"):
                found.setdefault(name, parameter.default)
    return found
