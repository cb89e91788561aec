"""Score a label map against its reference: Dice, HD95, NSD and connected components per class.

    python examples/score_label_maps.py

The "prediction" is the reference moved by one voxel, without its last class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from segbundle.io import read_scan
from segbundle.metrics import score_case

ROOT = Path(__file__).parents[1]
NAMES = ["background", "liver", "kidney", "vessel", "lesion"]


def main() -> None:
    """Print a row of scores for each class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", nargs="?", default=ROOT / "data_samples" / "labelsTs" / "phantom_016.nii.gz")
    label_map = read_scan(parser.parse_args().reference, dtype=None)
    reference = label_map.array[0].astype(np.int64)  # (X, Y, Z)
    prediction = np.roll(reference, 1, axis=0)
    prediction[prediction == len(NAMES) - 1] = 0
    scores = score_case(
        torch.from_numpy(prediction),
        torch.from_numpy(reference),
        num_classes=len(NAMES),
        annotated=[True, True, True, False, True],  # as if the vessel had not been annotated
        spacing=label_map.geometry.spacing,
        nsd_tolerance_mm=2.0,
    )
    print("class     status           Dice    HD95 (mm)  NSD    components")
    for name, score in list(zip(NAMES, scores, strict=True))[1:]:
        parts = f"{score.components_pred} (reference: {score.components_ref})"
        status = score.status.value
        print(f"{name:8}  {status:14}  {score.dice:6.3f}  {score.hd95_mm:9.2f}  {score.nsd:5.3f}  {parts}")


if __name__ == "__main__":
    main()
