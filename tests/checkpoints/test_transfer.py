"""Weights for other classes, channels and layers, with tensors worked out by hand."""

import json
import logging

import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from segbundle.checkpoints.network_layers import NetworkLayers, network_layers
from segbundle.checkpoints.pretrained import load_pretrained_weights
from segbundle.checkpoints.transfer import adapt_channels, class_sources, copy_classes, transfer_weights
from segbundle.errors import CheckpointError

OLD, NEW = ["background", "liver", "kidney"], ["background", "kidney", "cyst", "liver", "lesion"]


def dynunet(out_channels, in_channels=1, filters=(4, 6, 8), **arguments):
    levels = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "norm_name": "INSTANCE"}
    return DynUNet(3, in_channels, out_channels, filters=filters, **{**levels, **arguments})


def save(folder, network, class_names=None):
    torch.save(network.state_dict(), folder / "model.pt")
    if class_names is not None:
        (folder / "task.json").write_text(json.dumps({"class_names": class_names}))
    return folder


def load(network, path, class_names, num_channels=1):
    load_pretrained_weights(network, path, class_names, num_channels, [16, 16, 16])
    return network


def test_classes_are_found_by_name_and_the_background_by_position():
    assert class_sources(NEW, OLD) == [0, 2, None, 1, None]
    assert class_sources(["air", "air2"], ["background", "air"]) == [0, None]
    assert class_sources(["background", "1"], ["background", 1]) == [0, 1]


def test_classes_are_copied_by_hand():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    copied = copy_classes(torch.zeros(5, 2), weight, [0], class_sources(NEW, OLD))
    assert copied.tolist() == [[1, 2], [5, 6], [0, 0], [3, 4], [0, 0]]
    copied = copy_classes(torch.zeros(2, 5), weight.T, [1], class_sources(NEW, OLD))
    assert copied.tolist() == [[1, 5, 0, 3, 0], [2, 6, 0, 4, 0]]
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert copy_classes(torch.full((3, 3), 9.0), square, [0, 1], [0, None, 1]).tolist() == [
        [1, 9, 2],
        [9, 9, 9],
        [3, 9, 4],
    ]


def test_channels_by_hand():
    weight = torch.tensor([[2.0, 4.0], [0.0, 6.0]])
    assert adapt_channels(weight, 4).tolist() == [[1, 2, 1.5, 1.5], [0, 3, 1.5, 1.5]]  # halved; new: the mean
    assert adapt_channels(weight, 1).tolist() == [[4], [0]]  # doubled
    assert torch.equal(adapt_channels(weight, 2), weight)
    image = torch.rand(1)
    assert float(adapt_channels(weight, 5)[0] @ image.expand(5)) == pytest.approx(float(weight[0] @ image.expand(2)))


