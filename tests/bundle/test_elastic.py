"""Two agents of torchrun on one machine: a killed rank is replaced, and the run continues with the same result."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import CONFIGS, TINY
from segbundle.config.overlays import workflow_files

KILLER = """
import os, signal
from pathlib import Path
from ignite.engine import Events

class KillOnce:
    def __init__(self, marker, event, count, victim):
        self.marker, self.event, self.count, self.victim = Path(marker), event, count, victim

    def attach(self, engine):
        engine.add_event_handler(Events[self.event.upper()], self)

    def __call__(self, engine):
        reached = engine.state.epoch if self.event == "epoch_completed" else engine.state.iteration
        if os.environ["RANK"] == str(self.victim) and reached == self.count and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
"""Handler that kills its own process once."""
RESUMED = "torchrun has restarted the processes; the run is resumed"
SCORES = ("metrics.csv", "summary.json")


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    """Train on two ranks of one agent, undisturbed."""
    out = tmp_path_factory.mktemp("undisturbed")
    ((code, text),) = agents(out, "train", *training(dataset), "--output_dir", out / "run", launches=1)
    assert code == 0, text
    return out / "run"


def training(dataset: Path) -> list[object]:
    return ["--dataset_dir", dataset, "--max_epochs", "4", "--val_interval", "2"]


def killing(folder: Path, event: str, count: int, victim: int) -> str:
    return (
        f"[{{_target_: killing.KillOnce, marker: {folder}/killed, event: {event}, count: {count}, victim: {victim}}}]"
    )


def agents(
    folder: Path,
    workflow: str,
    *words: object,
    kill: str | None = None,
    launches: int = 2,
    restarts: int = 3,
    last: tuple[str, ...] = (),
) -> list[tuple[int, str]]:
    """Run a workflow on two ranks, and return the exit code and output of each agent.

    The last agent has further words on its command line.
    """
    (folder / "killing.py").write_text(KILLER)
    (folder / "kill.yaml").write_text(kill or "{}")
    files = [*workflow_files(CONFIGS, workflow), CONFIGS / f"multi_gpu_{workflow}.yaml", TINY, folder / "kill.yaml"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={launches}", f"--nproc_per_node={2 // launches}",
        "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", f"--max_restarts={restarts}",
        "-m", "monai.bundle", "run", "--config_file", str(list(map(str, files))), *map(str, words),
    ]  # fmt: skip
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    outputs = [folder / f"agent_{number}.txt" for number in range(launches)]
    processes = []
    for output in outputs:
        more = last if output == outputs[-1] else ()
        with output.open("w") as stream:
            processes.append(subprocess.Popen([*command, *more], stdout=stream, stderr=subprocess.STDOUT, env=env))
    return [(process.wait(), output.read_text()) for process, output in zip(processes, outputs, strict=True)]


def texts(ended: list[tuple[int, str]]) -> str:
    return "\n=====\n".join(text for _, text in ended)


def assert_same(first: object, second: object) -> None:
    if isinstance(first, dict):
        assert isinstance(second, dict) and first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor) and torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize(("event", "count", "victim"), [("epoch_completed", 3, 0), ("iteration_completed", 1, 1)])
def test_training_continues_after_a_rank_was_killed(event, count, victim, dataset, model, tmp_path):
    kill = f"+train#handlers: {killing(tmp_path, event, count, victim)}"
    killed = agents(tmp_path, "train", *training(dataset), "--output_dir", tmp_path / "run", kill=kill)
    assert [code for code, _ in killed] == [0, 0], texts(killed)
    assert (tmp_path / "killed").exists()
    assert RESUMED in texts(killed)
    assert ("after epoch 2" in texts(killed)) == (count == 3)
    assert ("contains no last.pt to resume from; starting from the beginning" in texts(killed)) == (count == 1)
    for name in ("model.pt", "last.pt"):
        assert_same(*(torch.load(out / name, weights_only=True) for out in (model, tmp_path / "run")))
    assert [(tmp_path / "run" / name).read_text() for name in SCORES] == [(model / name).read_text() for name in SCORES]


@pytest.mark.parametrize("workflow", ["inference", "evaluate"])
def test_finished_scans_are_kept_after_a_rank_was_killed(workflow, dataset, model, tmp_path):
    options = ["--dataset_dir", dataset / "imagesTr" if workflow == "inference" else dataset, "--ckpt_path"]
    options += [model / "model.pt"]
    ((code, text),) = agents(tmp_path, workflow, *options, "--output_dir", tmp_path / "undisturbed", launches=1)
    assert code == 0, text
    kill = f"+handlers: {killing(tmp_path, 'iteration_completed', 3, 1)}"
    killed = agents(tmp_path, workflow, *options, "--output_dir", tmp_path / "run", kill=kill)
    assert [code for code, _ in killed] == [0, 0], texts(killed)
    (done,) = re.findall(r"resuming: (\d) of 6 scans are done", texts(killed))
    assert 1 <= int(done) < 6
    records = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("undisturbed", "run")]
    assert [(record["case"], record["status"]) for record in records[0]] == [
        (record["case"], record["status"]) for record in records[1]
    ]
    names = sorted(path.name for path in (tmp_path / "undisturbed").glob("*_seg.nii.gz"))
    assert len(names) == 6
    for name in [*names, *(SCORES if workflow == "evaluate" else ())]:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_restart_does_not_resume_the_run_of_an_earlier_launch(dataset, model):
    before = (model / "last.pt").read_bytes()
    ended = agents(model.parent, "train", *training(dataset), "--output_dir", model, launches=1, restarts=1)
    assert 0 not in [code for code, _ in ended]
    assert "already contains a training run" in texts(ended) and RESUMED not in texts(ended)
    assert (model / "last.pt").read_bytes() == before


def test_nodes_with_different_commands_fail(dataset, tmp_path):
    ended = agents(tmp_path, "train", *training(dataset), "--output_dir", tmp_path / "run", last=("--batch_size", "2"))
    assert 0 not in [code for code, _ in ended]
    assert re.search(
        r"batch_size is [12] in process 0 .*, but [12] in process 1 .*Start the same command on every node\.",
        texts(ended),
    )
    assert not (tmp_path / "run").exists()
