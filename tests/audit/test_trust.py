"""Commands with untrusted configurations."""

import shutil

import pytest
from typer.testing import CliRunner

from commands import ROOT, TINY
from documents import blocks
from segbundle.audit import inspect_path, refuse_untrusted
from segbundle.cli.app import app
from segbundle.errors import ConfigError

RUNS = {
    "train": ("train", "--dataset_dir", "DATA", "--output_dir", "OUT"),
    "evaluate": ("evaluate", "--dataset_dir", "DATA", "--output_dir", "OUT"),
    "cross-validate": ("cross-validate", "--dataset_dir", "DATA", "--output_dir", "OUT"),
    "predict": ("predict", "DATA", "--output_dir", "OUT"),
    "check": ("check", "DATA"),
}


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def evil(tmp_path):
    """Return a task that creates a file when it is evaluated, with a component that does so when it is created."""
    path = tmp_path / "evil.yaml"
    command = f"touch {tmp_path / 'canary'}"
    path.write_text(f"spacing: $[torch.os.system('{command}')]\nloss: {{_target_: os.system, command: {command}}}\n")
    yield path
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def command(tmp_path):
    def words(name):
        places = {"DATA": ROOT / "data_samples", "OUT": tmp_path / "out"}
        return [places.get(word, word) for word in RUNS[name]]

    return words


def test_audit_lists_findings_and_fails(evil):
    result = invoke("audit", evil)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{evil}: spacing: expression uses torch.os.system, which ")
    assert second == f"{evil}: loss#_target_: _target_ is outside monai, torch, ignite and segbundle: os.system"
    assert "2 finding(s)." in result.stderr


def test_audit_of_clean_file_succeeds():
    result = invoke("audit", TINY)
    assert (result.exit_code, result.stdout) == (0, f"{TINY}: nothing found that could run code.\n")


def test_audit_of_nothing_is_an_error(tmp_path):
    result = invoke("audit", tmp_path / "nothing")
    assert result.exit_code == 1 and "no such file or folder" in result.stderr


@pytest.mark.parametrize("name", RUNS)
def test_command_rejects_a_flagged_task(name, evil, command, tmp_path):
    result = invoke(*command(name), "--config", evil)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {evil}: spacing: expression uses torch.os.system")
    assert "1 more finding." in line and "any code" in line and "--trust" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != "check"])
def test_command_rejects_a_flagged_bundle(name, command, tmp_path):
    bundle = shutil.copytree(ROOT / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("eval"))
    refuse_untrusted([], bundle, trust=False)
    with (bundle / "configs" / "logging.conf").open("a") as file:
        file.write("[handler_more]\nclass=FileHandler\n")
    result = invoke(*command(name), "--bundle", bundle)
    assert result.exit_code == 1 and f"Error: {bundle}/configs/logging.conf: handler_more#class" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--loss", "{'_target_': 'os.system', 'command': 'true'}"),
        ("--loss#_target_", "os.system"),
        ("--train#preprocessing#reader", "os.system"),
    ],
    ids=lambda words: words[0],
)
def test_command_line_components_are_inspected(words, command):
    result = invoke(*command("train"), *words)
    assert result.exit_code == 1 and "Error: command line: " in result.stderr


def test_command_line_text_is_not_inspected():
    text = {"dataset_dir": ["$print(1).nii.gz", "%x.yaml"], "a#b": "$print(1)"}
    assert refuse_untrusted([], None, trust=False, values=text) is None
    with pytest.raises(ConfigError, match="command line: "):
        refuse_untrusted([], None, trust=False, values={**text, "a#_target_": "os.system"})


def test_trust_skips_the_inspection(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("x: $print(1)")
    assert refuse_untrusted([path], None, trust=True) is None
    with pytest.raises(ConfigError, match="uses the name print"):
        refuse_untrusted([path], None, trust=False)


def test_broken_task_is_reported_as_invalid_yaml(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("x: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        refuse_untrusted([path], None, trust=False)


def test_tasks_in_the_documentation_have_no_findings(tmp_path):
    checked = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, text in enumerate(blocks(document, "yaml")):
            if text.startswith(("# my_network.yaml", "# my_nnunet.yaml")):  # code of the reader, which needs --trust
                continue
            path = tmp_path / f"{document.stem}_{number}.yaml"
            path.write_text(text, encoding="utf-8")
            assert inspect_path(path) == []
            refuse_untrusted([path], None, trust=False)
            checked.append(document.name)
    assert "README.md" in checked


@pytest.mark.e2e
def test_plain_tasks_are_inspected_without_importing_torch():
    import subprocess
    import sys

    program = (
        "import sys; from pathlib import Path; from segbundle.audit import inspect_path, refuse_untrusted\n"
        f"refuse_untrusted([Path({str(TINY)!r})], None, trust=False)\n"
        "print({'torch', 'monai', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "set()\n"
