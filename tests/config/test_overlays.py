"""Merging of configuration files and command-line values."""

import json

import pytest
from monai.bundle import ConfigParser

from commands import ROOT
from segbundle.config.overlays import check_steps, merged_config, read_config, texts, workflow_file, workflow_files
from segbundle.errors import ConfigError


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def base(tmp_path):
    text = "a: {b: [1, 2], c: 1e-3}\nd: '@a#b'\ne: [{_target_: builtins.list}]\nname: 'x#1'\n"
    return write(tmp_path / "base.yaml", text)


def test_later_files_and_command_line_override(base, tmp_path):
    over = write(tmp_path / "over.json", json.dumps({"a#b": [3], "+e": [5]}))
    config = merged_config([base, over], {"a#c": "$1", "new": 4, "a::x": "@d"})
    assert config["e"] == [{"_target_": "builtins.list"}, 5]
    parser = ConfigParser(config)
    assert parser.get_parsed_content("a") == {"b": [3], "c": "$1", "x": "@d"}
    assert [parser.get_parsed_content(key) for key in ("d", "new", "name")] == [[3], 4, "x#1"]


def test_yaml_1_2_numbers(base):
    assert merged_config([base])["a"]["c"] == 1e-3


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("x#y: 1", {}, "over.yaml: key 'x#y' cannot be set"),
        ("e#7: 1", {}, "over.yaml: key 'e#7' cannot be set"),
        ("d#x: 1", {}, "over.yaml: key 'd#x' cannot be set"),
        ("+a: 1", {}, r"over.yaml: key '\+a' cannot be set"),
        ("'': 1", {}, "over.yaml: key '' is not a valid name"),
        ("f: 1", {"x#y": 1}, "--x#y cannot be set"),
        ("run: 1", {}, "over.yaml: config key 'run' is 1; a list of components or expressions is needed"),
        ("initialize: {a: 1}", {}, "over.yaml: config key 'initialize' is {'a': 1}; a list"),
        ("f: 1", {"initialize": None}, "config key 'initialize' is None; a list"),
        ("f: '%nothing.yaml::a'", {}, "nothing.yaml: no such file"),
    ],
)
def test_invalid_overrides_raise(base, tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        merged_config([base, write(tmp_path / "over.yaml", text)], overrides)


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("initialize: []", "'initialize' removes or changes the step segbundle.workflow.start_workflow"),
        ("initialize: '@steps'\nsteps: []", "'initialize' removes or changes the step segbundle.workflow.sta"),
        ("initialize#0: null", "'initialize' removes or changes the step segbundle.workflow.start_workflow"),
        ("initialize#0#_disabled_: true", "'initialize' removes or changes the step segbundle.workflow.start_workflow"),
        ("initialize#0#_mode_: callable", "'initialize' removes or changes the step segbundle.workflow.start_workflow"),
        (
            "initialize#1#test_time_flips: []",
            "'initialize' removes or changes the step segbundle.workflow.warn_about_f",
        ),
        ("run: []", r"'run' removes or changes the step \$@"),
        ("run::0: $1", r"'run' removes or changes the step \$@"),
        ("finalize: [{_target_: segbundle.distributed.stop_ranks}, '$1']", "'finalize' removes or changes the step"),
    ],
)
def test_task_cannot_remove_steps(tmp_path, name, text, message):
    if name == "train" and text.startswith("finalize"):
        text = "finalize: ['$1']"
    workflow = workflow_files(ROOT / "bundle" / "configs", name)
    files = [*workflow, write(tmp_path / "mine.yaml", text)]
    with pytest.raises(ConfigError, match=f"mine.yaml: config key {message}.*; to add steps, write \\+"):
        check_steps(files, num_workflow_files=len(workflow))


def test_command_line_cannot_remove_steps():
    files = [ROOT / "bundle" / "configs" / "train.yaml"]
    with pytest.raises(ConfigError, match="command line: config key 'initialize' removes or changes the step"):
        check_steps(files, {"initialize": []})


@pytest.mark.parametrize(
    ("name", "text", "handler"),
    [
        ("train", "train#handlers: [{_target_: GarbageCollector}]", "Checkpoints"),
        ("train", "train#handlers: []", "Checkpoints"),
        ("evaluate", "handlers: []", "ScoreReport"),
    ],
)
def test_handlers_that_write_results_cannot_be_removed(tmp_path, name, text, handler):
    workflow = workflow_files(ROOT / "bundle" / "configs", name)
    files = [*workflow, write(tmp_path / "mine.yaml", text)]
    with pytest.raises(ConfigError, match=rf"removes the handler segbundle\.\w+\.{handler}\. It writes results"):
        check_steps(files, num_workflow_files=len(workflow))
    check_steps([*workflow, write(tmp_path / "mine.yaml", f"+{text}")], num_workflow_files=len(workflow))


def test_steps_can_be_added(tmp_path):
    own = ROOT / "bundle" / "configs" / "train.yaml"
    over = write(tmp_path / "over.yaml", "+initialize: [$1]\n+run: [$2]\ninitialize#0#ranks: true")
    check_steps([own, over])
    assert merged_config([own, over])["initialize"] == [
        {"_target_": "segbundle.workflow.start_workflow", "ranks": True},
        *read_config(own)["initialize"][1:],
        "$1",
    ]


def test_steps_of_other_bundles_are_not_checked(tmp_path):
    other = write(tmp_path / "train.yaml", "initialize: [$1]\nrun: [$2]")
    over = write(tmp_path / "over.yaml", "initialize: []\nrun: [$3]")
    check_steps([other, over])
    assert merged_config([other, over]) == {"initialize": [], "run": ["$3"]}


def test_macro_files_are_limited(base, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    bomb = write(tmp_path / "bomb.yaml", "\n".join(lines))
    over = write(tmp_path / "over.yaml", f"f: '%{bomb}::a8'")
    with pytest.raises(ConfigError, match=r"bomb.yaml: contains .* values after the expansion of YAML aliases"):
        merged_config([base, over])


def test_changed_file_is_reread(tmp_path):
    path = write(tmp_path / "a.yaml", "a: [1]")
    read_config(path)["a"].append(2)
    assert read_config(path) == {"a": [1]}
    assert read_config(write(path, "a: [1, 3]")) == {"a": [1, 3]}


def test_json_workflows(tmp_path):
    assert workflow_file(tmp_path, "train") == tmp_path / "train.yaml"
    write(tmp_path / "train.json", '{"a": 1}')
    assert read_config(workflow_file(tmp_path, "train")) == {"a": 1}


def test_texts():
    assert list(texts({"a": ["x", {"b": "y"}], "c": 1, "d": ("z",)})) == ["x", "y", "z"]
