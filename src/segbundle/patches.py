"""Former names of components, see `former_names.py`."""

from typing import Any

from segbundle.former_names import find_component


def __getattr__(name: str) -> Any:
    return find_component("patches", name)
