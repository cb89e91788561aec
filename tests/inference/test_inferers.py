import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet

from segbundle.inference.backends import autocast
from segbundle.inference.patch_inferer import PatchInferer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1).eval()


class Spy(torch.nn.Module):
    """Convolution that records the precision in which it runs."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, 1)
        self.dtype = None

    def forward(self, x):
        y = self.conv(x)
        self.dtype = y.dtype
        return y


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_applies_to_the_network_only(precision, dtype):
    spy = Spy()
    scores = PatchInferer(precision)(torch.rand(1, 1, 6, 5, 4), spy)
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
