"""Draw the figures of docs/losses.md with the losses of segbundle and MONAI.

python docs/figures/draw.py            # in the folder of this file
python docs/figures/draw.py --output_dir /tmp/figures
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import monai.losses
import torch

from segbundle.losses import DiceLoss, GeneralizedDiceLoss

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "segbundle", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
SIZE = 48
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, tuple[Loss, str]] = {
    "DiceLoss": (DiceLoss(to_onehot_y=True), "-"),
    "DiceLoss, absent=skip": (DiceLoss(to_onehot_y=True, absent="skip"), ":"),
    "MONAI DiceLoss, or absent=smooth": (monai.losses.DiceLoss(to_onehot_y=True), "--"),
}
GENERALIZED: dict[str, tuple[Loss, str]] = {
    "GeneralizedDiceLoss": (GeneralizedDiceLoss(to_onehot_y=True), "-"),
    "MONAI GeneralizedDiceLoss": (monai.losses.GeneralizedDiceLoss(to_onehot_y=True), "--"),
}


def two_classes_and_an_absent_one(false_positives: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (1, 3, ...) and labels: a block of class 1, predicted right; class 2 is absent and predicted."""
    labels = torch.zeros(1, 1, SIZE, SIZE, SIZE, dtype=torch.long)
    labels[:, :, : SIZE // 4] = 1
    predicted = labels.clone()
    predicted.view(-1)[-false_positives:] = 2
    return torch.nn.functional.one_hot(predicted[:, 0], 3).movedim(-1, 1).float(), labels


def false_positives(folder: Path) -> None:
    """Loss against the size of a false positive in an absent class."""
    import matplotlib.pyplot as plt

    sizes = [1, 10, 100, 1000, 10_000, 60_000]
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for name, (loss, style) in LOSSES.items():
        values = [loss(*two_classes_and_an_absent_one(size)).item() for size in sizes]
        axes.plot([size / SIZE**3 for size in sizes], values, style, label=name, marker=".")
    axes.set(xscale="log", xlabel="part of the volume given to an absent class", ylabel="loss", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8)
    save(figure, folder / "false_positives.svg")


def volumes(folder: Path) -> None:
    """Loss of a prediction that is wrong everywhere against the volume's size."""
    import matplotlib.pyplot as plt

    sizes = [16, 32, 64, 128, 192]
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for name, (loss, style) in GENERALIZED.items():
        values = []
        for size in sizes:
            labels = torch.zeros(1, 1, size, size, size, dtype=torch.long)
            labels[:, :, : size // 2] = 1
            wrong = torch.nn.functional.one_hot(1 - labels[:, 0], 2).movedim(-1, 1).float()
            values.append(loss(wrong, labels).item())
        axes.plot(sizes, values, style, label=name, marker=".")
    axes.set(xlabel="side of the volume in voxels", ylabel="loss, every voxel wrong", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8)
    save(figure, folder / "volumes.svg")


def absent_gradient(folder: Path) -> None:
    """Part of the gradient that absent classes take: half the volume class 1, a small cube class 2, 99 % right."""
    import matplotlib.pyplot as plt

    labels = torch.zeros(1, 1, SIZE, SIZE, SIZE, dtype=torch.long)
    labels[:, :, : SIZE // 2] = 1
    labels[..., 30:35, 30:35, 30:35] = 2
    counts = [0, 1, 3, 6, 12, 18]
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for name, (loss, style) in GENERALIZED.items():
        shares = []
        for absent in counts:
            spread = torch.full((1, 3 + absent, SIZE, SIZE, SIZE), 0.01 / (2 + absent))
            probabilities = spread.scatter_(1, labels, 0.99).requires_grad_()
            loss(probabilities, labels).backward()
            assert probabilities.grad is not None
            by_class = probabilities.grad.abs().sum(dim=(0, 2, 3, 4))
            shares.append(float(by_class[3:].sum() / by_class.sum()))
        axes.plot(counts, shares, style, label=name, marker=".")
    axes.set(xlabel="absent classes beside 3 present ones", ylabel="their part of the gradient", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8)
    save(figure, folder / "absent_gradient.svg")


def save(figure: mpl.figure.Figure, path: Path) -> None:
    """Write a figure without its date, so that the same figure is the same file."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(path)


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent)
    folder: Path = parser.parse_args().output_dir
    folder.mkdir(parents=True, exist_ok=True)
    false_positives(folder)
    volumes(folder)
    absent_gradient(folder)


if __name__ == "__main__":
    main()
