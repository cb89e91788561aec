import sys

import pytest
import torch
from monai.networks.nets import DynUNet

from segbundle.engines import (
    check_batch,
    check_network,
    pick_num_workers,
    place_network,
    prepare_output,
    prepare_training_output,
    start_workflow,
    workflow,
)
from segbundle.engines.workflow import checked_device, locate_bundle
from segbundle.errors import ConfigError, OutputError
from segbundle.inferers.memory import measured_needs


def test_devices_that_do_not_exist_are_named():
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here; choose from cpu"):
            checked_device(device)
    assert checked_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("patch_size", "class_names", "message"),
    [
        ([18, 16, 16], ["background", "a"], r"cannot take patches of patch_size \[18, 16, 16\] .* divisible"),
        (
            [16, 16, 16],
            ["background", "a", "b"],
            r"returns \(1, 2, 16, 16, 16\) .* a channel for each of the 3 class_names",
        ),
    ],
)
def test_a_network_that_cannot_do_the_task_is_found_out_at_once(patch_size, class_names, message):
    network = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[2, 2, 2, 2])
    with pytest.raises(ConfigError, match=message):
        check_network(network, "cpu", 1, patch_size, class_names)
    check_network(network, "cpu", 1, [16, 16, 16], ["background", "a"])
    assert network.training


def test_patches_that_do_not_fit_into_memory_are_not_tried(monkeypatch):
    network = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[2, 2, 2, 2])
    with pytest.raises(
        ConfigError, match=r"patch_size is \[4096, 4096, 4096\]: a patch of 68,719,476,736 voxels takes"
    ):
        check_network(network, "cpu", 1, [4096] * 3, ["background", "a"])
    each = measured_needs(network.eval(), 1, [32] * 3).bytes_per_voxel / 2
    monkeypatch.setattr(workflow, "free_memory", lambda device: 32**3 * each)
    check_network(network, "cpu", 1, [32] * 3, ["background", "a"])
    with pytest.raises(
        ConfigError, match=r"window_size is \[64, 32, 32\]: a patch of 65,536 voxels .* Choose a smaller"
    ):
        check_network(network, "cpu", 1, [32] * 3, ["background", "a"], [64, 32, 32])


def test_a_network_may_fail_in_any_way():
    class Odd(torch.nn.Module):
        def forward(self, image):
            return {}[int(image.sum())]

    with pytest.raises(ConfigError, match=r"cannot take patches of patch_size \[8, 8, 8\] \(KeyError: 0\)"):
        check_network(Odd(), "cpu", 1, [8, 8, 8], ["background", "a"])


def test_a_library_user_keeps_the_excepthook():
    before = sys.excepthook
    start_workflow()
    assert sys.excepthook is before


def test_outside_a_workflow_the_bundle_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_bundle() == str(tmp_path)


def test_output_folders_are_made_and_unwritable_ones_named(tmp_path):
    prepare_output(str(tmp_path / "a" / "b"))
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".lock"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/x: cannot be written .* choose another --output_dir"):
        prepare_output(str(tmp_path / "file" / "x"))


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(OutputError, match="holds a training run; choose another"):
        prepare_output(str(tmp_path))
    with pytest.raises(OutputError, match=r"already holds a training run \(last\.pt\).*--resume true"):
        prepare_training_output(str(tmp_path))
    prepare_training_output(str(tmp_path), resume=True)
    (tmp_path / "last.pt").rename(tmp_path / "task.json")  # somebody made room
    with pytest.raises(OutputError, match="holds a training run; choose another"):
        prepare_output(str(tmp_path))


def test_resuming_where_nothing_is_starts_from_the_beginning_and_says_so(tmp_path, caplog):
    prepare_training_output(str(tmp_path), resume=True)
    assert "holds no last.pt to resume from" in caplog.text


def test_worker_processes_help_a_gpu_only():
    assert pick_num_workers("cpu") == 0


def test_a_batch_that_does_not_fit_says_what_would(monkeypatch):
    network = DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16))
    one = workflow.training_bytes(network, 1, (32, 32, 32), "fp32")
    assert 32**3 * 4 * 4 * 4 < one < 32**3 * 4 * 4 * 100
    twice = workflow.training_bytes(network, 1, (64, 32, 32), "fp32")
    assert twice == pytest.approx(2 * one, rel=0.01)
    monkeypatch.setattr(workflow, "free_memory", lambda device: 5.5 * one)
    check_batch(network, "cpu", 1, (32, 32, 32), 5, "fp32")
    with pytest.raises(ConfigError, match=r"batch_size 6 does not fit .* batch_size 5 would"):
        check_batch(network, "cpu", 1, (32, 32, 32), 6, "fp32")
    with pytest.raises(ConfigError, match="not even one patch does: choose a smaller patch_size"):
        check_batch(network, "cpu", 1, (320, 32, 32), 1, "fp32")
    with pytest.raises(ConfigError, match="precision fp16 is for inference"):
        check_batch(network, "cpu", 1, (32, 32, 32), 1, "fp16")


def test_the_check_of_the_batch_leaves_statistics_of_batch_norms_alone():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_batch(network, "cpu", 1, (8, 8, 8), 2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_bottleneck_of_one_voxel_is_refused_on_a_cpu_as_elsewhere():
    network = DynUNet(3, 1, 2, (3,) * 4, (1, 2, 2, 2), (2,) * 3, filters=(4, 4, 4, 4))
    with pytest.raises(ConfigError, match="more than 1 spatial element"):
        check_network(place_network(network, "cpu"), "cpu", 1, (8, 8, 8), ["a", "b"], (8, 8, 8))
