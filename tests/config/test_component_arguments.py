"""Arguments of components, checked against their signatures."""

import pytest
from monai.bundle import ComponentLocator

from segbundle.config.component_arguments import check_arguments
from segbundle.errors import ConfigError

DYNUNET = {
    "_target_": "DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8],
}  # fmt: skip
UNET = {"_target_": "monai.networks.nets.Unet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}


def check(component, **changes):
    check_arguments({"net": {**component, **changes}}, ComponentLocator())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": "foo"}, "'net#strides' is 'foo'; a list"),
        ({"filters": ["a", 8, 8]}, r"'net#filters' is \['a', 8, 8\]; a list, each entry a whole number"),
        ({"filters": [4.5, 8, 8]}, "'net#filters' is"),
        ({"filters": {"a": 1}}, "'net#filters' is"),
        ({"in_channels": "1"}, "'net#in_channels' is '1'; a whole number is needed"),
        ({"in_channels": True}, "'net#in_channels' is True"),
        ({"in_channels": None}, "'net#in_channels' is None"),
        ({"in_channels": [1]}, r"'net#in_channels' is \[1\]"),
        ({"deep_supervision": "yes"}, "'net#deep_supervision' is 'yes'; true or false is needed"),
        ({"norm_name": 5}, "'net#norm_name' is 5; a list or text is needed"),
        ({"filter": [4]}, "'net#filter': DynUNet has no such argument: did you mean 'filters'"),
        ({"filters": [4, 8, 8, 8]}, "'net#filters' has 4 entries; DynUNet needs 3, because 'net#strides' has 3"),
        ({"filters": [4, 8]}, "'net#filters' has 2 entries"),
        ({"upsample_kernel_size": [2, 2, 2]}, "'net#upsample_kernel_size' has 3 entries; .* needs 2"),
        ({"kernel_size": [3]}, "'net#kernel_size' has 1 entries"),
    ],
)
def test_arguments_of_wrong_type_raise(change, message):
    with pytest.raises(ConfigError, match=message):
        check(DYNUNET, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": 2.0},
        {"kernel_size": [[3, 3, 1], 3, [3, 3, 3]]},
        {"norm_name": ["GROUP", {"num_groups": 2}]},
        {"dropout": None},
        {"filters": None},
        {"filters": "$[4] * 3"},
        {"strides": ["@a", 2, 2]},
        {"deep_supervision": 1},
        {"_desc_": 5},
    ],
)
def test_valid_arguments_pass(change):
    assert check(DYNUNET, **change) is None
    with pytest.raises(ConfigError, match="'net#spatial_dims' is 'x'"):  # other arguments are still checked
        check(DYNUNET, **change, spatial_dims="x")


def test_number_of_levels_is_checked_in_other_networks():
    check(UNET, channels=[4, 8], strides=[2])
    with pytest.raises(ConfigError, match="'net#strides' has 2 entries; UNet needs 1, because 'net#channels' has 2"):
        check(UNET, channels=[4, 8], strides=[2, 2])
    with pytest.raises(ConfigError, match=r"'net#blocks_up' has 3 entries; .* because 'net#blocks_down' has 3"):
        check({"_target_": "SegResNet"}, blocks_down=[1, 2, 2], blocks_up=[1, 1, 1])
    with pytest.raises(ConfigError, match=r"'net#blocks_up' has 2 entries; .* because 'net#blocks_down' has 4"):
        check({"_target_": "SegResNet"}, blocks_up=[1, 1])  # by default, blocks_down has four entries


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("SwinUNETR", {"depths": [2, 2, 2, 2, 2]}, "'net#depths' has 5 entries; SwinUNETR has 4 levels"),
        ("SwinUNETR", {"depths": [2, 2, 2]}, "'net#depths' has 3 entries"),
        ("SwinUNETR", {"num_heads": [3, 6, 12, 24, 48]}, "'net#num_heads' has 5 entries"),
        ("AHNet", {"layers": [3, 4, 6, 3, 3]}, "'net#layers' has 5 entries; AHNet has 4 levels"),
        ("MedNeXt", {"encoder_expansion_ratio": [2] * 5}, "ratio' has 5 entries; .* because 'net#blocks_down' has 4"),
        ("MedNeXt", {"decoder_expansion_ratio": [2] * 2}, "ratio' has 2 entries; .* because 'net#blocks_down' has 4"),
        ("MedNeXt", {"blocks_up": [2] * 3}, "'net#blocks_up' has 3 entries; .* because 'net#blocks_down' has 4"),
        ("AutoEncoder", {"inter_channels": [8] * 3, "inter_dilations": [1]}, "dilations' has 1 entries; .* needs 3"),
        ("VarAutoEncoder", {"inter_channels": [8], "inter_dilations": [1, 2]}, "dilations' has 2 entries; .* needs 1"),
        ("Generator", {"channels": [8, 4], "strides": [2]}, "'net#strides' has 1 entries"),
        (
            "FlexibleUNet",
            {"decoder_channels": [8] * 6},
            "'net#decoder_channels' has 6 entries; FlexibleUNet has 4 or 5",
        ),
        ("ResNet", {"layers": [1] * 5}, "'net#layers' has 5 entries; ResNet has 4 levels"),
    ],
)
def test_lists_with_wrong_number_of_levels_raise(name, change, message):
    with pytest.raises(ConfigError, match=message):
        check({"_target_": name}, **change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SwinUNETR", {"in_channels": 1, "depths": [1, 2, 1, 2], "num_heads": "@heads"}),
        ("AHNet", {"layers": [3, 4, 6, 3]}),
        ("AutoEncoder", {"inter_channels": [8, 8], "inter_dilations": [1, 2]}),
        ("AutoEncoder", {"inter_channels": [8, 8]}),
        ("MedNeXt", {"encoder_expansion_ratio": 3, "blocks_down": [1, 2], "blocks_up": [2, 1]}),
        ("MedNeXt", {"encoder_expansion_ratio": [3, 2], "blocks_down": [1, 2], "blocks_up": [2, 1]}),
    ],
)
def test_lists_with_right_number_of_levels_pass(name, change):
    assert check({"_target_": name}, **change) is None


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"_target_": "torch.optim.AdamW", "lr": "abc"}, "'net#lr' is 'abc'; a number or a Tensor is needed"),
        ({"_target_": "torch.optim.lr_scheduler.PolynomialLR", "power": [1]}, r"'net#power' is \[1\]; a number"),
        ({"_target_": "segbundle.training.SegmentationTrainer", "amp": "abc"}, "'net#amp' is 'abc'; true or false"),
        ({"_target_": "segbundle.losses.DiceCELoss", "softmax": "maybe"}, "'net#softmax' is 'maybe'; true or false"),
    ],
)
def test_components_of_any_library_are_checked(component, message):
    with pytest.raises(ConfigError, match=message):
        check(component)


@pytest.mark.parametrize(
    "component",
    [
        {"_target_": "segbundle.training.SegmentationTrainer", "amp_kwargs": {"enabled": False}},
        {"_target_": "builtins.dict", "x": "y"},
        {"_target_": "no.such.Thing", "x": 1},
    ],
)
def test_components_with_unknown_arguments_pass(component):
    assert check(component) is None
    with pytest.raises(ConfigError, match="'net#inner#in_channels' is 'x'"):  # nested components are checked
        check(component, inner={**DYNUNET, "in_channels": "x"})
