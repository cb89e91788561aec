"""Commands as SLURM jobs: what `sbatch` receives, and job scripts that run here instead of on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from commands import ROOT, TINY, run, segbundle
from documents import blocks, commands, plain_command

STAND_INS = {
    "sbatch": """
echo "$*" >> {folder}/submitted.txt
echo "Submitted batch job $(wc -l < {folder}/submitted.txt)"
""",
    "srun": """
while [[ $1 == -* ]]; do [[ $1 == --output ]] && shift; shift; done
exec "$@"
""",
    "scontrol": 'echo "$*" >> {folder}/scontrol.txt',
}
"""Programs of SLURM, as bash."""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return a folder of a cluster whose jobs are only written, and put its programs on the PATH."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text("#!/bin/bash\n" + text.format(folder=folder).lstrip())
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def job_environment(number: int, **more: object) -> dict[str, str]:
    job = {"JOB_ID": number, "NTASKS": 1, "JOB_NUM_NODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, **more}
    return {**os.environ, **{f"SLURM_{name}": str(value) for name, value in job.items()}}


def start_job(script: Path, number: int, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(script)],
        env=job_environment(number, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def run_job(script: Path, number: int, **more: object) -> str:
    job = start_job(script, number, **more)
    text, _ = job.communicate()
    assert job.returncode == 0, text
    return text


def parameters(script: Path) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}


def words_of(dataset: Path, out: Path) -> list[object]:
    return ["--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs", "2", "--val_interval", "1"]


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = (torch.load(path, weights_only=True) for path in (first, second))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_and_evaluation_as_jobs(cluster, dataset, tmp_path):
    direct, out = tmp_path / "direct", tmp_path / "out"
    submitted = segbundle(
        "train", "--slurm", "partition=gpu,time=1-2,nodelist=a,b,setup=echo ready", *words_of(dataset, out)
    )
    assert submitted.returncode == 0, submitted.stderr
    script = out / "slurm" / "1_submission.sh"
    assert submitted.stdout.splitlines()[-1] == f"job 1 submitted; log: {out}/slurm/1_0_log.out"
    assert {
        "--partition=gpu", "--time=1560", "--nodelist=a,b", "--job-name=segbundle-train", "--requeue", "--nodes=1",
        "--ntasks-per-node=1", f"--output={out}/slurm/1_0_log.out".replace("1_0", "%j_0"), "--signal=USR2@90",
    } <= parameters(script)  # fmt: skip
    assert not any(line.startswith(("--wckey", "--error")) for line in parameters(script))
    assert not (out / "last.pt").exists()
    text = run_job(script, 1)
    assert text.startswith("ready\n")
    done = segbundle("train", *words_of(dataset, direct))
    assert done.returncode == 0, done.stderr
    assert_same_weights(out / "model.pt", direct / "model.pt")
    evaluation = ["evaluate", "--dataset_dir", dataset, "--ckpt_path", out, "--fold", "0", "--output_dir"]
    submitted = segbundle(*evaluation, tmp_path / "job", "--slurm=time=10")
    assert submitted.returncode == 0, submitted.stderr
    assert not any(line.startswith("--partition") for line in parameters(tmp_path / "job/slurm/2_submission.sh"))
    run_job(tmp_path / "job/slurm/2_submission.sh", 2)
    done = segbundle(*evaluation, tmp_path / "here")
    assert done.returncode == 0, done.stderr
    for name in ("metrics.csv", "summary.json"):
        assert (tmp_path / "job" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@pytest.mark.parametrize("preempted", [False, True])
def test_requeued_job_resumes_its_training(preempted, cluster, dataset, trained, tmp_path):
    out = tmp_path / "out"
    submitted = segbundle(
        "train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--slurm", "time=60"
    )
    assert submitted.returncode == 0, submitted.stderr
    script = out / "slurm" / "1_submission.sh"
    job = start_job(script, 1)
    for line in job.stdout:
        if "epoch 2/" in line:  # the state of epoch 1 is saved
            break
    (process,) = psutil.Process(job.pid).children()
    stopped = "Stopped. Run the same command with --resume"
    if preempted:
        for each in (process, *process.children()):
            each.terminate()
        assert any(stopped in line for line in job.stdout)  # the job waits until SLURM ends it
    process.send_signal(signal.SIGUSR2)  # as SLURM does before the time limit
    text, _ = job.communicate()
    assert job.returncode != 0 and (preempted or stopped in text)
    assert (cluster / "scontrol.txt").read_text() == "requeue 1\n"
    text = run_job(script, 1, RESTART_COUNT=1)
    assert "--resume true" in text and "resumed from" in text
    assert_same_weights(out / "model.pt", trained / "model.pt")


def test_folds_are_an_array_and_their_scores_a_dependent_job(cluster, dataset, tmp_path):
    direct, out = tmp_path / "direct", tmp_path / "out"
    words = ["--num_folds", "2", "--device", "cpu"]
    submitted = segbundle("cross-validate", *words_of(dataset, out), *words, "--slurm", "time=60,gpus_per_node=a100:1")
    assert submitted.returncode == 0, submitted.stderr
    lines = [line for line in submitted.stdout.splitlines() if line.startswith("job ")]
    assert lines == [f"job {job} submitted; log: {out}/slurm/{job}_0_log.out" for job in ("1_0", "1_1", "2")]
    array, summary = (out / "slurm" / f"{job}_submission.sh" for job in (1, 2))
    assert {"--array=0-1%2", "--gpus-per-node=a100:1", "--job-name=segbundle-cross-validate"} <= parameters(array)
    assert {"--dependency=afterok:1", "--kill-on-invalid-dep=yes"} <= parameters(summary)
    for task in range(2):
        run_job(array, 1 + task, ARRAY_JOB_ID=1, ARRAY_TASK_ID=task)
    assert not (out / "summary.json").exists()
    run_job(summary, 2)
    done = segbundle("cross-validate", *words_of(dataset, direct), *words)
    assert done.returncode == 0, done.stderr
    for name in ("metrics.csv", "summary.json", "splits_final.json", "fold_1/metrics.csv"):
        assert (out / name).read_bytes() == (direct / name).read_bytes()
    assert_same_weights(out / "fold_0" / "model.pt", direct / "fold_0" / "model.pt")
    again = segbundle("cross-validate", *words_of(dataset, out), *words, "--slurm", "time=60")
    assert again.returncode == 0 and again.stdout.splitlines()[-1].startswith("job 3 submitted")  # only the scores
    assert "dependency" not in (out / "slurm" / "3_submission.sh").read_text()


def test_job_on_two_nodes_starts_an_agent_on_each(cluster, dataset, tmp_path):
    out = tmp_path / "out"
    submitted = segbundle("train", *words_of(dataset, out), "--slurm", "time=60,nodes=2")
    assert submitted.returncode == 0, submitted.stderr
    script = out / "slurm" / "1_submission.sh"
    assert "--nodes=2" in parameters(script) and "--kill-on-bad-exit=1" in script.read_text()
    job = {"JOB_NODELIST": "127.0.0.1", "NTASKS": 2, "JOB_NUM_NODES": 2}
    nodes = [start_job(script, os.getpid(), **job, NODEID=node, PROCID=node) for node in range(2)]
    (out / "slurm" / "1_submitted.pkl").rename(out / "slurm" / f"{os.getpid()}_submitted.pkl")
    texts = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n=====\n".join(texts)
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] == 4  # half of 4 cases on each, 2 epochs


def test_commands_of_the_guide_are_submitted(cluster, checkout):
    lines = [line for text in blocks(ROOT / "docs/howto/clusters.md", "text") for line in commands(text)]
    submitted = [plain_command(line) for line in lines if line.startswith("segbundle")]
    assert len(submitted) == 4
    for words in submitted:
        done = segbundle(*words, cwd=checkout)
        assert done.returncode == 0, done.stderr
    assert len((cluster / "submitted.txt").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "'gpu' is not of the form name=value"),
        ("partition=,time=3", "'partition=' is not of the form name=value"),
        ("time=3,partiton=gpu", "unknown parameter 'partiton': did you mean 'partition'?"),
        ("partition=gpu", "time is missing. Add the maximum duration of the job"),
        ("time=soon", "time is 'soon'; minutes, hours:minutes:seconds or days-hours is needed."),
        ("time=3,nodes=two", "nodes is 'two'; a positive whole number is needed."),
        ("time=3,gpus_per_node=all", "gpus_per_node is 'all'; a number of GPUs is needed, such as 4 or a100:4."),
        ("time=3,ntasks_per_node=4", "Use gpus_per_node instead."),
        ("time=3,time=4", "time is given twice."),
    ],
)
def test_wrong_parameters_are_named(text, message, cluster, dataset, tmp_path):
    done = segbundle("train", *words_of(dataset, tmp_path / "out"), "--slurm", text)
    assert done.returncode == 1 and done.stderr.startswith("Error: --slurm: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (cluster / "submitted.txt").exists()


def test_wrong_runs_are_not_submitted(cluster, dataset, trained, tmp_path):
    slurm = ["--slurm", "time=3"]
    done = segbundle("train", *words_of(dataset, tmp_path / "out"), "--max_epoch", "3", *slurm)
    assert done.returncode == 1 and "did you mean 'max_epochs'" in done.stderr
    done = segbundle("train", *words_of(dataset, trained), *slurm)
    assert done.returncode == 1 and "already contains a training run" in done.stderr
    (tmp_path / "file").touch()
    done = segbundle("train", *words_of(dataset, tmp_path / "file" / "out"), *slurm)
    assert done.returncode == 1 and "file/out: cannot be written" in done.stderr
    done = segbundle("train", dataset, "--output_dir", tmp_path / "planned", "--slurm", "time=3,gpus_per_node=2")
    assert done.returncode == 1 and "Run `segbundle plan` first" in done.stderr
    assert not (cluster / "submitted.txt").exists()


def test_message_of_sbatch_is_printed(cluster, dataset, tmp_path):
    (cluster / "sbatch").write_text(
        "#!/bin/bash\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n"
    )
    done = segbundle("train", *words_of(dataset, tmp_path / "out"), "--slurm", "partition=nope,time=3")
    assert done.returncode == 1
    assert done.stderr == "Error: --slurm: sbatch failed: sbatch: error: invalid partition specified: nope\n"


def test_machine_without_slurm_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = segbundle("train", *words_of(dataset, tmp_path / "out"), "--slurm", "time=3")
    assert done.returncode == 1
    assert done.stderr == "Error: --slurm: sbatch is not on the PATH. Submit jobs on a login node of a SLURM cluster.\n"


def test_missing_package_is_named(dataset, tmp_path):
    code = "import sys; sys.modules['submitit'] = None; from segbundle.cli import main; main()"
    done = run(sys.executable, "-c", code, "train", *words_of(dataset, tmp_path / "out"), "--slurm", "time=3")
    assert done.returncode == 1
    assert done.stderr == "Error: --slurm needs the package submitit. Install it with: pip install 'segbundle[slurm]'\n"
