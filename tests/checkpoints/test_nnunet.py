"""Checkpoints of nnU-Net v2, with a network that has the layers and names of its `PlainConvUNet`."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet

from segbundle.checkpoints.loading import load_weights, state_dict_in
from segbundle.checkpoints.nnunet import class_names_in, for_dynunet
from segbundle.checkpoints.pretrained import load_pretrained_weights
from segbundle.checkpoints.weights import read_checkpoint
from segbundle.errors import CheckpointError

FEATURES, STRIDES = (4, 6, 8), (1, 2, 2)
CLASSES = ["background", "liver", "kidney"]


class Block(torch.nn.Module):
    """Convolution, norm and activation, which are registered twice, as in nnU-Net."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv = torch.nn.Conv3d(in_channels, out_channels, 3, stride, padding=1)
        self.norm = torch.nn.InstanceNorm3d(out_channels, eps=1e-5, affine=True)
        self.all_modules = torch.nn.Sequential(self.conv, self.norm, torch.nn.LeakyReLU())
        torch.nn.init.normal_(self.norm.weight, 1, 0.3)
        torch.nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.all_modules(x)


class Stacked(torch.nn.Module):
    def __init__(self, in_channels, out_channels, stride, count=2):
        super().__init__()
        sizes = [in_channels, *[out_channels] * count]
        blocks = [Block(a, b, stride if i == 0 else 1) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
        self.convs = torch.nn.Sequential(*blocks)

    def forward(self, x):
        return self.convs(x)


class Encoder(torch.nn.Module):
    def __init__(self, count):
        super().__init__()
        sizes = itertools.pairwise((1, *FEATURES))
        stages = [Stacked(a, b, stride, count) for (a, b), stride in zip(sizes, STRIDES, strict=True)]
        self.stages = torch.nn.Sequential(*map(torch.nn.Sequential, stages))


class Decoder(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        pairs = list(itertools.pairwise(reversed(FEATURES)))
        self.stages = torch.nn.ModuleList(Stacked(2 * b, b, 1) for _, b in pairs)
        self.transpconvs = torch.nn.ModuleList(torch.nn.ConvTranspose3d(a, b, 2, 2) for a, b in pairs)
        self.seg_layers = torch.nn.ModuleList(torch.nn.Conv3d(b, len(CLASSES), 1) for _, b in pairs)


class PlainConvUNet(torch.nn.Module):
    def __init__(self, count=2):
        super().__init__()
        self.encoder = Encoder(count)
        self.decoder = Decoder(self.encoder)

    def forward(self, x):
        skips = []
        for stage in self.encoder.stages:
            x = stage(x)
            skips.append(x)
        for index, up in enumerate(self.decoder.transpconvs):
            x = self.decoder.stages[index](torch.cat([up(x), skips[-2 - index]], dim=1))
        return self.decoder.seg_layers[-1](x)


def dynunet(out_channels=3, **arguments):
    levels = {"kernel_size": [3] * 3, "strides": STRIDES, "upsample_kernel_size": [2, 2], "filters": FEATURES}
    norm = {"norm_name": ("INSTANCE", {"affine": True}), "trans_bias": True}
    return DynUNet(3, 1, out_channels, **{**levels, **norm, **arguments})


def save(path, network):
    """Write a checkpoint with the keys and kinds of values of nnU-Net v2."""
    labels = {"background": 0, "liver": 1, "kidney": 2, "ignore": 3}
    score = np.float64(0.8)
    torch.save(
        {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [score, np.float32(0.5)], "lrs": [0.01]},
            "_best_ema": score,
            "current_epoch": 1000,
            "init_args": {"dataset_json": {"labels": labels}, "fold": 0, "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        path,
    )
    return path


@pytest.fixture
def image():
    return torch.rand(1, 1, 16, 16, 16)


def test_dynunet_computes_the_logits_of_nnunet(tmp_path, image):
    trained, fresh = PlainConvUNet().eval(), dynunet().eval()
    load_weights(fresh, save(tmp_path / "checkpoint_final.pth", trained), CLASSES)
    torch.testing.assert_close(fresh(image), trained(image), rtol=1e-4, atol=1e-4)


def test_heads_of_deep_supervision_are_loaded_in_their_order(tmp_path):
    trained, fresh = PlainConvUNet(), dynunet(deep_supervision=True, deep_supr_num=1)
    load_pretrained_weights(fresh, save(tmp_path / "final.pth", trained), CLASSES, 1, [16, 16, 16])
    assert torch.equal(fresh.deep_supervision_heads[0].conv.conv.weight, trained.decoder.seg_layers[0].weight)
    assert torch.equal(fresh.output_block.conv.conv.weight, trained.decoder.seg_layers[1].weight)


def test_classes_of_nnunet_are_found_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    trained, fresh = PlainConvUNet(), dynunet(4)
    names = ["background", "kidney", "lesion", "liver"]
    load_pretrained_weights(fresh, save(tmp_path / "final.pth", trained), names, 1, [16, 16, 16])
    new, old = fresh.output_block.conv.conv.weight, trained.decoder.seg_layers[1].weight
    assert torch.equal(new[[0, 3, 1]], old)
    assert "34 of 36 tensors; new: classes lesion" in caplog.text
    with pytest.raises(CheckpointError, match=r"was trained for the classes \['background', 'liver', 'kidney'\], but"):
        load_weights(fresh, tmp_path / "final.pth", names)


def test_same_network_needs_no_other_names(tmp_path, image):
    trained, fresh = PlainConvUNet().eval(), PlainConvUNet().eval()
    load_weights(fresh, save(tmp_path / "final.pth", trained), CLASSES)
    assert torch.equal(fresh(image), trained(image))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: dynunet(trans_bias=False), r"does not have: decoder\.transpconvs\.0\.bias"),
        (lambda: dynunet(norm_name="INSTANCE"), r"does not have: encoder\.stages\.0\.0\.convs\.0\.norm\.weight"),
        (lambda: dynunet(norm_name="BATCH"), r"does not have: encoder\.stages\.0\.0\.convs\.0\.conv\.bias"),
        (lambda: dynunet(filters=(4, 6, 10)), r"layers with another shape: bottleneck"),
        (lambda: dynunet(res_block=True), r"layers missing in the file: input_block\.conv3"),
    ],
)
def test_another_dynunet_is_refused(tmp_path, network, message):
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(), save(tmp_path / "final.pth", PlainConvUNet()))


