"""Two ranks on one machine, started by torchrun: an equal training, and a shard of the scans for each."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import CONFIGS, TINY, monai_bundle
from segbundle.config.overlays import workflow_files
from segbundle.files.output_folders import OutputFolder
from tiny import write_tiny_dataset

MONAI = Path(__file__).parents[2] / "configs" / "monai_transforms.yaml"
STEADY = ("--precision", "fp32", "--seed", "3", "--optimizer#_target_", "torch.optim.SGD")
"""Where rounding errors stay what they are: AdamW makes steps of full length of the smallest gradients."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("ranks") / "tiny", num_cases=7, num_test=5)


def torchrun(workflow: str, *words: object, overlay: bool = True, task=(TINY,)) -> subprocess.CompletedProcess[str]:
    files = [*workflow_files(CONFIGS, workflow), *([CONFIGS / f"multi_gpu_{workflow}.yaml"] if overlay else []), *task]
    command = [
        Path(sys.executable).parent / "torchrun", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run",
        "--config_file", f"[{','.join(repr(str(file)) for file in files)}]", *words,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False, env=env)


SCORES = ("metrics.csv", "summary.json")


def weights(out):
    return torch.load(out / "last.pt", weights_only=True)


@pytest.mark.parametrize("cached", [True, False])
def test_two_ranks_with_batch_1_equal_one_with_batch_2(cached, dataset, tmp_path):
    options = ["--dataset_dir", dataset, "--max_epochs", "3", "--val_interval", "3", *STEADY]
    cache = ["--cache_dir", tmp_path / "cache"] if cached else []
    two = torchrun("train", *options, *cache, "--output_dir", tmp_path / "two", "--batch_size", "1")
    assert two.returncode == 0, two.stderr
    one = monai_bundle("train", *options, "--output_dir", tmp_path / "one", "--batch_size", "2")
    assert one.returncode == 0, one.stderr
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first["iteration"] == second["iteration"] == 6  # 4 training cases, two steps an epoch
    for key in ("network", "average"):
        for name, value in first[key].items():
            torch.testing.assert_close(second[key][name], value, rtol=1e-4, atol=1e-5)
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two")]
    assert [row["case"] for row in rows[0]] == [row["case"] for row in rows[1]]  # three cases, each once
    for mine, other in zip(*rows, strict=True):
        assert float(mine["dice"] or 0) == pytest.approx(float(other["dice"] or 0), abs=0.02)
    assert two.stdout.count("training on 4 cases, validating on 3") == 1


def test_each_rank_predicts_a_shard_of_the_scans(dataset, tmp_path):
    trained = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "run", "--max_epochs", "1")
    assert trained.returncode == 0, trained.stderr
    ckpt = ["--ckpt_path", tmp_path / "run/model.pt"]
    out = tmp_path / "predictions"
    two = torchrun("inference", "--dataset_dir", dataset / "imagesTs", "--output_dir", out, *ckpt)
    assert two.returncode == 0, two.stderr
    names = [f"test_{index:02d}" for index in range(5)]
    assert [record["case"] for record in json.loads((out / "predictions.json").read_text())] == names
    assert not list(out.glob("predictions.rank*"))
    # the next run completes the shard of a lost rank
    records = json.loads((out / "predictions.json").read_text())
    (out / "predictions.rank0.json").write_text(json.dumps(records[::2]))
    (out / "predictions.rank1.json").write_text(json.dumps(records[1:2]))
    (out / "predictions.json").unlink()
    (out / "test_03_seg.nii.gz").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    again = torchrun("inference", "--dataset_dir", dataset / "imagesTs", "--output_dir", out, *ckpt, "--resume", "true")
    assert again.returncode == 0, again.stderr
    assert "4 of 5 scans are done" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "test_03_seg.nii.gz").exists()
    assert [record["case"] for record in json.loads((out / "predictions.json").read_text())] == names


def test_evaluation_counts_each_case_once(dataset, tmp_path):
    trained = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "run", "--max_epochs", "4")
    assert trained.returncode == 0, trained.stderr
    options = ["--dataset_dir", dataset, "--ckpt_path", tmp_path / "run/model.pt"]
    two = torchrun("evaluate", *options, "--output_dir", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    one = monai_bundle("evaluate", *options, "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    assert (tmp_path / "one/metrics.csv").read_text() == (tmp_path / "two/metrics.csv").read_text()
    # state after two ranks were killed, after three cases and after one case
    out, uninterrupted = tmp_path / "two", {name: (tmp_path / "two" / name).read_bytes() for name in SCORES}
    records = json.loads((out / "predictions.json").read_text())
    for name, share in {"rank0": records[:6:2], "rank1": records[1:2]}.items():
        OutputFolder(out).record(out / f"predictions.{name}.jsonl")  # journal of a running rank
        (out / f"predictions.{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in share))
    for name in (*SCORES, "predictions.json"):
        (out / name).unlink()
    again = torchrun("evaluate", *options, "--output_dir", out, "--resume", "true")
    assert again.returncode == 0, again.stderr
    assert "4 of 7 scans are done" in again.stdout
    assert {name: (out / name).read_bytes() for name in SCORES} == uninterrupted


def test_rank_without_cases_waits_for_the_scores(dataset, tmp_path):
    trained = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "run", "--max_epochs", "1")
    assert trained.returncode == 0, trained.stderr
    options = ["--ckpt_path", tmp_path / "run/model.pt", "--num_folds", "7", "--fold", "2"]  # of seven cases
    two = torchrun("evaluate", "--dataset_dir", dataset, *options, "--output_dir", tmp_path / "out")
    assert two.returncode == 0, two.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["cases"] == 1


def test_cases_with_monai_transforms_are_sharded(dataset, tmp_path):
    options = ["--dataset_dir", dataset, "--max_epochs", "2", "--val_interval", "2", "--batch_size", "1"]
    two = torchrun("train", *options, "--output_dir", tmp_path / "two", task=[TINY, MONAI])
    assert two.returncode == 0, two.stderr
    assert weights(tmp_path / "two")["iteration"] == 4  # two of four cases for each, in two epochs


def test_failed_scan_fails_the_run(dataset, tmp_path):
    trained = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "run", "--max_epochs", "1")
    assert trained.returncode == 0, trained.stderr
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in (dataset / "imagesTs").iterdir():
        (scans / path.name).write_bytes(path.read_bytes())
    (scans / "test_03.nii.gz").write_bytes(b"nothing")
    out = tmp_path / "out"
    two = torchrun("inference", "--dataset_dir", scans, "--output_dir", out, "--ckpt_path", tmp_path / "run/model.pt")
    assert two.returncode != 0
    assert "1 of 5 scans failed (test_03)" in two.stderr
    status = {record["case"]: record["status"] for record in json.loads((out / "predictions.json").read_text())}
    assert status == {f"test_{index:02d}": "failed" if index == 3 else "ok" for index in range(5)}


def test_several_ranks_without_their_overlay_fail(dataset, tmp_path):
    alone = torchrun("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "out", overlay=False)
    assert alone.returncode != 0 and "multi_gpu_train.yaml" in alone.stderr
    assert not (tmp_path / "out").exists()
