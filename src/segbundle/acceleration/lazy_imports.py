"""Speed up the start of a program by deferring imports of MONAI that segbundle may not need.

`import monai` also imports SciPy's signal processing, matplotlib, PyTorch's distributed optimizers and more. Together,
these imports take half of the start-up time of a command.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from segbundle.acceleration.gate import is_accelerated

_DEFERRED = (
    "jsonschema",
    "matplotlib",
    "scipy.signal",
    "scipy.sparse",
    "sklearn",
    "torch.distributed.optim",
)


@contextmanager
def fast_imports(deferred: Sequence[str] = _DEFERRED) -> Iterator[None]:
    """Defer imports of installed packages in a `with` block until their first use.

    In the block, imports of these packages return stand-ins. A stand-in imports the real package when it is called or
    when an attribute is accessed. No object is an instance of a stand-in before its package is imported, and stand-ins
    cannot be subclassed. After the block, imports work normally. Garbage collection is off in the block, because
    imports create permanent objects. If the acceleration is off (see `is_accelerated`), nothing is deferred.

    Args:
        deferred: names of the packages; packages that are already imported or not installed are ignored. Default:
            packages that MONAI imports and segbundle may not need, such as matplotlib and scikit-learn.

    Example:
        >>> with fast_imports(["wave"]):
        ...     import wave
        ...     deferred = type(wave).__name__
        >>> deferred
        '_DeferredModule'
    """
    if not is_accelerated():
        yield
        return
    finder = _Finder([name for name in deferred if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _DeferredModule):
                _forget(name, module)


def _forget(name: str, module: ModuleType) -> None:
    """Remove a module, so that the next import finds the real module."""
    del sys.modules[name]
    parent, _, last = name.rpartition(".")
    if parent in sys.modules and sys.modules[parent].__dict__.get(last) is module:
        delattr(sys.modules[parent], last)


class _DeferredModule(ModuleType):
    """Stand-in for a module. Its names are stand-ins until the real module is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Deferred(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


class _Deferred:
    """Stand-in for an object that a module defines."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _resolve(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._resolve()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._resolve(), name)

    def __instancecheck__(self, instance: object) -> bool:
        loaded = sys.modules.get(self._module)
        return loaded is not None and not isinstance(loaded, _DeferredModule) and isinstance(instance, self._resolve())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder and loader of stand-ins for packages and their submodules."""

    def __init__(self, deferred: Sequence[str]) -> None:
        self.deferred = tuple(deferred)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        within = any(name.startswith(f"{package}.") for package in self.deferred)
        if not within and (name not in self.deferred or importlib.machinery.PathFinder.find_spec(name, path) is None):
            return None
        return importlib.machinery.ModuleSpec(name, self, origin="deferred", is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _DeferredModule(spec.name)
        module.__file__ = spec.origin  # a module without a file counts as a namespace package
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing, because the real module is not imported yet."""
