"""Measurements behind the choice between own code and a library (docs/architecture.md): averaged weights, intervals.

    python benchmarks/library_choices.py

`EMA` compares an update of `WeightAverage` with one of ignite's `EMAHandler`, for the bundle's default network.
`intervals` compares percentile and BCa intervals (`scipy.stats.bootstrap`) of the mean of n Dice scores: how often the
95 % interval contains the true mean, and the time per interval. Scores are drawn from a distribution like that of an
organ: Beta(18, 3), and 5 % of the cases missed with a Dice of 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.networks.nets import DynUNet
from scipy import stats

from segbundle.results.summary import bootstrap_interval
from segbundle.training.weight_average import WeightAverage

TRUE_MEAN = 0.95 * 18 / 21


def network() -> torch.nn.Module:
    """Return the default network of the bundle."""
    return DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, [24, 48, 96, 192], norm_name="INSTANCE")


def update_ms(attach: Callable[[Engine, torch.nn.Module], None], updates: int) -> float:
    """Return the median time of an update in milliseconds."""
    torch.manual_seed(0)
    engine, times = Engine(lambda engine, batch: None), []
    attach(engine, network())
    for _ in range(updates):
        started = time.perf_counter()
        engine.state.iteration += 1
        engine.fire_event(Events.ITERATION_COMPLETED)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def attach_ignite(engine: Engine, trained: torch.nn.Module) -> None:
    EMAHandler(trained, momentum=0.001).attach(engine)


def bca(values: np.ndarray) -> tuple[float, float]:
    """Return the BCa interval of SciPy; the mean twice if all values are equal, for which SciPy returns NaN."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=0).confidence_interval
    return float(interval.low), float(interval.high)


def percentile(values: np.ndarray) -> tuple[float, float]:
    low, high = bootstrap_interval(values.tolist())
    assert low is not None and high is not None
    return low, high


def coverage(interval: Callable[[np.ndarray], tuple[float, float]], cases: int, draws: int) -> tuple[float, float]:
    """Return the fraction of draws whose interval contains the true mean, and the milliseconds per interval."""
    rng, hits, spent = np.random.default_rng(0), 0, 0.0
    for _ in range(draws):
        values = np.where(rng.random(cases) < 0.05, 0.0, rng.beta(18, 3, cases))
        started = time.perf_counter()
        low, high = interval(values)
        spent += time.perf_counter() - started
        hits += low <= TRUE_MEAN <= high
    return hits / draws, 1000 * spent / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--draws", type=int, default=2000)
    arguments = parser.parse_args()
    print("| EMA | ms per update |\n|---|---:|")
    for name, attach in (
        ("segbundle", lambda engine, trained: WeightAverage(trained).attach(engine)),
        ("ignite", attach_ignite),
    ):
        print(f"| {name} | {update_ms(attach, arguments.updates):.2f} |", flush=True)
    print("\n| cases | percentile, coverage | ms | BCa, coverage | ms |\n|---|---:|---:|---:|---:|")
    for cases in (8, 20, 50):
        cells = [
            f"{hit:.3f} | {ms:.2f}" for hit, ms in (coverage(f, cases, arguments.draws) for f in (percentile, bca))
        ]
        print(f"| {cases} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
