"""Paired comparison of a metric between two runs: differences, bootstrap interval and signed-rank test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segbundle.results.summary import bootstrap_interval

Values = Mapping[str, float | None]
"""Value of a metric by case."""
_SIGNIFICANCE_LEVEL = 0.05
_MAX_EXACT_PAIRS = 50  # beyond that, the normal approximation of Wilcoxon's statistic is accurate
_DIGITS = 6  # precision of metrics.csv


@dataclass(frozen=True)
class Measure:
    """Metric to compare.

    Attributes:
        key: column of `metrics.csv`.
        label: name on the page.
        digits: number of decimals on the page.
        larger_is_better: whether larger values are better; False for distances.

    Example:
        >>> Measure("hd95_mm", "HD95 (mm)", 3, larger_is_better=False).label
        'HD95 (mm)'
    """

    key: str
    label: str
    digits: int
    larger_is_better: bool = True


DICE = Measure("dice", "Dice", 4)
MEAN = "mean over the classes of a case"


@dataclass(frozen=True)
class Pairing:
    """Paired comparison of a metric of one class between two runs, over the cases that have a value in both runs.

    Attributes:
        name: name of the class, or `MEAN` for the mean over the classes of each case.
        measure: metric that is compared.
        pairs: values of the first and of the other run, by case.
        difference: mean difference over the cases, other run minus first run; None without pairs.
        ci95: 95 % bootstrap interval of the mean difference; [None, None] for fewer than two pairs.
        p_value: two-sided p-value of Wilcoxon's signed-rank test (see `signed_rank_test`); None if all pairs are equal.

    Example:
        >>> pairing = Pairing.of("liver", DICE, {"a": 0.8, "b": 0.9, "c": None}, {"a": 0.9, "b": 0.9, "c": 0.5})
        >>> pairing.pairs, pairing.difference, pairing.better
        ({'a': (0.8, 0.9), 'b': (0.9, 0.9)}, 0.05, 1)
    """

    name: str
    measure: Measure
    pairs: Mapping[str, tuple[float, float]]
    difference: float | None
    ci95: Sequence[float | None]
    p_value: float | None

    @classmethod
    def of(cls, name: str, measure: Measure, mine: Values, theirs: Values) -> Pairing:
        """Compare the values of a metric in two runs, and return the result. Differences are rounded to six decimals.

        Args:
            name: name of the class, or `MEAN`.
            measure: metric that is compared.
            mine: values of the first run by case; None for a case without a value.
            theirs: values of the other run by case; None for a case without a value.
        """
        pairs = {
            case: (value, other)
            for case, value in mine.items()
            if value is not None and (other := theirs.get(case)) is not None
        }
        differences = [round(b - a, _DIGITS) for a, b in pairs.values()]
        mean = math.fsum(differences) / len(differences) if differences else None
        return cls(name, measure, pairs, mean, bootstrap_interval(differences), signed_rank_test(differences))

    @property
    def better(self) -> int:
        """Number of cases in which the other run is better."""
        return sum(gain > 0 for gain in self._gains)

    @property
    def worse(self) -> int:
        """Number of cases in which the other run is worse."""
        return sum(gain < 0 for gain in self._gains)

    @property
    def _gains(self) -> list[float]:
        sign = 1 if self.measure.larger_is_better else -1
        return [sign * round(b - a, _DIGITS) for a, b in self.pairs.values()]

    @property
    def is_too_small(self) -> bool:
        """True if so few pairs differ that the p-value cannot fall below 0.05."""
        return self.p_value is not None and 2 * 0.5 ** (self.better + self.worse) > _SIGNIFICANCE_LEVEL


def signed_rank_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test (Biometrics Bulletin 1945).

    Zeros are dropped, and tied differences get the mean of their ranks. For up to 50 nonzero differences, the test is
    exact, with or without ties. (SciPy's exact test does not support ties.) For more differences, the test uses the
    normal approximation.

    Args:
        differences: differences of the pairs.

    Returns:
        the p-value; None if all differences are 0, or if there are no differences

    Example:
        >>> signed_rank_test([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        0.03125
    """
    from scipy.stats import rankdata, wilcoxon

    nonzero = np.array([difference for difference in differences if difference != 0])
    if len(nonzero) == 0:
        return None
    if len(nonzero) > _MAX_EXACT_PAIRS:
        return float(wilcoxon(nonzero, method="asymptotic").pvalue)
    ranks = (2 * rankdata(np.abs(nonzero))).astype(int)  # doubled, because mean ranks may be multiples of 0.5
    counts = np.zeros(ranks.sum() + 1)  # number of sign combinations for each rank sum
    counts[0] = 1
    for rank in ranks:
        counts[rank:] = counts[rank:] + counts[:-rank]
    positive = ranks[nonzero > 0].sum()
    return float(min(1.0, 2 * min(counts[: positive + 1].sum(), counts[positive:].sum()) / counts.sum()))
