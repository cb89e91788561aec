"""Segment a scan with the shipped model through MONAI's bundle API, and read the label map and the record of the scan.

    python examples/predict.py

The model segments the hippocampus in cropped T1 MR. The scan is synthetic and contains none, so only the steps matter.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from monai.bundle import ConfigWorkflow

from segbundle.io import read_scan

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the inference workflow on a scan and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", default=ROOT / "data_samples" / "imagesTs" / "phantom_016.nii.gz")
    scan = parser.parse_args().scan
    with tempfile.TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            config_file=str(ROOT / "bundle" / "configs" / "inference.yaml"),
            meta_file=str(ROOT / "bundle" / "configs" / "metadata.json"),
            logging_file=str(ROOT / "bundle" / "configs" / "logging.conf"),
            workflow_type="inference",
            dataset_dir=str(scan),
            output_dir=folder,
            overlap=0.25,  # instead of 0.5, to be fast
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        (record,) = json.loads((Path(folder) / "predictions.json").read_text(encoding="utf-8"))
        label_map = read_scan(record["prediction"], dtype=None)
    print(f"case: {record['case']}, {record['status']}, {record['seconds']} s")
    print(f"label map: {label_map.geometry.shape} voxels of {np.round(label_map.geometry.spacing, 2).tolist()} mm")
    values, counts = np.unique(label_map.array, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        print(f"label {value}: {count} voxels")


if __name__ == "__main__":
    main()