def test_only_the_output_layers_of_a_network_change(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained, fresh = dynunet(3), dynunet(5)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    load(fresh, save(tmp_path, trained, OLD), NEW)
    for name, value in fresh.state_dict().items():
        old = trained.state_dict()[name]
        if "output_block" in name:
            assert all(torch.equal(value[index], old[source]) for index, source in ((0, 0), (1, 2), (3, 1)))
            assert all(torch.equal(value[index], before[name][index]) for index in (2, 4))
        else:
            assert torch.equal(value, old)
    assert f"weights: {tmp_path}/model.pt: 12 of 14 tensors; new: classes cyst, lesion" in caplog.messages
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(fresh.eval()(image)[:, [0, 3, 1]], trained.eval()(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", [dynunet, lambda classes: UNet(3, 1, classes, (4, 8), (2,), num_res_units=1)])
def test_exchanged_classes_are_recognized_by_name(tmp_path, caplog, network):
    caplog.set_level(logging.INFO)
    trained, fresh = network(3), network(3)
    load(fresh, save(tmp_path, trained, OLD), ["background", "kidney", "liver"])
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(fresh.eval()(image)[:, [0, 2, 1]], trained.eval()(image))
    total = len({id(value) for value in trained.state_dict(keep_vars=True).values()})
    assert f"weights: {tmp_path}/model.pt: {total} of {total} tensors" in caplog.messages


def test_residual_output_keeps_the_known_classes(tmp_path):
    trained, fresh = (UNet(3, 1, classes, (4, 8), (2,), num_res_units=1) for classes in (3, 5))
    load(fresh, save(tmp_path, trained, OLD), NEW)
    up, unit = "model.2.0.conv.weight", "model.2.1.conv.unit0.conv.weight"
    new, old = fresh.state_dict(), trained.state_dict()
    assert torch.equal(new[up][:, [0, 3, 1]], old[up])
    assert torch.equal(new[unit][[0, 3, 1]][:, [0, 3, 1]], old[unit])


def test_heads_of_deep_supervision_follow_the_classes(tmp_path):
    arguments = {"deep_supervision": True, "deep_supr_num": 1}
    trained, fresh = dynunet(3, **arguments), dynunet(5, **arguments)
    load(fresh, save(tmp_path, trained, OLD), NEW)
    name = "deep_supervision_heads.0.conv.conv.weight"
    assert torch.equal(fresh.state_dict()[name][[0, 3, 1]], trained.state_dict()[name])
    assert torch.equal(fresh.skip_layers.next_layer.super_head.conv.conv.weight, fresh.state_dict()[name])


def test_new_input_channels_and_classes_are_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained, fresh = dynunet(3), dynunet(3, in_channels=3)
    load(fresh, save(tmp_path, trained, OLD), ["background", "liver", "spleen"], 3)
    assert (
        f"weights: {tmp_path}/model.pt: 11 of 14 tensors; new: classes spleen, input channels 1, 2" in caplog.messages
    )
    expected = adapt_channels(trained.input_block.conv1.conv.weight, 3)
    assert torch.equal(fresh.input_block.conv1.conv.weight, expected)
    image = torch.rand(1, 1, 16, 16, 16)
    same = fresh.eval()(image.expand(-1, 3, -1, -1, -1))[:, :2]
    torch.testing.assert_close(same, trained.eval()(image)[:, :2], rtol=0, atol=1e-4)


def test_without_class_names_all_classes_are_new(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load(dynunet(5), save(tmp_path, dynunet(3)), NEW)
    assert "12 of 14 tensors; new: classes background, kidney, cyst, liver and 1 more" in caplog.text


@pytest.mark.parametrize("names", [None, OLD])
def test_same_classes_and_layers_are_loaded_as_they_are(tmp_path, caplog, names):
    caplog.set_level(logging.INFO)
    trained, fresh = dynunet(3), dynunet(3)
    load(fresh, save(tmp_path, trained, names), OLD)
    assert caplog.messages == [f"weights: {tmp_path}/model.pt"]
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_other_layers_are_named_in_a_warning(tmp_path, caplog):
    deeper = DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 6, 8, 8], norm_name="INSTANCE")
    load(dynunet(3), save(tmp_path, deeper, OLD), OLD)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "new: layers " in record.message and "not used: " in record.message


def test_checkpoint_that_fits_nowhere_is_refused(tmp_path):
    fresh = dynunet(5, filters=(5, 7, 9))
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"model\.pt: no weight fits the network: layers with another shape: input_b"
    ):
        load(fresh, save(tmp_path, dynunet(3), OLD), NEW)
    torch.save({"weight": torch.ones(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"other\.pt: no weight fits .* layers that the network does not have: weight"
    ):
        load(fresh, tmp_path / "other.pt", NEW)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_damaged_weights_and_several_models_are_refused(tmp_path):
    trained = dynunet(3)
    trained.input_block.conv1.conv.weight.data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match=r"contains NaN or Inf in"):
        load(dynunet(5), save(tmp_path, trained, OLD), NEW)
    for fold in range(2):
        (tmp_path / "cv" / f"fold_{fold}").mkdir(parents=True)
        save(tmp_path / "cv" / f"fold_{fold}", dynunet(3))
    with pytest.raises(CheckpointError, match=r"ckpt_path has 2 models, but .* Choose one, such as .*fold_0/model\.pt"):
        load(dynunet(3), tmp_path / "cv", OLD)
    assert load(dynunet(3), None, OLD)


def test_classes_are_read_from_the_run_file_too(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    save(tmp_path, dynunet(3))
    (tmp_path / "run.json").write_text(json.dumps({"config": {"class_names": OLD}}))
    load(dynunet(5), tmp_path, NEW)
    assert "new: classes cyst, lesion" in caplog.text


def test_tensor_of_another_type_is_new():
    network = torch.nn.Conv3d(1, 2, 1)
    layers = NetworkLayers({}, frozenset(), (("weight", "bias"),), 0)
    found = {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.ones(2, dtype=torch.int64)}
    result = transfer_weights(network, found, layers, 1, ["background", "liver"])
    assert result.summary() == "1 of 2 tensors; new: layers bias"


def test_heads_that_are_turned_off_follow_the_classes():
    class Switched(torch.nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.body, self.off = torch.nn.Conv3d(1, 4, 1), torch.nn.Conv3d(4, classes, 1)
            self.out = torch.nn.Conv3d(4, classes, 1)

        def forward(self, x):
            return self.out(self.body(x))

    trained, fresh = Switched(3), Switched(5)
    layers = network_layers(fresh, 1, [4, 4, 4])
    result = transfer_weights(fresh, trained.state_dict(), layers, 1, NEW, OLD)
    assert torch.equal(result.weights["off.weight"][[0, 3, 1]], trained.off.weight)
    assert result.summary() == "2 of 6 tensors; new: classes cyst, lesion"
