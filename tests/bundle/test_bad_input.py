"""Invalid input of commands: exit code 1, a message that names file, class and fix, and no traceback."""

import json
import shutil

import pytest

from commands import CONFIGS, TINY, monai_bundle, segbundle


def assert_plain_error(done, *parts):
    assert done.returncode == 1, done.stdout + done.stderr
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_misspelled_key_suggests_closest_key(dataset, tmp_path):
    words = ["--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--max_epoch", "3"]
    message = "config key 'max_epoch' is not used by any workflow: did you mean 'max_epochs'?"
    assert_plain_error(monai_bundle("train", *words), message)
    assert_plain_error(segbundle("train", "--config", TINY, *words), message)
    assert not (tmp_path / "out").exists()
    words[-2:] = ["--optimizer#lrr", "3"]
    assert_plain_error(
        segbundle("train", "--config", TINY, *words), "'optimizer#lrr': AdamW has no such argument: did you mean 'lr'?"
    )
    words[-2:] = ["--patch_size", "48"]
    assert_plain_error(monai_bundle("train", *words), "patch_size is 48; three positive whole numbers of voxels")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("loss#absent", "maybe", "absent is 'maybe', but must be one of 'volume', 'skip', 'smooth'"),
        ("loss#smooth_dr", "-1", "smooth_dr is -1, but must be finite and not negative"),
        ("loss#weight", "[1,2]", "weight has 2 entries for 3 classes"),
    ],
)
def test_invalid_argument_of_loss_fails(dataset, tmp_path, key, value, what):
    words = ("--dataset_dir", dataset, "--output_dir", tmp_path / "out", f"--{key}", value)
    assert_plain_error(segbundle("train", "--config", TINY, *words), what)


def test_truncated_file_stops_training_and_is_named(copy, tmp_path):
    truncate(copy / "imagesTr" / "case_03.nii.gz")
    done = monai_bundle("train", "--dataset_dir", copy, "--output_dir", tmp_path / "out")
    assert_plain_error(done, "case_03.nii.gz: cannot be read", "copy or convert it again")


def test_missing_dataset_fails(tmp_path):
    done = monai_bundle("train", "--dataset_dir", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert_plain_error(done, "nowhere: no such folder; set dataset_dir")


def test_unwritable_output_folder_fails(dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "file" / "out")
    assert_plain_error(done, "file/out: cannot be written", "choose another --output_dir")


def test_checkpoint_of_other_network_names_the_layers(trained, dataset, tmp_path):
    done = monai_bundle(
        "evaluate", "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path,
        "--network_def#filters", "[8,16,16]",
    )  # fmt: skip
    assert_plain_error(done, "model.pt: does not fit the network: layers with another shape: ", "(4, 1, 3, 3, 3)")


def test_failed_scan_is_reported_and_others_are_predicted(trained, copy, tmp_path):
    truncate(copy / "imagesTs" / "test_00.nii.gz")
    done = monai_bundle(
        "inference", "--dataset_dir", copy, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path / "out"
    )
    assert_plain_error(done, "1 of 2 scans failed (test_00)", "predictions.json")
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [record["status"] for record in records] == ["failed", "ok"]
    assert (tmp_path / "out" / "test_01_seg.nii.gz").exists()


def test_failed_case_is_reported_and_not_scored(trained, copy, tmp_path):
    truncate(copy / "labelsTr" / "case_02.nii.gz")
    done = segbundle(
        "evaluate", "--config", TINY, "--dataset_dir", copy, "--ckpt_path", trained / "model.pt",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert_plain_error(done, "1 of 6 scans failed (case_02)")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases"] == 5


def test_missing_config_file_fails(dataset, tmp_path):
    done = segbundle("train", "--config", "no.yaml", "--dataset_dir", dataset, "--output_dir", tmp_path)
    assert_plain_error(done, "no.yaml: no such file")
    done = segbundle("train", "--bundle", tmp_path, "--dataset_dir", dataset, "--output_dir", tmp_path)
    assert_plain_error(done, "train.yaml: no such file")


def test_bundle_configs_exist():
    assert {path.name for path in CONFIGS.iterdir()} >= {"train.yaml", "evaluate.yaml", "inference.yaml"}
