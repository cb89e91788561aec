"""Arguments of harmless components that name code to run, make them unpickle what they load, or name a server."""

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
"""Allowed names in `reader`, `writer` and `merger_cls`; MONAI calls anything else that they name."""
_NAMING = frozenset({"merger_cls", "reader", "writer"})
_CODE_ARGUMENTS = _NAMING | {"allow_pickle", "compile_kwargs", "pickle_module", "weights_only"}

_DOWNLOADS = frozenset({"pretrained", "pretrained_backbone", "pretrained_url"})
"""With these, networks download weights."""
_SERVERS = frozenset({"count_store", "kwargs_read_csv", "mlflow_uri", "store", "tracking_uri", "value_store"})
"""Classes with one of these arguments read from, or write to, any place that an argument names, including servers."""
_ADDRESSES = frozenset({"count_store", "mlflow_uri", "src", "store", "tracking_uri", "url", "value_store"})
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*):/(?=/)", re.IGNORECASE)
_LOCAL = frozenset({"env", "file", "sqlite"})
UNKNOWN = object()
"""Stands for a value that is known only when the configuration runs."""


def holds_address(text: str) -> bool:
    """Return whether a text names something on another computer.

    Example:
        >>> holds_address("see http://server:5000"), holds_address("sqlite:///mlflow.db")
        (True, False)
    """
    return any(scheme.lower() not in _LOCAL for scheme in _ADDRESS.findall(text))


def argument_problem(name: str, value: Any) -> str | None:
    """Return why a value is not allowed for an argument, or None.

    Args:
        name: of the argument.
        value: as in the configuration, or one value of a list; a component is judged by its own `_target_`.

    Example:
        >>> argument_problem("reader", "os.system")
        "names code to run, and none of MONAI's readers, writers and mergers"
        >>> argument_problem("reader", "ITKReader")
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
        return None if _is_reader(value) else "names code to run, and none of MONAI's readers, writers and mergers"
    if name == "compile_kwargs":
        return None if value == {} else "chooses the programs that compile code"
    if name == "pickle_module":
        return None if value == "pickle" else "names code that unpickles"
    return None if value is (name == "weights_only") else "unpickles the file that is loaded"


def makes_object(component: Any) -> bool:
    """Return whether a component is an instance of a class, rather than text that a function returns."""
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
    """Return whether a class or function takes an argument that names code or servers, as `LoadImage` does."""
    return not (_CODE_ARGUMENTS | _SERVERS).isdisjoint(_parameters(component))


def takes_downloads(component: Any) -> bool:
    """Return whether a class or function has an argument that makes it download weights."""
    return not _DOWNLOADS.isdisjoint(_parameters(component))


def downloads(component: Any, positional: Iterable[Any], named: Mapping[str, Any]) -> bool:
    """Return whether a class or function may download weights when it is called.

    Args:
        component: the class or function.
        positional: its arguments by position; `UNKNOWN` for values that are not in the text.
        named: its arguments by name.
    """
    known = _parameters(component)
    given = {**known, **dict(zip(known, positional, strict=False)), **named}
    names = _DOWNLOADS.intersection(known)
    if names and "weights" in known:  # torchvision's
        names |= {"weights"}
    return any(given[name] not in (False, None) for name in names)


@lru_cache(maxsize=4096)
def _parameters(component: Any) -> dict[str, Any]:
    """Return the arguments of a class, followed by those of its bases, or of a function, with their defaults."""
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
