"""Task files of plans: text, edits that must stay, and bad paths."""

import pytest
import yaml

from fingerprints import dataset_of
from segbundle.config.options import default_bundle
from segbundle.config.overlays import read_config
from segbundle.config.validation import check_task
from segbundle.errors import OutputError
from segbundle.planning.choice import Choice
from segbundle.planning.fingerprint_table import fingerprint_lines
from segbundle.planning.plan import Plan
from segbundle.planning.plan_file import plan_diff, plan_text, setting_line, write_plan

CHOICES = [
    Choice("class_names", ["background", "no", "a#b", "Leber ä", "1"], "in the order of the label values"),
    Choice("spacing", [1.0, 1.0, 2.5], "mm"),
    Choice("intensity", {"method": "zscore", "nonzero": True}, "MR"),
    Choice("augmentation", {"flip_axes": "auto", "rotation": [0.0, 0.0, 20.0], "scaling": 0.25}, "flat"),
    Choice("fold", None, "one case"),
    Choice("steps_per_epoch", 25, "50 patches"),
]
PLAN = Plan(dataset_of(names=("background", "left lung", "right lung")), CHOICES, ["1 s per step."], ["a\nb"])


def test_file_has_a_line_per_setting_with_its_reason(tmp_path):
    path = tmp_path / "task.yaml"
    assert write_plan(PLAN, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=") and lines[0].endswith("configs/task.schema.json")
    assert (tmp_path / lines[0].partition("=")[2]).resolve().is_file()
    settings = [line for line in lines if not line.startswith("#")]
    assert len(settings) == len(CHOICES) and all(" # " in line for line in settings)
    assert "# Warning: a\\nb" in lines and "# 1 s per step." in lines
    assert "# left / right   left lung / right lung" in lines


def test_loader_of_the_project_reads_the_values(tmp_path):
    path = tmp_path / "task.yaml"
    write_plan(PLAN, path)
    assert read_config(path) == PLAN.values
    check_task([path], default_bundle() / "configs")


def test_line_is_valid_yaml_however_long_the_value():
    names = [f"class {number}" for number in range(200)]
    line = setting_line(Choice("class_names", names, "why: because # of {this}"))
    assert "\n" not in line and yaml.safe_load(line) == {"class_names": names}


def test_edits_are_kept(tmp_path):
    path = tmp_path / "task.yaml"
    write_plan(PLAN, path)
    edited = path.read_text(encoding="utf-8").replace("steps_per_epoch: 25", "steps_per_epoch: 99")
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(OutputError, match=r"its settings differ from this plan. Use --overwrite to replace it"):
        write_plan(PLAN, path)
    assert path.read_text(encoding="utf-8") == edited
    changed = [
        line for line in plan_diff(PLAN, path).splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert changed == ["-steps_per_epoch: 99 # 50 patches", "+steps_per_epoch: 25 # 50 patches"]
    assert write_plan(PLAN, path, overwrite=True)
    assert plan_diff(PLAN, path) == ""


def test_edited_comments_are_no_difference(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(f"# my own comment\n{plan_text(PLAN, path)}", encoding="utf-8")
    before = path.read_bytes()
    assert not write_plan(PLAN, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\xff", b"- a list"])
def test_foreign_file_is_kept(tmp_path, content):
    path = tmp_path / "task.yaml"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="--overwrite"):
        write_plan(PLAN, path)
    assert path.read_bytes() == content
    assert plan_diff(PLAN, path)


@pytest.mark.parametrize(
    ("name", "suggested"), [("", "my_task.yaml"), ("task", "task.yaml"), ("task.txt", "task.yaml")]
)
def test_other_suffixes_raise(tmp_path, name, suggested):
    with pytest.raises(OutputError, match=f"is not a .yaml file. Use a name such as .*{suggested}"):
        write_plan(PLAN, tmp_path / name)


def test_table_of_several_channels_and_missing_classes():
    cases = [
        {"minimum": (0.0, 1.0), "maximum": (5.0, 9.0), "samples": ((1.0,), (2.0,)), "voxels": {0: 10, 2: 1000}},
        {"minimum": (0.0, 1.0), "maximum": (5.0, 9.0), "samples": ((), ()), "voxels": {0: 10}, "orientation": "LPS"},
    ]
    lines = fingerprint_lines(dataset_of(cases, ["background", "a", "b"], ["T1", "T2"]))
    assert "modality       T1, T2 (dataset.json)" in lines and "orientation    1× RAS, 1× LPS" in lines
    assert any(line.startswith("in labels, 1   mean 2, std 0,") for line in lines)
    assert lines[-2].split() == ["a", "0", "2", "0", "-"]
    assert lines[-1].split() == ["b", "1", "1", "0", "1", "(1", "to", "1)"]
