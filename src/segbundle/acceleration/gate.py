"""Decide whether the acceleration is on: by default, for the versions of PyTorch that it was measured with."""

from __future__ import annotations

import logging
import os
from functools import lru_cache

_MEASURED = ("2.11", "2.13")
"""Versions of PyTorch, without the patch number: CUDA graphs and kernels on GPUs with 2.11, the rest with 2.13."""
_VARIABLE = "SEGBUNDLE_ACCELERATION"
"""Environment variable that turns the acceleration `on` or `off`, whatever the version."""
_logger = logging.getLogger(__name__)


def is_accelerated() -> bool:
    """Return whether the acceleration is on: code that depends on internals of PyTorch or patches the process.

    The acceleration consists of fused and rewritten networks, CUDA graphs, channels-last instance norms, malloc
    settings and deferred imports. Without the acceleration, results are the same up to rounding. By default, the
    acceleration is on for the versions of PyTorch that it was measured with. The environment variable
    `SEGBUNDLE_ACCELERATION`, set to `on` or `off`, overrides this default.

    Example:
        >>> is_accelerated() in (True, False)
        True
    """
    setting = os.environ.get(_VARIABLE, "")
    return setting == "on" if setting in ("on", "off") else _is_measured()


@lru_cache(maxsize=1)
def _is_measured() -> bool:
    """Return whether the installed version of PyTorch was measured; log once if it was not."""
    from importlib.metadata import version  # takes as long as the rest of `segbundle --help`

    installed = version("torch")
    known = ".".join(installed.split(".")[:2]) in _MEASURED
    if not known:
        _logger.info(
            "PyTorch %s: the acceleration is off, because it was measured with %s only; %s=on turns it on",
            installed,
            " and ".join(_MEASURED),
            _VARIABLE,
        )
    return known
