"""Checks of the size of weights and kernels before a network is built."""

import pytest
import torch
from monai.bundle import ConfigParser

from segbundle.errors import ConfigError
from segbundle.workflow import network_size
from segbundle.workflow.network_size import check_network_size

PATCH = [16, 16, 16]
UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": {"_target_": "segbundle.classes.num_classes", "class_names": "@class_names"},
    "channels": [4, 8],
    "strides": [2],
}
SWIN = {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": 2, "feature_size": 120_000}


def parser(network_def, **keys):
    return ConfigParser({"class_names": ["background", "a"], "network_def": network_def, **keys})


def num_bytes(network):
    return sum(weights.nbytes for weights in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network_def", "message"),
    [
        (
            UNET | {"channels": [10**6, 10**6]},
            r"its weights take at least [\d,.]+ GB, and a run takes 2 times as much, but only .* GB are",
        ),
        (UNET | {"in_channels": 10**12}, "its weights take at least"),
        (SWIN, "its weights take at least"),
        (UNET | {"num_res_units": 10**6}, "has more than 5,000 weight tensors. Choose fewer layers"),
        (
            UNET | {"kernel_size": [3, 3, 17]},
            r"the kernel \[3, 3, 17\] of layer model.0.conv is larger than patch_size",
        ),
    ],
)
def test_large_networks_raise(network_def, message):
    with pytest.raises(ConfigError, match=f"network_def.* ?{message}"):
        check_network_size(parser(network_def), PATCH)


def test_training_takes_four_times_the_weights(monkeypatch):
    config = parser(UNET)
    needed = 4 * num_bytes(config.get_parsed_content("network_def"))
    training = parser(UNET, train={})
    monkeypatch.setattr(network_size, "free_memory", lambda device: needed)
    check_network_size(training, PATCH)
    monkeypatch.setattr(network_size, "free_memory", lambda device: needed - 1)
    with pytest.raises(ConfigError, match="a run takes 4 times as much"):
        check_network_size(training, PATCH)
    check_network_size(config, PATCH)


def test_check_changes_neither_network_nor_random_state():
    config = parser(UNET)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    check_network_size(config, PATCH)
    assert torch.equal(torch.random.get_rng_state(), before)
    network = config.get_parsed_content("network_def")
    assert {weights.device.type for weights in network.parameters()} == {"cpu"}
    torch.manual_seed(0)
    again = parser(UNET).get_parsed_content("network_def")
    assert all(map(torch.equal, network.parameters(), again.parameters()))


def test_check_does_not_create_other_components(tmp_path):
    made = tmp_path / "made"
    check_network_size(parser(UNET | {"in_channels": "@channels"}, channels=f"$open('{made}', 'w')"), PATCH)
    check_network_size(parser(f"$open('{made}', 'w')"), PATCH)
    assert not made.exists()


def test_invalid_networks_raise_during_the_run_only():
    config = parser(UNET | {"channels": [4, -8]})
    assert check_network_size(config, PATCH) is None
    with pytest.raises(RuntimeError, match="UNet"):
        config.get_parsed_content("network_def")
