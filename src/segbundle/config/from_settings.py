"""Decorator for components that read arguments from the settings of their workflow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def from_settings(function: Callable[P, T]) -> Callable[P, T]:
    """Add an argument `settings` to a function: a mapping with values for its other arguments.

    The bundle's workflows pass `settings: "@settings"` to a component instead of listing each value. An argument that
    is passed explicitly takes precedence. Settings that are not arguments of the component are ignored.

    Args:
        function: function, or `__init__` of a class.

    Returns:
        function with the additional keyword argument `settings`, whose default is None (no settings)

    Example:
        >>> @from_settings
        ... def volume(patch_size, batch_size=1):
        ...     return patch_size[0] * patch_size[1] * patch_size[2] * batch_size
        >>> volume(settings={"patch_size": [4, 4, 4], "batch_size": 2, "seed": 0})
        128
        >>> volume(settings={"patch_size": [4, 4, 4], "batch_size": 2}, batch_size=3)
        192
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind not in variable]

    @functools.wraps(function)
    def with_settings(*args: Any, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> T:
        if settings:
            given = signature.bind_partial(*args, **kwargs).arguments
            kwargs |= {name: settings[name] for name in names if name in settings and name not in given}
        return cast(Any, function)(*args, **kwargs)

    added = inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Mapping | None")
    last = len(parameters) - any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    cast(Any, with_settings).__signature__ = signature.replace(
        parameters=[*parameters[:last], added, *parameters[last:]]
    )
    return cast(Callable[P, T], with_settings)
