"""Input layers, output layers and stages of networks of different architectures."""

import copy

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet, UNet

from segbundle.checkpoints.network_layers import network_layers


def dynunet(**arguments):
    levels = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8]}
    return DynUNet(
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "norm_name": "BATCH", **levels, **arguments}
    )


def heads(names):
    return {name.rpartition(".")[0] for name in names}


def test_stages_of_a_unet_are_its_resolutions():
    layers = network_layers(dynunet(norm_name="INSTANCE"), 1, [16, 16, 16])
    blocks = [{".".join(name.split(".")[:2]) for name in stage} for stage in layers.stages]
    assert blocks == [
        {"input_block.conv1", "input_block.conv2"},
        {"downsamples.0"},
        {"bottleneck.conv1", "bottleneck.conv2"},
        {"upsamples.0"},
        {"upsamples.1"},
    ]
    assert layers.num_encoder_stages == 3
    assert layers.inputs == {"input_block.conv1.conv.weight"}
    depths = layers.depths()
    assert depths["output_block.conv.conv.weight"] == 0
    assert depths["upsamples.1.conv_block.conv2.conv.weight"] == 1
    assert depths["input_block.conv1.conv.weight"] == 5


@pytest.mark.parametrize(
    ("network", "outputs"),
    [
        (dynunet(), {"output_block.conv.conv.weight": (0,), "output_block.conv.conv.bias": (0,)}),
        (
            dynunet(deep_supervision=True, deep_supr_num=1),
            {
                "output_block.conv.conv.weight": (0,), "output_block.conv.conv.bias": (0,),
                "deep_supervision_heads.0.conv.conv.weight": (0,), "deep_supervision_heads.0.conv.conv.bias": (0,),
            },
        ),
        (UNet(3, 1, 3, (4, 8), (2,)), {"model.2.conv.weight": (1,), "model.2.conv.bias": (0,)}),
        (
            UNet(3, 1, 3, (4, 8), (2,), num_res_units=1),
            {
                "model.2.0.conv.weight": (1,), "model.2.0.conv.bias": (0,), "model.2.0.adn.A.weight": (0,),
                "model.2.1.conv.unit0.conv.weight": (0, 1), "model.2.1.conv.unit0.conv.bias": (0,),
            },
        ),
        (
            SegResNet(init_filters=8, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)),
            {"conv_final.2.conv.weight": (0,), "conv_final.2.conv.bias": (0,)},
        ),
    ],
)  # fmt: skip
def test_output_layers_are_found_without_their_names(network, outputs):
    assert network_layers(network, 1, [16, 16, 16], batch_size=2).outputs == outputs


def test_the_network_is_not_changed():
    network = dynunet(deep_supervision=True, deep_supr_num=1)
    network.input_block.requires_grad_(False)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    layers = network_layers(network.eval(), 1, [16, 16, 16])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not network.training
    assert not network.input_block.conv1.conv.weight.requires_grad
    assert "input_block.norm1.running_mean" in layers.stages[0]
    copy.deepcopy(network)  # no tensor of the trial is left in it


def test_network_of_one_resolution_has_no_encoder():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.PReLU(), torch.nn.Conv3d(2, 2, 1))
    layers = network_layers(network, 1, [4, 4, 4])
    assert layers.num_encoder_stages == 0
    assert layers.stages == (("0.weight", "0.bias", "1.weight"),)
    assert heads(layers.outputs) == {"2"}
