"""segbundle: train, evaluate and run 3D medical segmentation as a MONAI bundle, also when classes are missing."""

import os

__version__ = "0.1.0"

for _name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # before MONAI imports MLflow
    os.environ.setdefault(_name, "true")
