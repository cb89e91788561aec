import monai.inferers
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet

from segbundle.inferers import PatchInferer, SlidingWindowInferer, autocast


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1).eval()


class Spy(torch.nn.Module):
    """A convolution that remembers in which precision it ran."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, 1)
        self.dtype = None

    def forward(self, x):
        y = self.conv(x)
        self.dtype = y.dtype
        return y


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_is_that_of_the_network_only(precision, dtype):
    spy = Spy()
    for inferer in (PatchInferer(precision), SlidingWindowInferer((4, 4, 4), precision=precision)):
        scores = inferer(torch.rand(1, 1, 6, 5, 4), spy)
        assert spy.dtype is dtype
        assert scores.dtype is torch.float32


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'auto', 'bf16', 'fp16' or 'fp32'"):
        autocast(torch.device("cpu"), "fp8")


def test_patches_pass_with_gradients_and_without_metadata(network):
    scores = PatchInferer("fp32")(MetaTensor(torch.rand(2, 1, 8, 8, 8)), network)
    assert type(scores) is torch.Tensor
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 20, 9), (17, 8, 1), (8, 8, 8)])
def test_float32_windows_equal_monais(network, shape):
    image = torch.rand(1, 1, *shape)
    theirs = monai.inferers.SlidingWindowInferer((8, 8, 8), sw_batch_size=2, overlap=0.5, mode="gaussian")
    ours = SlidingWindowInferer((8, 8, 8), sw_batch_size=2, precision="fp32")
    torch.testing.assert_close(ours(image, network), theirs(image, network), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bf16_windows_are_close_to_float32(network):
    image = torch.rand(1, 1, 20, 20, 20)
    exact = SlidingWindowInferer((8, 8, 8), precision="fp32")(image, network)
    fast = SlidingWindowInferer((8, 8, 8), precision="bf16")(image, network)
    torch.testing.assert_close(fast, exact, rtol=0.05, atol=0.05)
