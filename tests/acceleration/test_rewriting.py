import copy

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, SegResNet, UNet, VNet

from segbundle.acceleration.layers import ChannelsLastInstanceNorm, FusedLayer, with_channels_last_norms
from segbundle.acceleration.rewriting import optimized
from segbundle.inference.backends import prepare

CPU = torch.device("cpu")
NETWORKS = {
    "one residual unit": lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=1, norm="batch"),
    "two residual units": lambda: UNet(3, 1, 14, (4, 8, 16), (2, 2), num_res_units=2, norm="batch"),
    "instance norm": lambda: UNet(3, 1, 3, (4, 8, 16), (2, 2), num_res_units=2, norm="instance"),
    "ReLU, no residual units": lambda: UNet(3, 1, 6, (4, 6, 12), (2, 2), act="RELU", norm="batch"),
    "PReLU that folds": lambda: UNet(
        3, 1, 6, (4, 8), (2,), act=("PRELU", {"num_parameters": 1, "init": -0.2}), norm="batch"
    ),
    "DynUNet": lambda: DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16), norm_name="INSTANCE"),
    "residual DynUNet": lambda: DynUNet(
        3,
        1,
        3,
        (3, 3, 3),
        (1, 2, 2),
        (2, 2),
        filters=(4, 8, 8),
        norm_name=("INSTANCE", {"affine": True}),
        res_block=True,
    ),
    "DynUNet with deep supervision": lambda: DynUNet(
        3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16), norm_name="INSTANCE", deep_supervision=True
    ),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(4, 4, 8, 8, 8, 4)),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3, blocks_down=(1, 2), blocks_up=(1,)),
    "AttentionUnet": lambda: AttentionUnet(3, 1, 3, (4, 8), (2,)),
    "VNet": lambda: VNet(3, 1, 2),
}


def made(name):
    """Return a network whose output depends on every parameter and statistic."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.BatchNorm3d | torch.nn.InstanceNorm3d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    return network


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def windows(batch=2, channels=1):
    return torch.rand(batch, channels, 16, 16, 32, generator=torch.Generator().manual_seed(1))


def assert_equal(ours, theirs, relative=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


def kinds(network):
    return {type(module) for module in network.modules()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", [*(name for name in NETWORKS if name != "VNet"), pytest.param("VNet", marks=SLOW)])
def test_rewritten_network_is_equivalent(name, batch, dtype):
    network, image = made(name), windows(batch)
    before = copy.deepcopy(network.state_dict())
    run = prepare(optimized(network, image.shape, dtype), "eager", "fp32", tuple(image.shape), CPU)
    for image in (windows(batch), windows(batch) - 1, windows(batch)[:1]):
        assert_equal(run(image), network(image))
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_as_close_as_without_rewriting(name, precision):
    network, image = made(name), windows(batch=1 if name == "VNet" else 2)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    plain, quick = (
        (prepare(one, "eager", precision, tuple(image.shape), CPU)(image).float() - network(image)).abs().mean()
        for one in (network, optimized(network, image.shape, dtype))
    )
    assert quick <= 2 * plain  # different weights are rounded


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without bfloat16")
def test_bfloat16_layers_are_fused_like_float32():
    for dtype in (torch.float32, torch.bfloat16):
        network = optimized(made("two residual units"), (1, 1, 16, 16, 32), dtype)
        fused = [module for module in network.modules() if isinstance(module, FusedLayer)]
        assert len(fused) >= 8 and {module.weight.dtype for module in fused} == {dtype}
        assert torch.nn.PReLU not in kinds(network)


def test_deep_supervision_heads_are_removed():
    network = made("DynUNet with deep supervision")
    assert not any("supervision" in name for name, _ in optimized(network, windows().shape).named_modules())


@pytest.mark.parametrize("name", ["one residual unit", "two residual units", "ReLU, no residual units"])
def test_model_zoo_unet_becomes_convolutions_only(name):
    known = kinds(optimized(made(name), (1, 1, 16, 16, 32), torch.float32))
    gone = {torch.nn.BatchNorm3d, torch.nn.Dropout, torch.nn.Identity, torch.nn.ReLU, torch.nn.ConvTranspose3d}
    assert not known & gone


def test_channels_last_copies_give_equal_results():
    image = windows().to(memory_format=torch.channels_last_3d)
    network = made("two residual units")
    assert_equal(optimized(network, image.shape, torch.float32)(image), network(image))


class SharedConvolution(torch.nn.Module):
    """Network with a convolution before two batch norms, and a result that is used twice."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 1, 3, padding=1)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm3d(1) for _ in range(3))
        self.last = torch.nn.Conv3d(1, 1, 1)
        for factor, norm in enumerate(self.norms, start=2):
            norm.running_var.fill_(factor)

    def forward(self, x):
        y = self.norms[1](self.convolution(self.norms[0](self.convolution(x))))
        z = self.last(y)
        return self.norms[2](z) + z


