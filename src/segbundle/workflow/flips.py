"""Warning about test-time flips that do not match the flips during training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from segbundle.config.from_settings import from_settings
from segbundle.datasets.sides import chosen_flips, warn_about_sides

_logger = logging.getLogger(__name__)


@from_settings
def warn_about_flips(
    test_time_flips: Sequence[int],
    augmentation: Mapping[str, Any] | None,
    class_names: Sequence[str] = (),
    axcodes: str | Sequence[str] | None = "RAS",
) -> None:
    """Log a warning if inference mirrors images along axes that training did not mirror, or exchanges left and right.

    The second warning is logged only if there are classes that differ only by side.

    Args:
        test_time_flips: axes along which inference mirrors images.
        augmentation: augmentation during training, with its `flip_axes`; None for no augmentation.
        class_names: classes of the task, to find classes that differ only by side. Default: none.
        axcodes: orientation of the network's grid. Default: RAS.

    Raises:
        ConfigError: `flip_axes` is neither `auto` nor a list of axes.

    Example:
        >>> warn_about_flips([0], {"flip_axes": [0]}, ["background", "liver"])  # same axes: no warning
    """
    flip_axes = [] if augmentation is None else augmentation.get("flip_axes", "auto")
    trained = chosen_flips(flip_axes, class_names, axcodes)
    unknown = sorted(set(test_time_flips) - set(trained))
    if unknown:
        _logger.warning(
            "test_time_flips: the training did not mirror images along axis %s (augmentation#flip_axes is %s); "
            "averaging over such flips usually makes predictions worse. Use only axes that the training mirrored.",
            ", ".join(map(str, unknown)),
            list(trained),
        )
    warn_about_sides(test_time_flips, class_names, axcodes, "test_time_flips")
