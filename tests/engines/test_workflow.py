from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from segbundle.engines import pick_num_workers, prepare_output, prepare_training_output
from segbundle.engines.workflow import check_config_keys, known_keys, locate_bundle
from segbundle.errors import ConfigError, OutputError

CONFIGS = Path(__file__).parents[2] / "bundle" / "configs"


def test_known_keys_are_those_of_all_workflows():
    keys = known_keys(CONFIGS)
    assert {"max_epochs", "postprocessing", "dataset_dir", "initialize"} <= keys
    assert "changelog" not in keys  # of metadata.json


def test_a_typo_suggests_the_nearest_key():
    config = {**ConfigParser.load_config_file(CONFIGS / "train.yaml"), "max_epoch": 3}
    with pytest.raises(ConfigError, match="config key 'max_epoch' is read by no workflow: did you mean 'max_epochs'"):
        check_config_keys(config, known_keys(CONFIGS))


def test_keys_of_other_workflows_and_keys_that_others_refer_to_pass():
    config = {
        **ConfigParser.load_config_file(CONFIGS / "inference.yaml"),
        "max_epochs": 3,
        "my_rate": 0.1,
        "optimizer": {"_target_": "torch.optim.SGD", "lr": "@my_rate"},
    }
    check_config_keys(config, known_keys(CONFIGS))


def test_outside_a_workflow_the_bundle_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_bundle() == str(tmp_path)


def test_output_folders_are_made_and_unwritable_ones_named(tmp_path):
    prepare_output(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/x: cannot be written .* choose another --output_dir"):
        prepare_output(str(tmp_path / "file" / "x"))


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(OutputError, match=r"already holds a training run \(last\.pt\).*--resume true"):
        prepare_training_output(str(tmp_path))
    prepare_training_output(str(tmp_path), resume=True)


def test_worker_processes_help_a_gpu_only():
    assert pick_num_workers("cpu") == 0
    assert 1 <= pick_num_workers("cuda:0") <= 8
