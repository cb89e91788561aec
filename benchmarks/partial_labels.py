"""Training on partially annotated cases: with and without `annotated`, and on fully annotated cases.

    python benchmarks/partial_labels.py /path/to/Task04_Hippocampus --seeds 0 1 2

Half of the training cases outside fold 0 keep only the anterior label, the other half only the posterior label. Voxels
of the removed class become background. Fold 0 is scored with both labels. All arms train with the bundle's defaults,
except for a network that is three times faster, for the same number of steps on the same images. Additional options are
passed to `segbundle train`.

full          all classes annotated (upper bound)
ours          `annotated` names the annotated class of each case
naive         without `annotated`: the missing class is trained as background
naive MONAI   as naive, with MONAI's DiceCELoss
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segbundle.datasets.cases import load_cases
from segbundle.datasets.folds import fold_names
from ten_minutes import train

CLASSES = ("anterior", "posterior")
TASK = """
max_epochs: 25
network_def:
  _target_: UNet
  spatial_dims: 3
  in_channels: 1
  out_channels: 3
  channels: [16, 32, 64, 128]
  strides: [2, 2, 2]
  num_res_units: 1
  norm: INSTANCE
"""
MONAI = ("--loss", "{'_target_': 'DiceCELoss', 'include_background': False, 'to_onehot_y': True, 'softmax': True}")
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "full": ("full", ()),
    "ours": ("annotated", ()),
    "naive": ("naive", ()),
    "naive MONAI": ("naive", MONAI),
}


def write_partial(dataset: Path, folder: Path, annotate: bool) -> Path:
    """Write the dataset with one class removed from each training case; `annotate` lists the other class."""
    cases = load_cases(dataset)
    held_out = fold_names([case.name for case in cases], fold=0, num_folds=5)
    entries: list[dict[str, Any]] = []
    training = 0
    for case in cases:
        assert case.label is not None
        entry: dict[str, Any] = {"image": str(case.image[0].resolve()), "label": str(case.label.resolve())}
        if case.name not in held_out:
            kept = 1 + training % 2
            training += 1
            entry["label"] = str(_keep_class(case.label, kept, folder / "labels"))
            if annotate:
                entry["annotated"] = [CLASSES[kept - 1]]
        entries.append(entry)
    labels = {"0": "background", "1": CLASSES[0], "2": CLASSES[1]}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    return folder


def _keep_class(label: Path, kept: int, folder: Path) -> Path:
    image = nib.Nifti1Image.from_filename(label)
    values = np.asarray(image.dataobj)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / label.name
    nib.save(nib.Nifti1Image(np.where(values == kept, values, 0).astype(np.uint8), image.affine), path)
    return path


def main() -> None:
    """Train every arm with every seed and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    arguments, options = parser.parse_known_args()
    print("| arm | seed | mean Dice | anterior | posterior | wall time |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "task.yaml").write_text(TASK)
        common = ["--config", str(folder / "task.yaml"), *options]
        for kind in ("annotated", "naive"):
            (folder / kind).mkdir()
        datasets = {
            "full": arguments.dataset,
            "annotated": write_partial(arguments.dataset, folder / "annotated", annotate=True),
            "naive": write_partial(arguments.dataset, folder / "naive", annotate=False),
        }
        for seed in arguments.seeds:
            for arm in arguments.arms:
                kind, loss = ARMS[arm]
                run = folder / f"{arm} {seed}"
                dice, seconds = train(datasets[kind], seed, run, [*common, *loss])
                values = " | ".join(f"{value:.4f}" for value in dice.values())
                print(f"| {arm} | {seed} | {values} | {int(seconds // 60)} min {int(seconds % 60)} s |", flush=True)


if __name__ == "__main__":
    main()
