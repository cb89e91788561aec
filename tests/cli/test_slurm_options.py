"""The option --slurm and the commands of a job; tests/bundle/test_slurm.py runs the jobs."""

import sys

import pytest

from segbundle.cli import slurm
from segbundle.cli.slurm import SlurmCommand, Submission, parse_submission
from segbundle.errors import ConfigError


def parsed(text):
    return parse_submission(text, ["train", "--slurm", text]).parameters


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("24:00:00", 1440), ("0:00:30", 1), ("2-0", 2880), ("1-12:30", 2190), ("1-0:0:1", 1441)],
)
def test_times_are_those_of_sbatch(text, minutes):
    assert parsed(f"time={text}")["time"] == minutes


@pytest.mark.parametrize("text", ["0", "-5", "1:2:3:4", "1-", "24h", "00:00"])
def test_other_times_raise(text):
    with pytest.raises(ConfigError, match="--slurm: time is"):
        parsed(f"time={text}")


def test_values_have_types():
    text = (
        "partition=a,b, time=5 ,nodes=2,exclusive=true,mem=64G,account=0123,setup=module load a,srun_args=-K --mpi=none"
    )
    assert parsed(text) == {
        "partition": "a,b", "time": 5, "nodes": 2, "exclusive": True, "mem": "64G", "account": "0123",
        "setup": ["module load a"], "srun_args": ["-K", "--mpi=none"],
    }  # fmt: skip


def test_words_of_the_job_are_those_of_the_command():
    words = ["predict", "--slurm=time=5", "a.nii", "--resume", "--", "--slurm", "b.nii"]
    assert parse_submission("time=5", words).words == ["predict", "a.nii", "--resume", "--", "--slurm", "b.nii"]


@pytest.mark.parametrize(
    ("parameters", "number"),
    [
        ({}, 1),
        ({"gpus_per_node": "4"}, 4),
        ({"gpus_per_node": "a100:2", "nodes": 3}, 6),
        ({"gres": "gpu:h100:8"}, 8),
        ({"gres": "gpu"}, 1),
        ({"gres": "lscratch:100", "nodes": 2}, 2),
    ],
)
def test_each_gpu_has_a_process(parameters, number):
    assert Submission(parameters, []).num_processes == number


def test_nodes_meet_on_the_first_node_of_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "45678")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[07-08],other3")
    lines = SlurmCommand([["train", "--seed", "1"], ["evaluate"]], ".", nodes=3, processes=2).command_lines()
    assert {"--nnodes=3", "--nproc_per_node=2", "--rdzv_endpoint=node07:31356", "--rdzv_id=45678-0"} <= set(lines[0])
    assert lines[0][-5:] == ["-m", "segbundle.cli", "train", "--seed", "1"]
    assert "--rdzv_endpoint=node07:31357" in lines[1]
    (line,) = SlurmCommand([["train"]], ".", processes=2).command_lines()
    assert "--standalone" in line


def test_requeued_jobs_resume(monkeypatch):
    command = SlurmCommand([["train", "data"], ["evaluate"], ["cross-validate"]], ".")
    assert not any("--resume" in line for line in command.command_lines())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert [line[3:] for line in command.command_lines()] == [
        ["train", "--resume", "true", "data"],
        ["evaluate", "--resume", "true"],
        ["cross-validate"],  # continues by itself
    ]
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert command.checkpoint().function.resume


def test_command_outlives_the_signal_before_the_time_limit(tmp_path):
    """SLURM may send SIGUSR2 to every process of a job; only submitit handles it."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('still there')"
    assert slurm._run([sys.executable, "-c", program], str(tmp_path)) == 0
