"""`train --ckpt_path` from a model with other classes and channels, with frozen layers and lower learning rates."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from commands import TINY, segbundle
from tiny import write_nifti

CLASSES = ["background", "cube", "front of ball", "back of ball"]
TASK = f"class_names: {json.dumps(CLASSES)}\nmax_epochs: 2\nval_interval: 2\n"


@pytest.fixture(scope="module")
def split_dataset(dataset, tmp_path_factory):
    """Return the tiny dataset with the cube as class 1, and the ball divided into two classes; with two channels."""
    folder, entries = tmp_path_factory.mktemp("split"), []
    for path in sorted((dataset / "labelsTr").iterdir()):
        image, label = nib.load(dataset / "imagesTr" / path.name), nib.load(path)
        values = np.asarray(label.dataobj)
        front = np.arange(values.shape[1])[None, :, None] >= values.shape[1] // 2
        new = np.select([values == 2, (values == 1) & front, values == 1], [1, 2, 3]).astype(np.uint8)
        write_nifti(folder / "labels" / path.name, new, label.affine)
        for channel in range(2):
            write_nifti(folder / "images" / f"{channel}_{path.name}", np.asarray(image.dataobj), image.affine)
        entries.append({"image": f"images/0_{path.name}", "label": f"labels/{path.name}"})
    labels = {str(index): name for index, name in enumerate(CLASSES)}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    both = [{**entry, "image": [entry["image"], entry["image"].replace("/0_", "/1_")]} for entry in entries]
    (folder / "two_channels.json").write_text(json.dumps({"labels": labels, "training": both}))
    return folder


def train(dataset, out, *words):
    (out.parent / "task.yaml").write_text(TASK)
    task = ["--config", TINY, "--config", out.parent / "task.yaml"]
    return segbundle("train", *task, "--dataset_dir", dataset, "--output_dir", out, *words)


def test_fine_tuning_for_other_classes(trained, split_dataset, dataset, tmp_path):
    out = tmp_path / "out"
    done = train(
        split_dataset, out, "--ckpt_path", trained,
        "--freeze", "encoder", "--layer_decay", "0.5", "--warmup_epochs", "1", "--ema_decay", "null",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"weights: {trained}/model.pt: 12 of 14 tensors; new: classes front of ball, back of ball" in done.stdout
    assert "frozen: 6 of 14 parameter tensors, " in done.stdout
    assert "learning rates by depth: 0.02 to 0.005" in done.stdout
    before, last = (torch.load(path, weights_only=True) for path in (trained / "model.pt", out / "last.pt"))
    for name, value in last["network"].items():
        frozen = name.startswith(("input_block", "downsamples", "bottleneck"))
        assert frozen == (value.shape == before[name].shape and torch.equal(value, before[name])) or "skip" in name, (
            name
        )
    assert json.loads((out / "task.json").read_text())["class_names"] == CLASSES
    assert len(last["optimizer"]["param_groups"]) == 3
    done = segbundle(
        "evaluate", "--config", TINY, "--dataset_dir", dataset, "--ckpt_path", out, "--output_dir", tmp_path / "eval"
    )
    assert done.returncode == 1
    assert "was trained for the classes ['background', 'cube', 'front of ball', 'back of ball'], but" in done.stderr


def test_fine_tuning_with_another_channel(trained, split_dataset, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("images", "labels"):
        (tmp_path / "data" / name).symlink_to(split_dataset / name)
    (tmp_path / "data" / "dataset.json").write_text((split_dataset / "two_channels.json").read_text())
    words = ["--ckpt_path", trained / "model.pt", "--network_def#in_channels", "2", "--max_epochs", "1"]
    done = train(tmp_path / "data", tmp_path / "out", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.pt: 11 of 14 tensors; new: classes front of ball, back of ball, input channels 1" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network_def#filters", "[5,6,7]"], "no weight fits the network: layers with another shape: input_block"),
        (["--freeze", "[decoder]"], "freeze: 'decoder' matches no layer of DynUNet. Its layers are in input_block"),
        (["--freeze", "encoders"], "freeze is 'encoders'; encoder, all_but_output, a list of layers"),
        (["--layer_decay", "1"], "layer_decay is 1; a number greater than 0 and less than 1, or null, is needed"),
        (["--warmup_epochs", "-1"], "warmup_epochs is -1; a whole number of epochs from 0 is needed"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(trained, split_dataset, tmp_path, words, message):
    done = train(split_dataset, tmp_path / "out", "--ckpt_path", trained, *words)
    assert done.returncode == 1
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
