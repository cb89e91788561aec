"""Command line without workflows; tests/bundle tests the workflows."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import segbundle
from runs_by_hand import RIGHT, labels, write_evaluation
from segbundle.cli.app import app
from segbundle.config.options import default_bundle, split_overrides
from segbundle.errors import ConfigError

COMMANDS = [
    "train", "evaluate", "predict", "check", "plan", "convert", "import", "audit", "samples", "report", "view",
    "reproduce",
]  # fmt: skip


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_working_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: segbundle {command}" in " ".join(result.output.split())


@pytest.mark.e2e
def test_help_imports_no_large_packages():
    code = """
import sys
from segbundle.cli import main
sys.argv = ["segbundle", "--help"]
try:
    main()
finally:
    print({"torch", "monai", "numpy", "nibabel", "pydantic"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_split_overrides():
    words = ["a.nii", "--overlap", "0.25", "b.nii", "--patch_size=[8, 8, 8]", "--resume", "--device", "cpu", "c.nii"]
    plain, pairs = split_overrides(words)
    assert plain == ["a.nii", "b.nii", "c.nii"]
    assert pairs == {"overlap": 0.25, "patch_size": [8, 8, 8], "resume": True, "device": "cpu"}


def test_values_are_parsed_like_yaml():
    _, pairs = split_overrides(["--fold", "null", "--resume", "true", "--seed", "3", "--name", "x"])
    assert pairs == {"fold": None, "resume": True, "seed": 3, "name": "x"}


@pytest.mark.parametrize("word", ["--max_epochs", "--fold", "--patch_size=true"])
def test_key_without_value_raises(word, tmp_path):
    result = invoke("train", "--dataset_dir", tmp_path, "--output_dir", tmp_path / "out", "--skip_air", word)
    key = word.partition("=")[0]
    assert result.exit_code == 1 and f"Error: {key} needs a value; its default is " in result.stderr
    assert not (tmp_path / "out").exists()


def test_key_without_value_raises_in_cross_validation(tmp_path):
    result = invoke("cross-validate", "--dataset_dir", tmp_path, "--output_dir", tmp_path / "out", "--num_folds")
    assert result.exit_code == 1 and "Error: --num_folds needs a value; its default is 5." in result.stderr


def test_short_option_raises():
    with pytest.raises(ConfigError, match="unknown option '-x'"):
        split_overrides(["-x"])


def test_default_bundle():
    assert (default_bundle() / "configs" / "train.yaml").is_file()


def test_samples_pass_check(tmp_path):
    result = invoke("samples", tmp_path / "s", "--num_training", 4, "--num_test", 1)
    assert result.exit_code == 0, result.output
    result = invoke("check", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert "5 cases, no problem found. Classes: background, liver, kidney, vessel, lesion." in result.output
    assert "vessel        3       1              1" in result.output
    result = invoke("samples", tmp_path / "s")
    assert result.exit_code == 1
    assert str(tmp_path / "s") in result.output


def test_check_prints_every_problem(tmp_path):
    invoke("samples", tmp_path / "s", "--num_training", 4, "--num_test", 0)
    for name in ("phantom_001", "phantom_003"):
        path = tmp_path / "s" / "imagesTr" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:1000])
    result = invoke("check", tmp_path / "s")
    assert result.exit_code == 1
    assert "phantom_001.nii.gz: cannot be read" in result.output
    assert "phantom_003.nii.gz: cannot be read" in result.output
    assert "2 problem(s); 2 of 4 cases cannot be used." in result.output


def test_check_with_task(tmp_path):
    invoke("samples", tmp_path / "s", "--num_training", 2, "--num_test", 0)
    configs = Path(__file__).parents[2] / "configs"
    assert invoke("check", tmp_path / "s", "--config", configs / "phantom.yaml").exit_code == 0
    task = tmp_path / "task.yaml"
    task.write_text("class_names: [background, a, b, c, d]\n")
    result = invoke("check", tmp_path / "s", "--config", task)
    assert result.exit_code == 1
    assert "dataset.json: its labels differ" in result.output
    task.write_text("class_names: [background, liver, kidney, vessel, lesion]\nnetwork_def#filters: [8, 16, 32, 64]\n")
    assert invoke("check", tmp_path / "s", "--config", task).exit_code == 0
    task.write_text("class_names: [background, liver, kidney, vessel, lesion]\npatch_sise: [48, 48, 48]\n")
    result = invoke("check", tmp_path / "s", "--config", task)
    assert result.exit_code == 1
    assert "config key 'patch_sise' is not used by any workflow: did you mean 'patch_size'" in result.output


def test_predict_needs_scans(tmp_path):
    result = invoke("predict", "--output_dir", tmp_path)
    assert result.exit_code == 1
    assert "no scans given. Pass at least one scan" in result.output


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output == f"segbundle {segbundle.__version__}\n"


@pytest.mark.parametrize(
    ("given", "suggested"), [("", "report.html"), ("metrics.csv", "metrics.html"), ("new", "new.html")]
)
def test_report_replaces_only_html_files(tmp_path, given, suggested):
    result = invoke("report", tmp_path, "--output", tmp_path / given)
    assert result.exit_code == 1
    message = f"Error: --output {tmp_path / given}: is not an .html file. Use a name such as {tmp_path / suggested}."
    assert message in result.stderr


def test_comparison_finds_moved_scans(tmp_path):
    cases = {"x": (RIGHT, RIGHT)}, {"x": (labels((2, 2, 2), (7, 9, 8)), RIGHT)}
    runs = [write_evaluation(tmp_path / name, case) for name, case in zip(("one", "other"), cases, strict=True)]
    (tmp_path / "one").rename(tmp_path / "moved")
    runs[0], page = tmp_path / "moved", tmp_path / "page.html"
    result = invoke("report", *runs, "--output", page, "--dataset_dir", tmp_path / "moved")
    assert (result.exit_code, result.output) == (0, f"{page}\n")
    assert page.read_text(encoding="utf-8").count('<svg class="slice"') == 3
    result = invoke("report", *runs, "--output", page, "--dataset_dir", tmp_path)
    assert result.exit_code == 1
    assert f"Error: {tmp_path} does not contain " in result.stderr


def test_cross_validation_by_torchrun_raises(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke("cross-validate", "--dataset_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "cross-validate cannot be started by torchrun" in result.output
