"""Compare the plan of `segbundle plan` with that of nnU-Net for the same dataset.

    python benchmarks/plans.py data_samples --nnunet /path/to/venv/bin/python

`--nnunet` is the Python of an environment with nnU-Net 2 (`pip install nnunetv2`); without it, only the plan of
segbundle is printed. The dataset is linked into a temporary folder in nnU-Net's layout, which needs `.nii.gz` files
with one channel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.datasets.cases import load_cases
from segbundle.datasets.description import read_description
from segbundle.datasets.label_names import described_labels
from segbundle.planning import Request, plan_task

NAME = "Dataset001_Plan"
PROGRAM = """
import sys
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
planner, gigabytes = sys.argv[1], float(sys.argv[2])
extract_fingerprints([1], num_processes=2, check_dataset_integrity=False)
plan_experiments([1], planner, gigabytes)
"""


def nnunet_plan(dataset: Path, python: Path, planner: str, gigabytes: float) -> dict[str, Any]:
    """Return nnU-Net's configuration `3d_fullres` of a dataset, with all lists from X to Z."""
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw" / NAME
        link_cases(dataset, raw)
        environment = {f"nnUNet_{kind}": str(Path(name) / kind) for kind in ("raw", "preprocessed", "results")}
        command = [str(python), "-c", PROGRAM, planner, str(gigabytes)]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"nnU-Net failed:\n{done.stderr[-2000:]}")
        (path,) = (Path(name) / "preprocessed" / NAME).glob("*Plans.json")
        plan: dict[str, Any] = json.loads(path.read_text())["configurations"]["3d_fullres"]
    network = plan["architecture"]["arch_kwargs"]
    return {
        "spacing": plan["spacing"][::-1],
        "patch_size": plan["patch_size"][::-1],
        "batch_size": plan["batch_size"],
        "filters": network["features_per_stage"],
        "strides": [each[::-1] for each in network["strides"]],
        "kernel_size": [each[::-1] for each in network["kernel_sizes"]],
        "intensity": f"{plan['normalization_schemes'][0]}, mask: {plan['use_mask_for_norm'][0]}",
    }


def link_cases(dataset: Path, raw: Path) -> None:
    """Link the labeled cases of a dataset in nnU-Net's raw layout."""
    names, channels = described_labels(dataset).class_names or [], read_description(dataset).get("modality") or ["MRI"]
    cases = [case for case in load_cases(dataset) if case.label is not None]
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in cases:
        (raw / "imagesTr" / f"{case.name}_0000.nii.gz").symlink_to(case.image[0].resolve())
        assert case.label is not None
        (raw / "labelsTr" / f"{case.name}.nii.gz").symlink_to(case.label.resolve())
    description = {
        "channel_names": dict(enumerate(channels)),
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def own_plan(dataset: Path, preset: str | None, memory: str | None) -> tuple[dict[str, Any], float]:
    """Return segbundle's plan with the keys of `nnunet_plan`, and the time in seconds."""
    begun = time.monotonic()
    values = plan_task(dataset, Request(memory, preset)).values
    found = {
        "spacing": values["spacing"],
        "patch_size": values["patch_size"],
        "batch_size": values["batch_size"],
        "filters": values["network_def#filters"],
        "strides": values["network_def#strides"],
        "kernel_size": values["network_def#kernel_size"],
        "intensity": ", ".join(f"{key}: {value}" for key, value in values["intensity"].items()),
    }
    return found, time.monotonic() - begun


def shown(value: Any) -> str:
    """Return a value as text; lists of equal numbers as one number."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        levels = [each[0] if isinstance(each, list) and len(set(each)) == 1 else each for each in value]
        return ", ".join("×".join(map(str, each)) if isinstance(each, list) else f"{each:.4g}" for each in levels)
    return str(value)


def main() -> None:
    """Print a table with a row per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, help="Python of an environment with nnU-Net 2")
    parser.add_argument("--planner", default="ExperimentPlanner")
    parser.add_argument("--memory", type=float, default=8.0, help="GB of nnU-Net and of segbundle's second plan")
    arguments = parser.parse_args()
    default, seconds = own_plan(arguments.dataset, None, None)
    columns = {"segbundle": default}
    if arguments.nnunet is not None:
        columns["segbundle, medium"] = own_plan(arguments.dataset, "medium", f"{arguments.memory}GB")[0]
        begun = time.monotonic()
        columns["nnU-Net"] = nnunet_plan(arguments.dataset, arguments.nnunet, arguments.planner, arguments.memory)
        print(f"nnU-Net took {time.monotonic() - begun:.1f} s,", end=" ")
    print(f"segbundle {seconds:.1f} s.\n")
    print(f"| {arguments.dataset.resolve().name} | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for key in default:
        print(f"| `{key}` | {' | '.join(shown(column[key]) for column in columns.values())} |")


if __name__ == "__main__":
    main()
