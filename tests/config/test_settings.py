"""The list of settings agrees with validation, help, schema, documentation and the bundle's workflows."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from segbundle.cli.settings_help import help_lines, settings_by_theme
from segbundle.config.kinds import Component
from segbundle.config.overlays import merged_config, read_config, workflow_files
from segbundle.config.settings import BY_KEY, KEYS, SETTINGS, THEMES
from segbundle.config.settings_documents import is_in_workflow, settings_table, task_schema, workflow_block

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundle" / "configs"
WORKFLOWS = {name: merged_config(workflow_files(CONFIGS, name)) for name in ("train", "evaluate", "inference")}
TASKS = sorted((ROOT / "configs").glob("*.yaml"))


def test_keys_are_unique_and_described():
    assert len(BY_KEY) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.needed
        assert bool(setting.description) == (not setting.is_nested) == bool(setting.theme)
        assert setting.theme in (*THEMES, "")


@pytest.mark.parametrize("name", ["train", "inference"])
def test_workflows_contain_all_settings_with_their_defaults(name):
    """Run `python docs/write_settings.py` after a change of a setting."""
    assert workflow_block(name) in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, setting.key)
        for name in WORKFLOWS
        for setting in SETTINGS
        if setting.default and is_in_workflow(setting, name)
    ],
)
def test_defaults_of_the_workflows_are_valid(name, key):
    setting, config = BY_KEY[key], WORKFLOWS[name]
    value = config[key]
    if isinstance(setting.kind, Component):
        assert value["_target_"].rpartition(".")[2] == setting.default
    elif value == f"@{setting.default}":
        assert setting.default in KEYS
    else:
        assert value == yaml.safe_load((name != "train" and setting.inference_default) or setting.default)
        assert setting.kind.accepts(value)


def test_three_workflows_take_at_most_300_lines():
    lines = [(CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines() for name in WORKFLOWS]
    assert sum(map(len, lines)) <= 300


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_have_no_other_settings(name):
    plain = [key for key, value in WORKFLOWS[name].items() if not isinstance(value, (dict, list)) or key in BY_KEY]
    assert set(plain) <= set(BY_KEY)


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_task_files_fit_the_schema_that_they_name(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)
    assert named is not None
    schema = json.loads((path.parent / named[1]).read_text(encoding="utf-8"))
    assert schema == task_schema()
    jsonschema.validate(read_config(path), schema)


@pytest.mark.parametrize(
    "task",
    [
        {"max_epochs": 0},
        {"spacing": [1.0, 1.0]},
        {"axcodes": "RA"},
        {"precision": "int8"},
        {"overlap": 1},
        {"network_def#in_channels": "one"},
        {"loss": "DiceLoss"},
        {"lr_scheduler#milestones": 3},
    ],
    ids=str,
)
def test_schema_rejects_invalid_values(task):
    ((key, value),) = task.items()
    assert isinstance(BY_KEY[key].kind, Component) or not BY_KEY[key].kind.accepts(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task, task_schema())


@pytest.mark.parametrize(
    "task", [{"max_epochs": "@epochs"}, {"spacing": "$[1, 1, 1]"}, {"own_key": 3}, {"fold": None}], ids=str
)
def test_schema_accepts_references_and_own_keys(task):
    assert list(jsonschema.Draft202012Validator(task_schema()).iter_errors(task)) == []


def test_the_page_of_settings_contains_every_key():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert settings_table() in page
    for setting in SETTINGS:
        if setting.is_nested:
            assert f"| `{setting.key}` | {setting.needed.rstrip(',')} |" in page


def test_help_lists_every_setting_once():
    for command in ("train", "evaluate", "predict", "cross-validate"):
        keys = [key for lines in help_lines(command).values() for key, _ in lines]
        assert len(keys) == len(set(keys))
    assert "--max_epochs" not in [key for lines in help_lines("predict").values() for key, _ in lines]
    every = {
        setting.key
        for name in ("train", "evaluate", "predict")
        for settings in settings_by_theme(name).values()
        for setting in settings
    }
    assert every == {setting.key for setting in SETTINGS if setting.description}
