"""Train on the synthetic scans for a few epochs with MONAI's bundle API, and read the scores from the run's files.

    python examples/train.py

The training is far too short for useful scores; see `configs/phantom.yaml` for the settings of a complete one.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Train, and print mean Dice and the scores of the held-out cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            config_file=[str(ROOT / "bundle" / "configs" / "train.yaml"), str(ROOT / "configs" / "phantom.yaml")],
            meta_file=str(ROOT / "bundle" / "configs" / "metadata.json"),
            logging_file=str(ROOT / "bundle" / "configs" / "logging.conf"),
            workflow_type="train",
            dataset_dir=str(ROOT / "data_samples"),
            output_dir=folder,
            max_epochs=epochs,
            val_interval=epochs,
            **{"network_def#filters": [4, 8, 16, 32]},
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        with (Path(folder) / "metrics.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    print(f"epoch {summary['epoch']}, {summary['cases']} held-out cases, mean Dice {summary['mean_dice']:.3f}")
    for row in rows:
        print(f"{row['case']}  {row['class']:8}  {row['status']:14}  {row['dice'] or '-'}")


if __name__ == "__main__":
    main()
