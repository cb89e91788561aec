"""segbundle: train, evaluate and run 3D medical segmentation as a MONAI bundle, also when classes are missing."""

__version__ = "0.1.0"
