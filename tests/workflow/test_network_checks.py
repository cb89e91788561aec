import pytest
import torch
from monai.networks.nets import DynUNet

from segbundle.errors import ConfigError
from segbundle.inference.memory import measured_needs
from segbundle.workflow import network_checks
from segbundle.workflow.devices import place_network
from segbundle.workflow.network_checks import check_batch, check_network


@pytest.mark.parametrize(
    ("patch_size", "class_names", "message"),
    [
        ([18, 16, 16], ["background", "a"], r"fails for patches of patch_size \[18, 16, 16\] .* divisible"),
        (
            [16, 16, 16],
            ["background", "a", "b"],
            r"returns \(1, 2, 16, 16, 16\) .* one channel for each of the 3 class_names",
        ),
    ],
)
def test_unsuitable_networks_raise(patch_size, class_names, message):
    network = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[2, 2, 2, 2])
    with pytest.raises(ConfigError, match=message):
        check_network(network, "cpu", 1, patch_size, class_names)
    check_network(network, "cpu", 1, [16, 16, 16], ["background", "a"])
    assert network.training


def test_patches_that_do_not_fit_into_memory_raise(monkeypatch):
    network = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[2, 2, 2, 2])
    with pytest.raises(
        ConfigError, match=r"patch_size is \[4096, 4096, 4096\]: a patch of 68,719,476,736 voxels takes"
    ):
        check_network(network, "cpu", 1, [4096] * 3, ["background", "a"])
    each = measured_needs(network.eval(), 1, [32] * 3).bytes_per_voxel / 2
    monkeypatch.setattr(network_checks, "free_memory", lambda device: 32**3 * each)
    check_network(network, "cpu", 1, [32] * 3, ["background", "a"])
    with pytest.raises(
        ConfigError, match=r"window_size is \[64, 32, 32\]: a patch of 65,536 voxels .* Choose a smaller"
    ):
        check_network(network, "cpu", 1, [32] * 3, ["background", "a"], [64, 32, 32])


def test_any_error_of_the_network_is_reported():
    class Failing(torch.nn.Module):
        def forward(self, image):
            return {}[int(image.sum())]

    with pytest.raises(ConfigError, match=r"fails for patches of patch_size \[8, 8, 8\] \(KeyError: 0\)"):
        check_network(Failing(), "cpu", 1, [8, 8, 8], ["background", "a"])


@pytest.mark.slow
def test_batch_that_does_not_fit_suggests_a_size(monkeypatch):
    network = DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16))
    one = network_checks.training_bytes(network, 1, (32, 32, 32), "fp32")
    assert 32**3 * 4 * 4 * 4 < one < 32**3 * 4 * 4 * 100
    twice = network_checks.training_bytes(network, 1, (64, 32, 32), "fp32")
    assert twice == pytest.approx(2 * one, rel=0.01)
    monkeypatch.setattr(network_checks, "free_memory", lambda device: 5.5 * one)
    check_batch(network, "cpu", 1, (32, 32, 32), 5, "fp32")
    with pytest.raises(ConfigError, match=r"batch_size 6 does not fit .* Use batch_size 5\."):
        check_batch(network, "cpu", 1, (32, 32, 32), 6, "fp32")
    with pytest.raises(ConfigError, match="Not even one patch fits; choose a smaller patch_size"):
        check_batch(network, "cpu", 1, (320, 32, 32), 1, "fp32")
    with pytest.raises(ConfigError, match="precision fp16 is for inference only"):
        check_batch(network, "cpu", 1, (32, 32, 32), 1, "fp16")


def test_batch_check_does_not_change_batch_norm_statistics():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_batch(network, "cpu", 1, (8, 8, 8), 2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_bottleneck_of_one_voxel_raises_on_cpu():
    network = DynUNet(3, 1, 2, (3,) * 4, (1, 2, 2, 2), (2,) * 3, filters=(4, 4, 4, 4))
    with pytest.raises(ConfigError, match="more than 1 spatial element"):
        check_network(place_network(network, "cpu"), "cpu", 1, (8, 8, 8), ["a", "b"], (8, 8, 8))
