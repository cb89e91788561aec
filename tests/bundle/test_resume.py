"""Resuming: a stopped run ends with the results of an uninterrupted run; a finished run is not overwritten."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from commands import TINY, segbundle
from segbundle.files.output_folders import OutputFolder
from tiny import write_tiny_dataset

EPOCHS = ["--max_epochs", "90", "--val_interval", "7"]


def command(dataset, out):
    return ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, *EPOCHS]


def start_and_stop(dataset, out, after_epoch, how=signal.SIGKILL):
    """Stop a training by a signal (default SIGKILL) after its first epoch."""
    words = [Path(sys.executable).parent / "segbundle", *command(dataset, out)]
    with (out.parent / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore the signal
        )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (out / "last.pt").exists() and torch.load(out / "last.pt", weights_only=True)["epoch"] >= after_epoch:
            break
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()
    return torch.load(out / "last.pt", weights_only=True)["epoch"]


def test_killed_and_resumed_training_equals_uninterrupted(dataset, tmp_path):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    done = segbundle(*command(dataset, uninterrupted))
    assert done.returncode == 0, done.stdout + done.stderr
    epoch = start_and_stop(dataset, killed, after_epoch=9)
    assert 9 <= epoch < 90
    (killed / ".partial-1-last.pt").write_bytes(b"half of one")
    OutputFolder(killed).record_partial(1)
    done = segbundle(*command(dataset, killed))
    assert done.returncode == 1
    assert "already contains a training run" in done.stderr
    done = segbundle(*command(dataset, killed), "--resume", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from" in done.stdout
    one, two = (torch.load(out / "last.pt", weights_only=True) for out in (uninterrupted, killed))
    assert two["epoch"] == 90 and not list(killed.glob(".partial*"))
    assert differences(one, two) == []
    for name in ("metrics.csv", "summary.json"):
        assert (uninterrupted / name).read_bytes() == (killed / name).read_bytes()


def test_ctrl_c_prints_how_to_resume(dataset, tmp_path):
    out = tmp_path / "out"
    start_and_stop(dataset, out, after_epoch=2, how=signal.SIGINT)
    assert (
        "Stopped. Run the same command with --resume to continue after the last finished epoch."
        in (tmp_path / "stderr").read_text()
    )


def scalars(out, tag):
    """Return the steps and values of a TensorBoard curve, over all files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_resumed_training_can_have_more_epochs(dataset, tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--val_interval", "4"]
    for out, epochs, more in ((long, 8, []), (short, 4, []), (short, 8, ["--resume", "true"])):
        done = segbundle(*words, "--output_dir", out, "--max_epochs", epochs, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "the learning rate of epoch 5 is 0.0107; the run would have continued with 0." in done.stdout
    rates, expected = scalars(short, "train/learning_rate"), scalars(long, "train/learning_rate")
    assert list(rates) == list(range(1, 9))  # resuming keeps the curves of the epochs before
    assert [rates[epoch] for epoch in range(5, 9)] == [expected[epoch] for epoch in range(5, 9)]
    assert expected[1] == rates[1] == pytest.approx(0.02)
    assert 0 < rates[8] < rates[5]


def test_longer_training_equals_a_single_run(dataset, tmp_path):
    """The schedule and the warm-up do not depend on `max_epochs`, unlike the default schedule."""
    short, long = tmp_path / "short", tmp_path / "long"
    schedule = tmp_path / "steps.yaml"
    schedule.write_text(
        "lr_scheduler: {_target_: torch.optim.lr_scheduler.MultiStepLR, optimizer: '@optimizer', milestones: [4, 6]}\n"
        "warmup_epochs: 5\nfreeze: encoder\nlayer_decay: 0.7\n"
    )
    words = ["train", "--config", TINY, "--config", schedule, "--dataset_dir", dataset, "--val_interval", "2"]
    for out, epochs, more in ((long, 8, []), (short, 4, []), (short, 8, ["--resume", "true"])):
        done = segbundle(*words, "--output_dir", out, "--max_epochs", epochs, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "the learning rate of" not in done.stdout
    one, two = (torch.load(out / "last.pt", weights_only=True) for out in (long, short))
    assert len(one["optimizer"]["param_groups"]) > 2 and differences(one, two) == []
    rates, expected = scalars(short, "train/learning_rate"), scalars(long, "train/learning_rate")
    assert (
        rates
        == expected
        == pytest.approx(
            dict(enumerate([0.02 * factor for factor in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 0.5 / 6, 0.1, 0.01, 0.01)], 1))
        )
    )
    done = segbundle(*words, "--output_dir", short, "--max_epochs", "9", "--freeze", "null", "--resume", "true")
    assert done.returncode == 1 and "last.pt: was trained with freeze 'encoder', but freeze is now None" in done.stderr


def differences(one, two, path=""):
    """Return the names of the values that differ between two nested states."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, two) else [path]
    if isinstance(one, (dict, list)):
        assert len(one) == len(two)
        keys = one if isinstance(one, dict) else range(len(one))
        return [name for key in keys for name in differences(one[key], two[key], f"{path}/{key}")]
    return [] if one == two else [path]


def test_training_with_other_cases_cannot_be_resumed(tmp_path):
    dataset, out = write_tiny_dataset(tmp_path / "tiny", num_cases=6), tmp_path / "out"
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs"]
    assert segbundle(*words, 1).returncode == 0
    task = (out / "task.json").read_text()
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(dataset / folder / "case_00.nii.gz", dataset / folder / "case_06.nii.gz")
    entry = {"image": "./imagesTr/case_06.nii.gz", "label": "./labelsTr/case_06.nii.gz"}
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**description, "training": [*description["training"], entry]}))
    done = segbundle(*words, 2, "--resume", "true")
    assert done.returncode == 1
    assert "last.pt: the training cases have changed" in done.stderr and "with case_0" in done.stderr
    assert (out / "task.json").read_text() == task


def test_early_stopped_training_resumes_with_more_patience(dataset, tmp_path):
    out = tmp_path / "out"
    words = ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--max_epochs", 9]
    words += ["--val_interval", 1, "--optimizer#lr", "0.0", "--ema_decay", "0.5"]  # the Dice never improves
    assert segbundle(*words, "--patience", 2).returncode == 0
    stopped = torch.load(out / "last.pt", weights_only=True)
    assert stopped["epoch"] == 3
    done = segbundle(*words, "--patience", 2, "--resume", "true")
    assert done.returncode == 0, done.stderr
    assert differences(stopped, torch.load(out / "last.pt", weights_only=True)) == []
    assert segbundle(*words, "--patience", 4, "--resume", "true").returncode == 0
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 5


def test_training_of_another_fold_cannot_be_resumed(trained, dataset):
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", trained, "--resume", "true", "--fold", "1"
    )
    assert done.returncode == 1
    assert "last.pt: was trained with fold 0, but fold is now 1" in done.stderr


@pytest.mark.parametrize(
    ("key", "value"), [("spacing", "[2,2,2]"), ("intensity", "{method: window, lower: 0, upper: 100}")]
)
def test_changed_preprocessing_fails_or_warns(trained, dataset, tmp_path, key, value):
    options = [f"--{key}", value]
    train = ["train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", trained, "--resume", "true"]
    done = segbundle(*train, *options)
    assert done.returncode == 1
    assert f"last.pt: was trained with {key}" in done.stderr
    scan = next((dataset / "imagesTr").iterdir())
    predict = ["predict", scan, "--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path]
    done = segbundle(*predict, *options)
    assert done.returncode == 0, done.stderr
    assert f"model.pt: was trained with {key}" in done.stdout + done.stderr


def test_resuming_a_finished_run_changes_nothing(trained, dataset):
    before = (trained / "last.pt").read_bytes(), (trained / "model.pt").read_bytes()
    done = segbundle(
        "train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", trained, "--resume", "true"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training is already complete" in done.stdout and "training on" not in done.stdout
    assert before == ((trained / "last.pt").read_bytes(), (trained / "model.pt").read_bytes())


def evaluate(dataset, trained, out, *words):
    task = ["--config", TINY, "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt"]
    return ["evaluate", *task, "--output_dir", out, *words]


def evaluation(out):
    """Return the bytes of the scores and label maps of an evaluation."""
    files = [out / "metrics.csv", out / "summary.json", *out.glob("*_seg.nii.gz")]
    return {path.name: path.read_bytes() for path in files}


def table(done):
    """Return the printed scores."""
    return done.stdout[done.stdout.index("6 cases, Dice per class") :].partition("mean without false+")[0]


@pytest.fixture(scope="module")
def evaluated(dataset, trained, tmp_path_factory):
    """Return the folder of an uninterrupted evaluation, and its table."""
    out = tmp_path_factory.mktemp("evaluated")
    done = segbundle(*evaluate(dataset, trained, out))
    assert done.returncode == 0, done.stderr
    return out, table(done)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_evaluation_keeps_scored_cases(dataset, trained, evaluated, tmp_path, how):
    out, (uninterrupted, scores) = tmp_path / "out", evaluated
    words = [Path(sys.executable).parent / "segbundle", *evaluate(dataset, trained, out)]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    journal, deadline = out / "predictions.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):  # before the first case
            if journal.read_bytes().count(b"\n") >= 2:
                break
        time.sleep(0.001)
    process.send_signal(how)
    _, messages = process.communicate()
    if how == signal.SIGTERM:
        message = b"Stopped. Run the same command with --resume to score the remaining cases."
        assert messages.splitlines()[-1] == message
    assert not (out / "metrics.csv").exists()
    recorded = [json.loads(line)["case"] for line in journal.read_text().split("\n")[:-1]]
    before = {case: (out / f"{case}_seg.nii.gz").stat().st_mtime_ns for case in recorded}
    assert 2 <= len(before) < 6
    done = segbundle(*evaluate(dataset, trained, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 6 scans are done" in done.stdout
    assert {case: (out / f"{case}_seg.nii.gz").stat().st_mtime_ns for case in before} == before
    assert evaluation(out) == evaluation(uninterrupted) and table(done) == scores
    assert json.loads((out / "run.json").read_text())["cases"].keys() == {f"case_0{number}" for number in range(6)}
    assert "6 cases" in (out / "report.html").read_text(encoding="utf-8")


def test_changed_references_and_tolerances_are_scored_again(dataset, trained, evaluated, tmp_path):
    dataset, out = shutil.copytree(dataset, tmp_path / "data"), tmp_path / "out"
    assert segbundle(*evaluate(dataset, trained, out)).returncode == 0
    assert evaluation(out) == evaluation(evaluated[0])
    for case in ("case_02", "case_03"):
        shutil.copy(dataset / "labelsTr" / "case_04.nii.gz", dataset / "labelsTr" / f"{case}.nii.gz")
    done = segbundle(*evaluate(dataset, trained, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "the scan or reference of 2 case(s) has changed; these cases are processed again" in done.stdout
    assert "4 of 6 scans are done" in done.stdout
    assert segbundle(*evaluate(dataset, trained, tmp_path / "fresh")).returncode == 0
    assert evaluation(out) == evaluation(tmp_path / "fresh") != evaluation(evaluated[0])
    done = segbundle(*evaluate(dataset, trained, out, "--resume", "--nsd_tolerance_mm", "0.5"))
    assert done.returncode == 0, done.stderr
    assert "6 scan(s) had other settings or weights; these scans are processed again" in done.stdout
    assert (out / "metrics.csv").read_bytes() != (tmp_path / "fresh" / "metrics.csv").read_bytes()
