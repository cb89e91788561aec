import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.ticker import MaxNLocator

from segbundle.report.charts import _ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.04, 1.04, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.5, 41.5, [10, 20, 30, 40]),
        (-3.0, 10.5, [-3, 0, 3, 6, 9]),
        (1e-4, 9e-4, [2e-4, 4e-4, 6e-4, 8e-4]),
    ],
)
def test_ticks_are_multiples_of_a_round_step(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks, abs=1e-12)


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4))
def test_there_are_two_to_six_ticks_in_the_range(low, size):
    assume(low + size > low and size > 1e-9 * abs(low))
    ticks = _ticks(low, low + size)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-6 * size <= ticks[0] and ticks[-1] <= low + size * (1 + 1e-6)


def test_ticks_are_those_of_matplotlib():
    """Matplotlib chooses other multiples for narrow ranges far from zero, and may round a step that fits exactly up."""
    rng = np.random.default_rng(0)
    for low, size in zip(rng.uniform(-1, 1, 500), 10 ** rng.uniform(-0.5, 4, 500), strict=True):
        expected = [tick for tick in MaxNLocator(5).tick_values(low, low + size) if low <= tick <= low + size]
        assert _ticks(low, low + size) == pytest.approx(expected, abs=1e-9 * size)
