"""Tracing of networks while other threads run other modules."""

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet

from segbundle.acceleration.tracing import trace_network
from segbundle.transforms.resampling import ToGridd

SHEARED = torch.tensor([[1.0, 0, 0.2, 0], [0, 1.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], dtype=torch.float64)


class Halting(torch.nn.Module):
    """Network that pauses in the middle of tracing."""

    def __init__(self, reached, go_on):
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 1)
        self.stop = reached, go_on

    def forward(self, image):
        if isinstance(image, torch.fx.Proxy):
            reached, go_on = self.stop
            reached.set()
            assert go_on.wait(60)
        return self.convolution(image) * math.sqrt(4)


def straightened():
    scan = MetaTensor(torch.arange(60.0).reshape(1, 5, 4, 3), affine=SHEARED)
    return ToGridd("image", [1, 1, 1], None)({"image": scan})["image"]


def test_other_threads_run_modules_during_tracing():
    expected = straightened()
    reached, go_on = Event(), Event()
    network = Halting(reached, go_on).eval()
    functions = torch.nn.Module.__call__, torch.nn.Module.__getattr__, math.sqrt
    with ThreadPoolExecutor(1) as tracing:
        graph = tracing.submit(trace_network, network)
        assert reached.wait(60)
        try:
            assert (torch.nn.Module.__call__, torch.nn.Module.__getattr__, math.sqrt) == functions
            assert torch.equal(straightened(), expected)
            image = torch.ones(1, 1, 2, 2, 2)
            assert torch.equal(network(image), 2 * network.convolution(image))  # the network being traced
        finally:
            go_on.set()
        assert torch.equal(graph.result(60)(image), network(image))


def test_graph_has_the_modules_of_the_network():
    network = DynUNet(3, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8), norm_name="INSTANCE").eval()
    before = {name: type(module) for name, module in network.named_modules()}
    graph = trace_network(network)
    assert {name: type(module) for name, module in network.named_modules()} == before
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called and all(graph.get_submodule(name) is network.get_submodule(name) for name in called)
    image = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(graph(image), network(image), rtol=0, atol=0)


class WithParts(torch.nn.Module):
    """Network with an aliased module, a module in a list, a parameter, a buffer and a constant."""

    def __init__(self):
        super().__init__()
        self.first = self.alias = torch.nn.Conv3d(1, 1, 1)
        self.second = torch.nn.Conv3d(1, 1, 1)
        self.listed = [self.second]
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("offset", torch.tensor(3.0))
        self.constant = torch.tensor(4.0)

    def forward(self, image):
        return self.listed[0](self.alias(image)) * self.scale + self.offset + self.constant + torch.ones(1)


def test_graph_has_parameters_buffers_and_constants():
    network = WithParts().eval()
    names = set(vars(network))
    graph, image = trace_network(network), torch.rand(1, 1, 2, 2, 2)
    assert set(vars(network)) == names
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["first", "second"]
    assert torch.equal(graph(image), network(image))
    with torch.no_grad():
        network.scale.fill_(-1.0)
    assert torch.equal(graph(image), network(image))


def test_value_dependent_networks_cannot_be_traced():
    class Choosing(torch.nn.Module):
        def forward(self, image):
            return image if image.sum() > 0 else -image

    with pytest.raises(torch.fx.proxy.TraceError):
        trace_network(Choosing())
