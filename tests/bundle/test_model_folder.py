"""The folder of a training run is a model: no command needs its task file again."""

import gzip
import json

from commands import TINY, segbundle


def label_maps(folder):
    return {path.name: gzip.decompress(path.read_bytes()) for path in folder.glob("*_seg.nii.gz")}


def test_evaluation_and_prediction_without_a_task_file(trained, tmp_path):
    dataset = json.loads((trained / "run.json").read_text())["config"]["dataset_dir"]
    words = ["evaluate", "--dataset_dir", dataset, "--fold", "0"]
    for name, options in (
        ("with", ["--config", TINY, "--ckpt_path", trained / "model.pt"]),
        ("folder", ["--ckpt_path", trained]),
        ("file", ["--ckpt_path", trained / "model.pt"]),
    ):
        done = segbundle(*words, *options, "--output_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    scores = [(tmp_path / name / "metrics.csv").read_text() for name in ("with", "folder", "file")]
    assert scores[0] == scores[1] == scores[2]
    assert label_maps(tmp_path / "with") == label_maps(tmp_path / "folder") == label_maps(tmp_path / "file")


def test_task_file_that_contradicts_the_model_is_refused(trained, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("spacing: [3.0, 3.0, 3.0]\n")
    dataset = json.loads((trained / "run.json").read_text())["config"]["dataset_dir"]
    words = ["evaluate", "--dataset_dir", dataset, "--ckpt_path", trained, "--config", TINY, "--config", other]
    done = segbundle(*words, "--output_dir", tmp_path / "out")
    assert done.returncode == 1
    assert "was trained with spacing" in done.stderr and "[3.0, 3.0, 3.0]" in done.stderr
    assert not (tmp_path / "out").exists()
