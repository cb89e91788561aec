"""Mirror images of inference compared with those of the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from segbundle.datasets.sides import chosen_flips, warn_about_sides

_logger = logging.getLogger(__name__)


def warn_about_flips(
    test_time_flips: Sequence[int],
    augmentation: Mapping[str, Any] | None,
    class_names: Sequence[str] = (),
    axcodes: str | Sequence[str] | None = "RAS",
) -> None:
    """Log a warning if inference mirrors images along an axis that the training did not mirror, or must not mirror.

    Args:
        test_time_flips: axes along which inference mirrors images.
        augmentation: of the training; its `flip_axes` are compared.
        class_names, axcodes: decide which axes exchange classes that differ by their side only.
    """
    trained = chosen_flips((augmentation or {}).get("flip_axes", "auto"), class_names, axcodes)
    unknown = sorted(set(test_time_flips) - set(trained))
    if unknown:
        _logger.warning(
            "test_time_flips: the training mirrored no image along axis %s (augmentation#flip_axes is %s); "
            "averaging such predictions makes most models worse",
            ", ".join(map(str, unknown)),
            list(trained),
        )
    warn_about_sides(test_time_flips, class_names, axcodes, "test_time_flips")
