"""The folder of a run is a model: its settings are read from `run.json`, and contradictions are refused."""

import json

import pytest

from segbundle.checkpoints.loading import checkpoint_paths
from segbundle.checkpoints.model_settings import refuse_other_preprocessing, settings_of_model
from segbundle.errors import ConfigError

CONFIG = {"class_names": ["background", "liver"], "spacing": [2.0, 2.0, 2.0], "max_epochs": 3, "num_folds": 3}


def write_run(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").touch()
    config = {**CONFIG, "ckpt_path": "start.pt", "output_dir": "elsewhere", **changes}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    (folder / "task.json").write_text(json.dumps({"spacing": config["spacing"], "axcodes": "RAS"}))
    return folder


def test_settings_of_labels_and_folds(tmp_path):
    run = write_run(tmp_path / "run")
    expected = {"class_names": ["background", "liver"], "spacing": [2.0, 2.0, 2.0], "num_folds": 3}
    assert settings_of_model(run, trust=False) == settings_of_model(run / "model.pt", trust=False) == expected
    assert checkpoint_paths(str(run)) == [run / "model.pt"]
    assert settings_of_model(None, trust=False) == settings_of_model(tmp_path / "other.pt", trust=False) == {}


def test_folds_of_the_run_are_used_again(tmp_path):
    run = write_run(tmp_path / "run", splits="mine.json")
    assert "splits" not in settings_of_model(run, trust=False)
    (run / "splits_final.json").write_text("[]")
    assert settings_of_model(run, trust=False)["splits"] == str(run / "splits_final.json")


def test_members_of_an_ensemble_have_the_same_settings(tmp_path):
    for fold in range(2):
        write_run(tmp_path / "cv" / f"fold_{fold}", fold=fold)
    assert settings_of_model(tmp_path / "cv", trust=False)["spacing"] == [2.0, 2.0, 2.0]
    write_run(tmp_path / "cv" / "fold_1", spacing=[1.0, 1.0, 1.0])
    with pytest.raises(ConfigError, match=r"fold_1/run\.json: the settings of this training run differ from .*fold_0"):
        settings_of_model(tmp_path / "cv", trust=False)


def test_settings_that_could_run_code_are_refused(tmp_path):
    run = write_run(tmp_path / "run", network_def={"_target_": "os.system", "command": "true"})
    with pytest.raises(ConfigError, match=r"run\.json: network_def.*If you trust the author, add --trust"):
        settings_of_model(run, trust=False)
    assert settings_of_model(run, trust=True)["network_def"]["_target_"] == "os.system"


def test_damaged_run_file_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "run.json").write_text('{"config": ')
    with pytest.raises(ConfigError, match=r"run\.json"):
        settings_of_model(run, trust=False)


def test_other_preprocessing_is_refused_unless_chosen(tmp_path):
    run = write_run(tmp_path / "run")
    refuse_other_preprocessing(run, {"spacing": [2, 2, 2], "axcodes": "RAS", "intensity": {"method": "ct"}}, [])
    with pytest.raises(
        ConfigError, match=r"model\.pt: was trained with spacing \[2\.0, .*the task file has spacing \[1\.0"
    ):
        refuse_other_preprocessing(run, {"spacing": [1.0, 1.0, 1.0]}, ["axcodes"])
    refuse_other_preprocessing(run, {"spacing": [1.0, 1.0, 1.0]}, ["spacing"])
    for later in ("$[1.0] * 3", "@grid", "abc"):  # evaluated or refused by the workflow
        refuse_other_preprocessing(run, {"spacing": later}, [])
    refuse_other_preprocessing(tmp_path / "unknown.pt", {"spacing": [1.0, 1.0, 1.0]}, [])
