"""Arguments of harmless components that name code to run, or make them unpickle what they load."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

_FORMATS = ("itk", "nibabel", "nrrd", "numpy", "pil", "pydicom", "wsi", "fastmri")
_READERS = frozenset(
    {f"{name}{kind}" for name in _FORMATS for kind in ("reader", "writer")}
    | {"imagewriter", "avgmerger", "zarravgmerger", "cucim", "openslide", "tifffile"}
)
"""What `reader`, `writer` and `merger_cls` may name; MONAI calls whatever else they name."""
_NAMING = frozenset({"merger_cls", "reader", "writer"})
_CODE_ARGUMENTS = _NAMING | {"allow_pickle", "compile_kwargs", "pickle_module", "weights_only"}


def argument_problem(name: str, value: Any) -> str | None:
    """Return why an argument may not have a value, or None.

    Args:
        name: of the argument.
        value: as the configuration has it, or one of a list; a component is judged by its own `_target_`.

    Example:
        >>> argument_problem("reader", "os.system")
        "names code to run; known are MONAI's readers, writers and mergers"
        >>> argument_problem("reader", "ITKReader")
    """
    if name not in _CODE_ARGUMENTS or value is None:
        return None
    if name in _NAMING:
        return None if _is_reader(value) else "names code to run; known are MONAI's readers, writers and mergers"
    if name == "compile_kwargs":
        return None if value == {} else "chooses by which programs code is compiled"
    if name == "pickle_module":
        return None if value == "pickle" else "names code that unpickles"
    return None if value is (name == "weights_only") else "unpickles what is loaded"


def makes_object(component: Any) -> bool:
    """Return whether a component is an instance of a class, and no text that a function returns."""
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


@lru_cache(maxsize=4096)
def takes_code_names(component: Any) -> bool:
    """Return whether a class or function takes an argument that names code, as `LoadImage` takes `reader`."""
    bases = inspect.getmro(component) if inspect.isclass(component) else ()
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    for maker in makers or [component]:
        try:
            if _CODE_ARGUMENTS.intersection(inspect.signature(maker).parameters):
                return True
        except (TypeError, ValueError):  # built in; it does not say
            continue
    return False
