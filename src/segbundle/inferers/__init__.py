"""Passing patches and whole scans through a network. Knows nothing of files."""

from segbundle.inferers.inferers import PatchInferer, SlidingWindowInferer
from segbundle.inferers.precision import Precision, autocast

__all__ = ["PatchInferer", "Precision", "SlidingWindowInferer", "autocast"]
