"""Validation Dice after some minutes of fine-tuning, compared with training from scratch.

    python benchmarks/fine_tuning.py --minutes 1 2 5 --scratch 1 2 5 10

A model is trained on phantoms of `segbundle samples` with four classes. The task of the fine-tuning has other phantoms
and other classes: `vessel` is renamed to `aorta`, `kidney` is split by side, and `liver` and `lesion` are merged. So
the output weights of all classes but the background start new. Every cell of the table is a training run of its own,
whose learning rate schedule ends with it: the number of epochs is the time divided by the duration of an epoch, which
is measured first. Additional options are passed to the fine-tuning, for instance `--layer_decay 0.75`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segbundle.datasets.samples import write_samples
from ten_minutes import train

CLASSES = ("background", "liver and lesion", "right kidney", "left kidney", "aorta")
NAMES = {"liver": CLASSES[1:2], "lesion": CLASSES[1:2], "kidney": CLASSES[2:4], "vessel": CLASSES[4:]}
"""New classes of every class of the phantoms."""
LIVER, KIDNEY, VESSEL, LESION = 1, 2, 3, 4
COUNTS = 2, 8
"""Epochs of the two runs whose difference is the duration of an epoch."""
TASK = """
class_names: {names}
spacing: [2.0, 2.0, 2.0]
intensity: {{method: zscore}}
patch_size: [48, 48, 48]
network_def#filters: [16, 32, 64, 128]
"""


def write_other_task(folder: Path, seed: int, cases: int) -> Path:
    """Write phantoms with the classes of the fine-tuning, and return the folder."""
    description = write_samples(folder, seed=seed, num_training=cases, num_test=0)
    content = json.loads(description.read_text())
    for entry in content["training"]:
        path = folder / entry["label"]
        image = nib.Nifti1Image.from_filename(path)
        values = _other_classes(np.asarray(image.dataobj), image.affine)
        nib.Nifti1Image(values, image.affine, image.header).to_filename(path)
        if "annotated" in entry:
            entry["annotated"] = sorted({name for old in entry["annotated"] for name in NAMES[old]}, key=CLASSES.index)
    content["labels"] = {str(value): name for value, name in enumerate(CLASSES)}
    description.write_text(json.dumps(content))
    return folder


def _other_classes(label: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a label map with the classes of the fine-tuning."""
    kidneys = label == KIDNEY
    right = np.zeros_like(kidneys)
    if kidneys.any():
        x = nib.affines.apply_affine(affine, np.argwhere(kidneys))[:, 0]
        right[kidneys] = x > (x.min() + x.max()) / 2
    chosen = [np.isin(label, (LIVER, LESION)), right, kidneys & ~right, label == VESSEL]
    return np.select(chosen, [1, 2, 3, 4]).astype(np.uint8)


class Runs:
    """Training runs in a temporary folder, each of a given duration."""

    def __init__(self, folder: Path, cases: int, seed: int, epoch_seconds: float | None) -> None:
        self.folder, self.seed = folder, seed
        self.first = write_samples(folder / "first", seed=0, num_training=cases, num_test=0).parent
        self.other = write_other_task(folder / "other", 1, cases)
        for name, classes in (("first", ["background", *NAMES]), ("other", list(CLASSES))):
            ordered = json.loads((folder / name / "dataset.json").read_text())["labels"].values()
            assert set(ordered) == set(classes)
            (folder / f"{name}.yaml").write_text(TASK.format(names=json.dumps(list(ordered))))
        self.epoch_seconds = epoch_seconds or self._epoch_seconds()

    def _epoch_seconds(self) -> float:
        seconds = [self._train("other", f"timing {count}", count, [])[1] for count in COUNTS]
        return (seconds[1] - seconds[0]) / (COUNTS[1] - COUNTS[0])

    def _train(self, task: str, name: str, epochs: int, options: list[str]) -> tuple[float, float]:
        words = [
            "--config",
            str(self.folder / f"{task}.yaml"),
            "--max_epochs",
            str(epochs),
            "--val_interval",
            str(epochs),
        ]
        dice, seconds = train(self.folder / task, self.seed, self.folder / name, [*words, *options])
        return dice["mean"], seconds

    def dice(self, task: str, name: str, minutes: float, options: list[str]) -> float:
        """Train for some minutes, and return the mean Dice of the validation fold."""
        return self._train(task, name, max(1, round(60 * minutes / self.epoch_seconds)), options)[0]


def main() -> None:
    """Train the model, fine-tune it, train from scratch, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 5], help="of fine-tuning")
    parser.add_argument("--scratch", type=float, nargs="+", default=[1, 2, 5, 10], help="minutes from scratch")
    parser.add_argument("--pretraining", type=float, default=10, help="minutes of training of the model")
    parser.add_argument("--cases", type=int, default=40, help="cases of each task; a fifth is held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch_seconds", type=float, help="duration of an epoch (default: measured)")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = Runs(Path(temporary), arguments.cases, arguments.seed, arguments.epoch_seconds)
        before = runs.dice("first", "pretraining", arguments.pretraining, [])
        print(f"Pretraining: mean Dice {before:.4f}; {runs.epoch_seconds:.1f} s per epoch\n")
        print("| minutes | from scratch | fine-tuned |\n|---|---|---|", flush=True)
        for minutes in sorted({*arguments.minutes, *arguments.scratch}):
            row = []
            for way, chosen in (("scratch", arguments.scratch), ("tuned", arguments.minutes)):
                more = ["--ckpt_path", str(runs.folder / "pretraining"), *options] if way == "tuned" else []
                name = f"{way} {minutes:g}"
                row.append(f"{runs.dice('other', name, minutes, more):.4f}" if minutes in chosen else "")
            print(f"| {minutes:g} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
