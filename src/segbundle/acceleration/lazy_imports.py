"""Starting fast: what MONAI imports for parts of it that are not used is imported when they are.

`import monai` brings SciPy's signal processing, matplotlib, PyTorch's distributed optimizers and more along. Together
that is half of the time that a command takes before it begins to work.
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
    """Within the block, imports of some packages that are installed take no time; they happen at first use.

    What is imported from them are stand-ins that import the package when they are called or asked for an attribute;
    nothing is an instance of one while its package has not been imported. They cannot be subclassed. After the block
    the packages are imported as ever. Garbage is not collected within: imports make objects that stay.

    Args:
        deferred: names of the packages; one that is imported already, or not installed, is left alone.
    """
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
    """Let the next import of a module find the real one."""
    del sys.modules[name]
    parent, _, last = name.rpartition(".")
    if parent in sys.modules and sys.modules[parent].__dict__.get(last) is module:
        delattr(sys.modules[parent], last)


class _DeferredModule(ModuleType):
    """Stands in for a module; its names are stand-ins, too, until the real module is there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Deferred(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


class _Deferred:
    """Stands in for something that a module defines."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        loaded = sys.modules.get(self._module)
        return loaded is not None and not isinstance(loaded, _DeferredModule) and isinstance(instance, self._real())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for some packages and everything in them."""

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
        module.__file__ = spec.origin  # without one it would count as a namespace package
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute yet."""
