"""Run folders like those of an evaluation, from small volumes with known scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from segbundle.files.atomic import write_json
from segbundle.metrics import score_case
from segbundle.results.made_by import write_run
from segbundle.results.scores import CaseScores
from segbundle.results.summary import write_scores
from tiny import write_nifti

NAMES = ["background", "ball", "cube"]
SPACING = (2.0, 1.0, 1.0)
AFFINE = np.diag([*SPACING, 1.0])


def labels(ball=None, cube=None, shape=(12, 16, 14)):
    """Return a label map with cubes of 4 voxels per side: class 1 with its first voxel at `ball`, class 2 at `cube`."""
    array = np.zeros(shape, np.uint8)
    for index, corner in ((1, ball), (2, cube)):
        if corner is not None:
            array[tuple(slice(start, start + 4) for start in corner)] = index
    return array


RIGHT = labels((1, 2, 2), (7, 9, 8))
CASES = {
    "perfect": (RIGHT, RIGHT),
    "shifted": (labels((2, 2, 2), (7, 9, 8)), RIGHT),
    "missed": (labels((1, 2, 2)), RIGHT),
    "invented": (RIGHT, labels((1, 2, 2))),
}
"""Prediction and reference."""


def write_evaluation(
    folder: Path, cases=None, annotated=None, affine_ref=AFFINE, files=True, trained_on=(), config=None
) -> Path:
    """Write the output files of `segbundle evaluate` for cases like those in `CASES`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, scores, data = np.random.default_rng(0), [], []
    for case, (pred, ref) in (CASES if cases is None else cases).items():
        maps = torch.from_numpy(pred), torch.from_numpy(ref)
        looked_for = None if annotated is None else annotated.get(case)
        values = score_case(*maps, 3, looked_for, 255, SPACING, 1.0)
        scores.append(CaseScores(case, values, voxel_ml=0.002))
        image = write_nifti(
            folder / "scans" / f"{case}.nii.gz", (rng.random(ref.shape) * 100).astype(np.float32), AFFINE
        )
        label = write_nifti(folder / "labels" / f"{case}.nii.gz", ref, affine_ref)
        write_nifti(folder / f"{case}_seg.nii.gz", pred, AFFINE)
        data.append({"case": case, "image": str(image), "label": str(label), "ignore_label": 255})
    write_scores(folder, scores, NAMES, [0.0, 1.0, 1.0])
    if files:
        made_by = {"command": "segbundle evaluate ...", "config": {"fold": 0} if config is None else config}
        write_run(folder, {**made_by, "trained_on": None if trained_on is None else list(trained_on)}, data)
    return folder


def write_predictions(folder: Path, scans, ckpt_path="model.pt") -> Path:
    """Write the output files of `segbundle predict` for label maps by name; scans are 100 times the label, or 7."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, labels_found in scans.items():
        scan = np.where(labels_found > 0, 100.0 * labels_found, 7.0).astype(np.float32)
        image = write_nifti(folder / "scans" / f"{name}.nii.gz", scan, AFFINE)
        prediction = write_nifti(folder / f"{name}_seg.nii.gz", labels_found, AFFINE)
        records.append(
            {"case": name, "status": "ok", "image": str(image), "prediction": str(prediction), "error": None}
        )
    write_json(folder / "predictions.json", records)
    config = {"class_names": NAMES, "ckpt_path": str(ckpt_path)}
    write_run(folder, {"command": "segbundle predict ...", "config": config}, [])
    return folder


def write_many(folder: Path, num_classes: int, num_cases: int = 3) -> Path:
    """Write an evaluation of many classes: `liver`, ribs, vertebrae and kidneys of one voxel each, and no `cyst`."""
    similar = (f"{('rib_left', 'vertebrae_t', 'kidney_right')[index % 3]}_{index}" for index in range(num_classes - 2))
    names = ["background", "liver", *similar, "cyst"]
    scores, data = [], []
    for number in range(num_cases):
        ref = np.zeros((24, 12, 4), np.uint8)
        ref.reshape(-1)[: 4 * num_classes : 4] = [*range(1, num_classes), 0]
        pred = np.roll(ref, 1, axis=2) if number == 1 else ref  # every class misses its voxel in the second case
        maps = torch.from_numpy(pred), torch.from_numpy(ref)
        case = f"case_{number}"
        scores.append(CaseScores(case, score_case(*maps, num_classes + 1, None, 255, SPACING, 1.0), voxel_ml=0.002))
        files = {kind: folder / kind / f"{case}.nii.gz" for kind in ("image", "label")}
        write_nifti(files["image"], ref.astype(np.float32), AFFINE)
        write_nifti(files["label"], ref, AFFINE)
        write_nifti(folder / f"{case}_seg.nii.gz", pred, AFFINE)
        data.append({"case": case, **{kind: str(path) for kind, path in files.items()}})
    write_scores(folder, scores, names, [0.0] + [1.0] * num_classes)
    write_run(folder, {"command": "segbundle evaluate ...", "config": {}, "trained_on": []}, data)
    return folder
