"""Rules for the modality and the intensity normalization."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segbundle.planning.choice import Choice
from segbundle.planning.dataset_fingerprint import DatasetFingerprint

_AIR = (-4000.0, -500.0)
"""Range of the median minimum of CT scans in Hounsfield units: air is -1000, padding down to -3024."""
_BONE = 200.0
"""Smallest median maximum of CT scans in Hounsfield units."""
_CROPPED = 0.25
"""Fraction of the volume removed by cropping to nonzero voxels, above which zero is background (nnU-Net)."""
_PERCENTILES = (0.5, 99.5)


class Modality(NamedTuple):
    """Modality of the scans.

    Attributes:
        name: `CT`, or the names of the channels, or `unknown`.
        source: where the name comes from.
        is_ct: whether all channels are CT in Hounsfield units.

    Example:
        >>> Modality("CT", "dataset.json", True).is_ct
        True
    """

    name: str
    source: str
    is_ct: bool


def modality_of(fingerprint: DatasetFingerprint) -> Modality:
    """Return the modality: that of the description of the dataset, or else a guess from the intensities.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> from pathlib import Path
        >>> modality_of(DatasetFingerprint(Path("data"), "", [], ["background", "a"], True, [], ["MRI"], [])).name
        'MRI'
    """
    names = fingerprint.channel_names
    if names:
        is_ct = all(name.strip().lower() == "ct" for name in names)
        return Modality(", ".join(names), "dataset.json", is_ct)
    lows = np.median([case.minimum for case in fingerprint.cases], axis=0)
    highs = np.median([case.maximum for case in fingerprint.cases], axis=0)
    if bool(((_AIR[0] <= lows) & (lows <= _AIR[1]) & (highs >= _BONE)).all()):
        return Modality(
            "CT", f"a guess: values from {lows.min():.5g} to {highs.max():.5g} look like Hounsfield units", True
        )
    return Modality("unknown", f"values from {lows.min():.5g} to {highs.max():.5g} are not Hounsfield units", False)


def choose_intensity(fingerprint: DatasetFingerprint) -> Choice:
    """Return the setting `intensity`, the normalization of intensities.

    CT is clipped to the 0.5th and 99.5th percentile of the voxels inside the labels and normalized with their mean and
    standard deviation (nnU-Net). Other scans, and CT without different values inside the labels, are normalized by
    z-score. For scans other than CT, the z-score is computed from nonzero voxels only if cropping to these removes more
    than 25% of the volume in the median case.

    Args:
        fingerprint: fingerprint of the dataset.

    Example:
        >>> from pathlib import Path
        >>> from segbundle.planning.case_fingerprint import CaseFingerprint
        >>> case = CaseFingerprint(
        ...     "a", (9, 9, 9), (1, 1, 1), "RAS", "int16", 1, 0, (-1000,), (900,), ((0, 50, 100),), {0: 9, 1: 3}
        ... )
        >>> fingerprint = DatasetFingerprint(Path("data"), "", [case], ["background", "liver"], True, [], ["CT"], [])
        >>> choose_intensity(fingerprint).value
        {'method': 'ct', 'lower': 0.5, 'upper': 99.5, 'mean': 50.0, 'std': 40.82}
    """
    modality = modality_of(fingerprint)
    values = np.concatenate([fingerprint.intensities(channel) for channel in range(fingerprint.num_channels)])
    if modality.is_ct and len(values):
        lower, upper = (_rounded(value) for value in np.percentile(values, _PERCENTILES))
        clipped = np.clip(values, lower, upper)
        if lower < upper and clipped.std() > 0:
            return Choice(
                "intensity",
                {
                    "method": "ct", "lower": lower, "upper": upper,
                    "mean": _rounded(values.mean()), "std": _rounded(values.std()),
                },
                f"CT ({modality.source}): percentiles 0.5 and 99.5, mean and std inside the labels",
            )  # fmt: skip
    cropped = float(np.median([case.cropped for case in fingerprint.cases]))
    what = f"{modality.name} ({modality.source})"
    if not modality.is_ct and cropped > _CROPPED:
        reason = f"{what}: z-score of nonzero voxels, since cropping to them removes {cropped:.0%} of a volume"
        return Choice("intensity", {"method": "zscore", "nonzero": True}, reason)
    return Choice("intensity", {"method": "zscore"}, f"{what}: z-score per scan and channel")


def _rounded(value: float) -> float:
    """Return a number with four significant digits, which is more than the samples determine."""
    return float(f"{value:.4g}")
