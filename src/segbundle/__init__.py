"""segbundle: train, evaluate and run 3D medical segmentation as a MONAI bundle, including data with missing classes."""

import os

import lazy_loader as lazy

__version__ = "0.3.0"

for _name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # before MONAI imports MLflow
    os.environ.setdefault(_name, "true")

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
