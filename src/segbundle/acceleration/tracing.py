"""Trace the forward pass of a network without affecting other threads."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.proxy import Proxy

from segbundle.acceleration.layers import ChannelsLastInstanceNorm

_SCRIPTED = torch.jit.ScriptModule


def trace_network(network: torch.nn.Module) -> torch.fx.GraphModule:
    """Trace the forward pass of a network into a graph of its modules.

    `torch.fx.symbolic_trace` patches `torch.nn.Module.__call__` and functions of `math` for the whole process while it
    runs, so modules in other threads fail. This function traces a copy that shares all tensors, and only the
    classes of the copied modules record calls. In contrast to `symbolic_trace`, functions registered with
    `torch.fx.wrap` are traced into as well.

    Args:
        network: network to trace; not modified. The graph calls its leaf modules (layers of `torch.nn` and
            `ChannelsLastInstanceNorm`); all other modules are traced into.

    Returns:
        module that runs the graph and shares the parameters and buffers of `network`

    Raises:
        Exception: the forward pass cannot be traced; the error may be of any type.

    Example:
        >>> traced = trace_network(torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.ReLU()))
        >>> [node.op for node in traced.graph.nodes]
        ['placeholder', 'call_module', 'call_module', 'output']
    """
    tracer = _Tracer()
    graph = tracer.trace(network)
    root = object.__new__(type(network))
    root.__dict__ = {**tracer.constants, **network.__dict__}
    return torch.fx.GraphModule(root, graph)


class _Tracer(torch.fx.Tracer):
    """Tracer that records the calls of a copy of a network; modules of PyTorch and of this package are leaves.

    Attributes:
        constants: tensors by name that the graph needs and the network does not have.
    """

    constants: dict[str, Any]

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelsLastInstanceNorm) or super().is_leaf_module(m, module_qualified_name)

    def trace(
        self, root: torch.nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None
    ) -> torch.fx.Graph:
        """Trace a module; see `torch.fx.Tracer`."""
        if not isinstance(root, torch.nn.Module):
            raise TypeError(f"root must be a torch.nn.Module, got {type(root).__name__}.")
        self.root = _shared_copy(root, {})
        own = set(self.root.__dict__)
        self.root_module_name = type(root).__name__
        self.graph = torch.fx.Graph()
        self.tensor_attrs = {
            value: f"{path}.{name}" if path else name
            for path, module in self.root.named_modules()
            for name, value in module.__dict__.items()
            if isinstance(value, torch.Tensor)
        }
        self._record_calls()
        self.submodule_paths = {module: path for path, module in self.root.named_modules()}
        function, arguments = self.create_args_for_root(type(root).forward, is_module=True, concrete_args=concrete_args)
        self.create_node("output", "output", (self.create_arg(function(*arguments)),), {})
        self.submodule_paths = None
        self.constants = {name: value for name, value in self.root.__dict__.items() if name not in own}
        return self.graph

    def _record_calls(self) -> None:
        """Give every module of the copy a separate class that reports calls and parameters to this tracer."""
        tracer, proxies = self, dict[str, Proxy]()
        classes: dict[type, type] = {}

        def recording(kind: Any) -> type:
            def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
                return tracer.call_module(module, functools.partial(kind.__call__, module), args, kwargs)

            def attribute(module: torch.nn.Module, name: str) -> Any:
                return tracer.getattr(name, kind.__getattr__(module, name), proxies)

            names = {"__call__": call, "__getattr__": attribute, "__module__": kind.__module__}
            return type(kind.__name__, (kind,), names)

        for module in self.root.modules():
            kind = type(module)
            if isinstance(module, _SCRIPTED):  # its calls cannot be recorded
                continue
            if kind not in classes:
                classes[kind] = recording(kind)
            module.__class__ = classes[kind]


def _shared_copy(value: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of a network's modules, and of the lists and dicts that contain them; everything else is shared."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, torch.nn.Module):
        twin = copies[id(value)] = object.__new__(type(value))
        for name, part in value.__dict__.items():
            twin.__dict__[name] = part if name.endswith("_hooks") else _shared_copy(part, copies)
        return twin
    if type(value) is list:
        entries = copies[id(value)] = []
        entries.extend(_shared_copy(part, copies) for part in value)
        return entries
    if type(value) in (dict, OrderedDict):
        items = copies[id(value)] = type(value)()
        items.update((key, _shared_copy(part, copies)) for key, part in value.items())
        return items
    if type(value) is tuple:
        return tuple(_shared_copy(part, copies) for part in value)
    return value
