"""Paths, names and command-line values are data, whatever characters they contain."""

import json
import os
import shutil

import pytest

from commands import ROOT, TINY, invoke, segbundle

ODD = "a#b $x@c%d::e"
SCANS = ['$print("RAN")', "@output_dir", "%x.yaml::a", "a#b", "[x]", "{a: 1}", 'it\'s "b"', "line\nbreak", "null"]


def assert_done(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RAN" not in done.stdout.replace('$print("RAN")', "")


@pytest.fixture(scope="module")
def odd_dataset(dataset, tmp_path_factory):
    """Return the tiny dataset without dataset.json, in a folder and with cases that have special names."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
        for number, path in enumerate(sorted((dataset / place).iterdir())):
            shutil.copy(path, folder / place / f"{SCANS[number]}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def odd_run(odd_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / ODD
    words = ["--config", TINY, "--dataset_dir", odd_dataset, "--output_dir", out, "--max_epochs", 2]
    words += ["--cache_dir", "1e5", "--class_names", '[background, "$print(1)", a#b]']
    done = segbundle("train", *words, cwd=tmp_path_factory.mktemp("cwd"))
    assert_done(done)
    return out


def test_training_writes_to_output_dir(odd_run, odd_dataset):
    made = json.loads((odd_run / "run.json").read_text(encoding="utf-8"))["config"]
    assert made["dataset_dir"] == str(odd_dataset)
    assert made["class_names"] == ["background", "$print(1)", "a#b"]
    assert made["cache_dir"] == "1e5"
    task = json.loads((odd_run / "task.json").read_text(encoding="utf-8"))
    assert set(task["training_cases"]) < set(SCANS)
    assert (odd_run / "model.pt").is_file()


def test_task_and_bundle_paths_with_special_characters(odd_dataset, odd_run, tmp_path):
    folder = tmp_path / ODD
    shutil.copytree(ROOT / "bundle" / "configs", folder / "bundle" / "configs")
    task = shutil.copy(TINY, folder / "%x#y.yaml")
    names = '[background, "$print(1)", a#b]'
    done = segbundle(
        "evaluate", "--bundle", folder / "bundle", "--config", task, "--dataset_dir", odd_dataset,
        "--ckpt_path", odd_run / "model.pt", "--output_dir", "[x]", "--class_names", names, cwd=tmp_path,
    )  # fmt: skip
    assert_done(done)
    assert json.loads((tmp_path / "[x]" / "summary.json").read_text(encoding="utf-8"))["cases"] == 6


def test_scans_with_special_names_are_predicted(dataset, trained, tmp_path):
    scan = next((dataset / "imagesTs").iterdir())
    for name in SCANS:
        shutil.copy(scan, tmp_path / f"{name}.nii.gz")
    words = [f"{name}.nii.gz" for name in SCANS] + ["--config", TINY, "--ckpt_path", trained / "model.pt"]
    done = segbundle("predict", *words, "--output_dir", "2024", cwd=tmp_path)
    assert_done(done)
    assert {path.name for path in (tmp_path / "2024").glob("*_seg.nii.gz")} == {f"{n}_seg.nii.gz" for n in SCANS}
    assert json.loads((tmp_path / "2024" / "run.json").read_text())["config"]["dataset_dir"] == words[: len(SCANS)]


def test_scan_named_like_an_option_follows_two_dashes(dataset, trained, tmp_path):
    shutil.copy(next((dataset / "imagesTs").iterdir()), tmp_path / "-x.nii.gz")
    words = ["--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", "true"]
    done = segbundle("predict", *words, "--resume", "--skip_air", "true", "--", "-x.nii.gz", cwd=tmp_path)
    assert_done(done)
    assert (tmp_path / "true" / "-x_seg.nii.gz").is_file()
    assert json.loads((tmp_path / "true" / "run.json").read_text())["config"]["skip_air"] is True


def test_folder_names_that_are_not_utf_8(dataset, trained, tmp_path):
    out = tmp_path / os.fsdecode(b"\xff\xfe")
    words = ["--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", out]
    done = segbundle("predict", dataset / "imagesTs", *words)
    assert_done(done)
    records = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [record["prediction"].split("/")[-2:] for record in records] == [
        [r"\udcff\udcfe", f"test_0{number}_seg.nii.gz"] for number in (0, 1)
    ]
    assert all((out / f"test_0{number}_seg.nii.gz").is_file() for number in (0, 1))
    assert_done(segbundle("predict", dataset / "imagesTs", *words, "--resume"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss#_target_", "$print('RAN')"], "loss#_target_: _target_ uses the name print: $print('RAN')"),
        (["--trust", "--loss#_target_", "$print('RAN')"], "Cannot locate class or function path: '$print('RAN')'"),
        (["--spacing", "$[print('RAN')]"], "spacing is \"$[print('RAN')]\"; three positive sizes"),
        (["--patch_size", "@x"], "patch_size is '@x'; three positive whole numbers"),
        (["--device", "%x"], "device '%x' cannot be used here"),
        (["--run_id", "initialize"], "config key 'run_id' is not used by any workflow"),
        (["--_target_", "print"], "config key '_target_' is not used by any workflow"),
        (["--config_file", "x"], "config key 'config_file' is not used by any workflow"),
    ],
)
def test_values_of_keys_are_not_evaluated(dataset, tmp_path, words, message):
    done = invoke("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", *words)
    assert done.exit_code == 1 and message in done.stderr, done.stderr
    assert "RAN" not in done.stdout


def test_option_is_not_taken_as_value_of_another_option(dataset, tmp_path):
    done = invoke("predict", dataset / "imagesTs", "--output_dir", "--resume")
    assert done.exit_code == 1
    assert "Error: --output_dir needs a value, but is followed by --resume." in done.stderr
    done = invoke("predict", dataset, "--output_dir", tmp_path / "out", "--ckpt_path", "a.pt", "--ckpt_path", "--x")
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "Error: --ckpt_path needs a value, but is followed by --x." in done.stderr


def test_scans_cannot_be_given_twice(dataset, tmp_path):
    done = invoke("predict", "a.nii", "--dataset_dir", dataset, "--output_dir", tmp_path / "out")
    assert done.exit_code == 1 and "unexpected argument 'a.nii'" in done.stderr


def test_values_of_a_reproduction_are_not_evaluated():
    done = invoke("reproduce", "ignore_background", "--seeds", "$print('RAN')")
    assert (done.exit_code, done.stdout) == (1, "")


def test_component_can_be_set_on_the_command_line(dataset, tmp_path):
    words = ["--loss#_target_", "segbundle.losses.GeneralizedDiceCELoss", "--max_epochs", 1]
    done = invoke("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "out", *words)
    assert done.exit_code == 0, done.stderr
    made = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert made["loss"]["_target_"] == "segbundle.losses.GeneralizedDiceCELoss"