def test_other_networks_of_nnunet_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"network does not have: encoder\.stages\.0\.0\.convs\.2\.conv"):
        load_weights(dynunet(), save(tmp_path / "final.pth", PlainConvUNet(count=3)))
    residual = {"encoder.stem.convs.0.conv.weight": 0, "decoder.seg_layers.0.weight": 0}
    with pytest.raises(CheckpointError, match=r"final\.pth: was trained with nnU-Net's ResidualEncoderUNet"):
        for_dynunet(residual, dynunet(), "final.pth")


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "whole tumor": [1, 2], "core": [2]},
        {"background": 0, "liver": 2},
        {"background": 0, "liver": "1"},
        {},
        None,
    ],
)
def test_regions_and_gaps_have_no_class_names(labels):
    assert class_names_in({"network_weights": {}, "init_args": {"dataset_json": {"labels": labels}}}) is None


def test_prefixes_of_wrapped_networks_are_removed():
    weights = {"module._orig_mod.weight": 1, "module._orig_mod.bias": 2}
    assert state_dict_in({"state_dict": weights}, torch.nn.Linear(1, 1), "") == {"weight": 1, "bias": 2}
    assert state_dict_in({"module.weight": 1, "bias": 2}, torch.nn.Linear(1, 1), "").keys() == {"module.weight", "bias"}


class Harmful:
    def __reduce__(self):
        return np.load, ("/etc/passwd",)


def test_numpy_is_discarded_and_never_called(tmp_path):
    content = read_checkpoint(save(tmp_path / "final.pth", PlainConvUNet()))
    assert content["current_epoch"] == 1000 and content["logging"]["lrs"] == [0.01]
    assert type(content["_best_ema"]).__module__ == "segbundle.checkpoints.nnunet"
    torch.save({"network_weights": {}, "logging": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(CheckpointError, match=r"harmful\.pth: cannot be read as a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "harmful.pth")
    with pytest.raises(pickle.UnpicklingError):  # outside of read_checkpoint nothing is allowed
        torch.load(tmp_path / "final.pth", weights_only=True)


def test_networks_of_the_package_of_nnunet(tmp_path, image):
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    arguments = {
        "input_channels": 1, "num_classes": 3, "n_stages": 3, "features_per_stage": FEATURES,
        "conv_op": torch.nn.Conv3d, "kernel_sizes": 3, "strides": STRIDES, "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU, "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    plain = architectures.PlainConvUNet(n_conv_per_stage=2, n_conv_per_stage_decoder=2, **arguments).eval()
    stand_in = {name: value.shape for name, value in PlainConvUNet().state_dict().items()}
    assert {name: value.shape for name, value in plain.state_dict().items()} == stand_in
    load_weights(fresh := dynunet().eval(), save(tmp_path / "plain.pth", plain), CLASSES)
    torch.testing.assert_close(fresh(image), plain(image), rtol=1e-4, atol=1e-4)
    residual, other = (
        architectures.ResidualEncoderUNet(n_blocks_per_stage=[1, 2, 2], n_conv_per_stage_decoder=1, **arguments).eval()
        for _ in range(2)
    )
    load_weights(other, save(tmp_path / "residual.pth", residual), CLASSES)
    assert torch.equal(other(image), residual(image))
    with pytest.raises(CheckpointError, match="ResidualEncoderUNet, whose layers DynUNet does not have"):
        load_weights(dynunet(), tmp_path / "residual.pth", CLASSES)
