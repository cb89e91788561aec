"""Train a small network in a plain PyTorch loop on cases that are annotated for different classes.

    python examples/losses_in_a_loop.py

Each image shows a bright ball (class 1) and a dark ball (class 2), but half of the images are annotated for only
one of them. In every image, the labels of a slab are unknown (255).
"""

from __future__ import annotations

import torch
from monai.networks.nets import UNet

from segbundle.losses import DiceCELoss
from segbundle.metrics import per_class_dice

SIZE, CLASSES, UNKNOWN = 24, 3, 255


def make_image(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image (1, X, Y, Z) and its complete label map of the same shape."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE)] * 3, indexing="ij"))
    labels = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.long)
    for value, side in ((1, 7), (2, 16)):
        center = torch.tensor([side, *torch.randint(7, SIZE - 7, (2,), generator=generator)])
        labels[0][(grid - center.view(3, 1, 1, 1)).square().sum(0) < 25] = value
    contrast = torch.tensor([0.0, 1.0, -1.0])[labels]
    return contrast + 0.3 * torch.randn(contrast.shape, generator=generator), labels


def main() -> None:
    """Train for a few steps and print the Dice of both classes on a new image."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = UNet(3, 1, CLASSES, channels=(8, 16), strides=(2,), num_res_units=1)
    loss_function = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, ignore_index=UNKNOWN)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(41):
        images, labels = map(torch.stack, zip(*[make_image(generator) for _ in range(2)], strict=True))
        annotated = torch.tensor([[True, True, True], [True, step % 2 == 0, step % 2 == 1]])
        labels[1][labels[1] == (2 if step % 2 == 0 else 1)] = 0  # not annotated: it looks like background
        labels[:, :, :, :2] = UNKNOWN
        loss = loss_function(network(images), labels, annotated)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    image, labels = make_image(generator)
    with torch.no_grad():
        prediction = network.eval()(image[None]).argmax(dim=1)
    dice = per_class_dice(prediction, labels, num_classes=CLASSES)
    print(f"Dice: bright ball {dice[1]:.3f}, dark ball {dice[2]:.3f}")


if __name__ == "__main__":
    main()
