"""Runs of torchrun that are restarted or span nodes; tests/bundle/test_elastic.py tests them with real processes."""

import json

import pytest
from monai.bundle import ConfigParser

from segbundle.errors import ConfigError, OutputError
from segbundle.files import run_files
from segbundle.files.output_folders import claim
from segbundle.workflow import launches


@pytest.fixture
def agent(monkeypatch):
    """Act as if this process had been started by torchrun."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    return launches.elastic_agent()


def resumes(folder):
    parser = ConfigParser({"resume": False, "copy": "@resume"})
    launches.resume_after_restart(parser, str(folder))
    return parser.get_parsed_content("copy")


def test_only_the_run_of_the_same_agent_is_resumed(agent, tmp_path, monkeypatch):
    assert not resumes(tmp_path)
    claim(tmp_path)
    launches.record_launch(str(tmp_path))
    assert json.loads((tmp_path / run_files.LAUNCH).read_text())["agents"] == [agent]
    assert resumes(tmp_path)
    monkeypatch.setattr(launches, "elastic_agent", lambda: "other 1 2.0")  # of a later launch
    assert not resumes(tmp_path)
    monkeypatch.setattr(launches, "elastic_agent", lambda: None)  # without torchrun
    assert not resumes(tmp_path)


def test_one_surviving_agent_is_sufficient(agent, tmp_path):
    (tmp_path / run_files.LAUNCH).write_text(json.dumps({"agents": ["lost 1 2.0", agent], "start": "x"}))
    assert resumes(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"agents": 3}', '{"agents": [{}]}'])
def test_damaged_records_are_ignored(agent, text, tmp_path):
    (tmp_path / run_files.LAUNCH).write_text(text)
    assert not resumes(tmp_path)


def test_folder_that_a_node_does_not_see_raises(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "_VISIBLE_AFTER", 0.0)
    monkeypatch.setattr(launches, "write_json", lambda path, content: None)  # as on a local disk of another node
    with pytest.raises(OutputError, match=r"does not see the files of process 0\. Choose an --output_dir on storage"):
        launches.record_launch(str(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"max_epochs": 4}, r"max_epochs is 3 in process 0 \(a\), but 4 in process 1 \(b\)\. Start the same command"),
        ({}, "max_epochs is 3 in process 0 .*, but 'missing' in process 1"),
        ({"max_epochs": 3, "device": "cpu", "num_workers": 2, "cache_dir": "/scratch"}, None),
    ],
)
def test_different_configurations_raise(other, message, monkeypatch):
    monkeypatch.setattr(launches, "world_size", lambda: 2)
    monkeypatch.setattr(launches.socket, "gethostname", lambda: "a")
    monkeypatch.setattr(
        launches,
        "all_gather",
        lambda shard: [*shard, ("b", {key: value for key, value in other.items() if key not in launches._OWN_KEYS})],
    )
    if message is None:
        launches.refuse_different_configs({"max_epochs": 3, "device": "cuda:0"})
    else:
        with pytest.raises(ConfigError, match=message):
            launches.refuse_different_configs({"max_epochs": 3})
