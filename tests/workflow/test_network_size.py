"""Networks whose weights or kernels are too large are refused before they are built."""

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


@pytest.mark.parametrize(
    ("network_def", "message"),
    [
        (
            UNET | {"channels": [10**6, 10**6]},
            r"its weights take at least [\d,.]+ GB and a run 2 times as much; .* GB are",
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
def test_a_network_that_is_too_large_is_refused(network_def, message):
    with pytest.raises(ConfigError, match=f"network_def.* ?{message}"):
        check_network_size(parser(network_def), PATCH)


def test_the_weights_of_a_training_are_counted_four_times(monkeypatch):
    config = parser(UNET)
    needed = 4 * num_bytes(config.get_parsed_content("network_def"))
    training = parser(UNET, train={})
    monkeypatch.setattr(network_size, "free_memory", lambda device: needed)
    check_network_size(training, PATCH)
    monkeypatch.setattr(network_size, "free_memory", lambda device: needed - 1)
    with pytest.raises(ConfigError, match="a run 4 times as much"):
        check_network_size(training, PATCH)
    check_network_size(config, PATCH)


def test_the_check_changes_neither_network_nor_random_numbers():
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


def test_other_components_are_not_made_for_the_check(tmp_path):
    made = tmp_path / "made"
    check_network_size(parser(UNET | {"in_channels": "@channels"}, channels=f"$open('{made}', 'w')"), PATCH)
    check_network_size(parser(f"$open('{made}', 'w')"), PATCH)
    assert not made.exists()


def test_what_cannot_be_built_is_left_to_the_run():
    config = parser(UNET | {"channels": [4, -8]})
    assert check_network_size(config, PATCH) is None
    with pytest.raises(RuntimeError, match="UNet"):
        config.get_parsed_content("network_def")
