"""Inference on patches and whole scans, without file access."""

from segbundle.inferers.backends import Backend, prepare
from segbundle.inferers.layers import with_channels_last_norms
from segbundle.inferers.optimising import optimised
from segbundle.inferers.patches import PatchInferer
from segbundle.inferers.precision import Precision, autocast
from segbundle.inferers.slabs import NonFiniteLogitsError, ScoreSlabs, check_finite
from segbundle.inferers.sliding import SlidingWindowInferer

__all__ = [
    "Backend",
    "NonFiniteLogitsError",
    "PatchInferer",
    "Precision",
    "ScoreSlabs",
    "SlidingWindowInferer",
    "autocast",
    "check_finite",
    "optimised",
    "prepare",
    "with_channels_last_norms",
]