class Sums(torch.nn.Module):
    """Network with sums of convolutions, of which only some can be fused."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Conv3d(1, channels, 3, padding=1) for _ in range(3))
        self.narrow = torch.nn.Conv3d(1, 1, 3, padding=1)
        self.smaller = torch.nn.Conv3d(1, channels, 3)
        self.strided = torch.nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.activation = torch.nn.LeakyReLU(0.2)

    def forward(self, x):
        together = self.first(x) + self.activation(self.second(x))  # can be fused
        reused = self.third(x)
        once = reused + self.narrow(x)  # with broadcasting
        smaller = torch.add(self.smaller(x), reused[:, :, 1:-1, 1:-1, 1:-1], alpha=2)
        return self.strided(together) + once + torch.nn.functional.pad(smaller, (1,) * 6) + reused


@pytest.mark.parametrize("channels", [1, 4, 6, 12])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_sums_are_not_fused_if_a_result_is_reused(dtype, channels):
    network = Sums(channels).eval()
    before = windows()
    assert_equal(optimized(network, before.shape, dtype)(before), network(before))
    assert torch.equal(before, windows())


class OwnInput(torch.nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.convolution = torch.nn.Conv3d(3, 3, **settings)

    def forward(self, x):
        return x + self.convolution(x)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 1, 5), "padding": (1, 0, 2)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 3},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
        {"kernel_size": 1},
    ],
)
def test_convolution_plus_its_input_is_equivalent(settings):
    network, image = OwnInput(**settings).eval(), windows(1, 3)
    assert_equal(optimized(network, image.shape, torch.float32)(image), network(image))


@pytest.mark.parametrize("channels", [5, 6, 7, 11, 12, 14, 30])
def test_padded_channels_do_not_change_results(channels):
    layers = [torch.nn.ConvTranspose3d(2, channels, 3, 2, 1, 1), torch.nn.PReLU()]
    layers += [torch.nn.Conv3d(channels, channels, 3), torch.nn.Conv3d(channels, channels, 3, 2)]
    network, image = torch.nn.Sequential(*layers).eval(), windows(1, 2)
    assert_equal(optimized(network, image.shape, torch.float32)(image), network(image))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16, 32), (1, 1, 1, 5, 7), (1, 40, 30, 31, 29), (1, 4, 96, 96, 96)])
@pytest.mark.parametrize("affine", [False, True])
def test_channels_last_instance_norm_is_exact(affine, shape):
    norm = torch.nn.Sequential(torch.nn.InstanceNorm3d(shape[1], affine=affine)).eval()
    if affine:
        torch.nn.init.normal_(norm[0].weight)
        torch.nn.init.normal_(norm[0].bias)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 10
    exact = copy.deepcopy(norm).double()(values.double())
    faster = optimized(norm, values.shape)
    assert torch.nn.InstanceNorm3d not in kinds(faster)
    assert (faster(values.to(memory_format=torch.channels_last_3d)) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_channels_last_instance_norm_trains_like_pytorch(affine, dtype):
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        norm = torch.nn.InstanceNorm3d(6, affine=affine)
        if affine:
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
        image = torch.randn(3, 6, 5, 4, 7)
        gradient = torch.randn(3, 6, 5, 4, 7)
        found = []
        for one, given in ((norm, image), (ChannelsLastInstanceNorm.of(norm), image.to(dtype))):
            x = given.to(memory_format=torch.channels_last_3d).detach().requires_grad_()
            result = one(x)
            wanted = [x, *one.parameters()]
            found.append([result, *torch.autograd.grad(result, wanted, gradient.to(result.dtype))])
        precision = 1e-5 if dtype is torch.float32 else 0.02
        for theirs, ours in zip(*found, strict=True):
            assert (ours.float() - theirs).abs().max() <= precision * theirs.abs().max()


def test_replaced_norms_share_weights_and_keep_the_repr():
    network = made("residual DynUNet")
    before, text = network.state_dict(), repr(network)
    image = windows()
    expected = network(image)
    assert with_channels_last_norms(network) is network
    assert ChannelsLastInstanceNorm in kinds(network) and torch.nn.InstanceNorm3d not in kinds(network)
    assert repr(network) == text
    assert_equal(network(image), expected)
    after = network.state_dict()
    assert {name: value.data_ptr() for name, value in after.items()} == {n: v.data_ptr() for n, v in before.items()}


def test_instance_norm_with_running_stats_is_not_replaced():
    norm = torch.nn.Sequential(torch.nn.InstanceNorm3d(1, track_running_stats=True)).eval()
    norm[0].running_mean.fill_(0.5)
    assert_equal(optimized(norm, windows().shape, torch.float32)(windows()), norm(windows()))


def test_convolutions_used_twice_keep_their_batch_norms():
    network = SharedConvolution().eval()
    assert_equal(optimized(network, windows().shape, torch.float32)(windows()), network(windows()))


class Branching(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Choosing(torch.nn.Module):
    """Network that handles proxies of `torch.fx` differently from tensors."""

    def forward(self, x):
        return 2 * x if torch.jit.isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("network", [Branching().eval(), Choosing().eval(), made("DynUNet").train()])
def test_networks_that_cannot_be_rewritten_are_unchanged(network):
    assert optimized(network, windows().shape) is network


class OfOneSize(torch.nn.Module):
    """Network for a single window size, such as networks with position embeddings."""

    def __init__(self):
        super().__init__()
        self.positions = torch.nn.Parameter(torch.rand(16, 16, 32))
        self.dropout = torch.nn.Dropout()

    def forward(self, x):
        return self.dropout(x) + self.positions


def test_networks_with_fixed_window_size():
    network, image = OfOneSize().eval(), windows()
    faster = optimized(network, image.shape)
    assert faster is not network
    assert_equal(faster(image), network(image))
