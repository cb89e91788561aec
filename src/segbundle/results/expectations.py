"""Expected measurements of each class, and warnings about predictions that deviate from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segbundle.results.structures import Structure

_USUALLY_PRESENT = 0.9
_RARELY_AT_EDGE = 0.1
"""Fractions of the reference cases."""
_MIN_CASES = 10
_MIN_SCANS = 5
_NUM_IQRS = 3.0
_MIN_VOLUME_RATIO = 2.0
_MIN_COMPONENTS_RATIO = 3.0
"""Smallest ratio of an outlier to the nearest quartile."""
_ROUNDING = 1e-9
EDGE = "touches the edge of the scan and may be cut off"


@dataclass(frozen=True)
class Spread:
    """Distribution of a measurement over reference cases, with outlier limits.

    Attributes:
        values: measurements in ascending order, at least one.
        low: lower limit; smaller values are outliers.
        high: upper limit; larger values are outliers.

    Example:
        >>> spread = Spread.of([10.0, 11.0, 12.0], least=2.0)
        >>> round(spread.low, 6), round(spread.high, 6)
        (5.0, 24.0)
    """

    values: Sequence[float]
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float], least: float | None = None) -> Spread | None:
        """Return the distribution of values, or None if there are no values.

        For ten or more values, the distance from a quartile to its limit is three interquartile ranges (Tukey,
        Exploratory Data Analysis, 1977), but not less than a minimum distance. For fewer values, the lower limit is the
        minimum distance below the smallest value, and the upper limit the minimum distance above the largest value.

        Args:
            values: measurements, which must be positive if `least` is given.
            least: minimum ratio between a quartile and its limit. Limits are then computed on the logarithms of the
                values, and the minimum distance is the logarithm of `least`. If None (default), limits are computed on
                the values, and the minimum distance is the range of the values.

        Example:
            >>> Spread.of([]) is None
            True
        """
        ordered = sorted(values)
        if not ordered:
            return None
        scaled = np.asarray(ordered) if least is None else np.log(ordered)
        enough = len(ordered) >= _MIN_CASES
        first, third = np.percentile(scaled, [25, 75]) if enough else (scaled[0], scaled[-1])
        min_distance = scaled[-1] - scaled[0] if least is None else np.log(least)
        distance = max(_NUM_IQRS * (third - first), min_distance) if enough else min_distance
        limits = np.array([first - distance, third + distance])
        low, high = limits if least is None else np.exp(limits)
        return cls(ordered, float(low), float(high))

    def is_far_out(self, value: float) -> bool:
        """Return whether a value is an outlier, that is, below `low` or above `high` by more than rounding errors.

        Args:
            value: measurement, in the unit of `values`.
        """
        return value < self.low - _ROUNDING * abs(self.low) or value > self.high + _ROUNDING * abs(self.high)

    def compared(self, value: float, what: str, unit: str = "") -> str:
        """Return text that compares an outlier with the reference cases.

        Args:
            value: the outlier, below `low` or above `high`.
            what: description of the reference cases, such as "the 12 training cases".
            unit: unit with a leading space, such as " ml". Default: empty, for numbers without a unit.

        Example:
            >>> Spread.of([1.0, 3.0], least=2.0).compared(9.0, "the 2 training cases", " ml")
            'above all of the 2 training cases (1 to 3 ml)'
        """
        above = value > self.high
        exceptions = sum(other >= value if above else other <= value for other in self.values)
        which = f"all but {exceptions}" if exceptions else "all"
        return f"{'above' if above else 'below'} {which} of {what} ({self.ends}{unit})"

    @property
    def ends(self) -> str:
        """Smallest and largest value as text, such as "1 to 3"; a single number if these are equal after rounding."""
        return " to ".join(dict.fromkeys(map(in_short, (self.values[0], self.values[-1]))))


def in_short(value: float) -> str:
    """Return a number as text: three significant digits below 1000, an integer from 1000 on.

    Args:
        value: number; its absolute value determines the format.

    Example:
        >>> in_short(0.12345), in_short(999.7), in_short(123456.7)
        ('0.123', '1000', '123457')
    """
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


@dataclass(frozen=True)
class Expected:
    """Expected measurements of a class, from reference cases.

    Attributes:
        what: plural noun for the reference cases, such as "training cases".
        num_cases: number of reference cases in which the class was annotated (training cases) or could be predicted
            (other scans).
        num_present: number of these cases that contain the class.
        at_edge: among the cases that contain the class, the fraction of cases in which the class touches the edge of
            the scan; 0 if no case contains the class.
        volume_ml: distribution of the volume in ml, over the cases that contain the class; None without such cases.
        components: distribution of the number of connected components; None if components were not counted in any case.
        mean_intensity: distribution of the mean intensity; None if intensities are not comparable between scans, or are
            known in fewer than ten cases.

    Example:
        >>> cases = [Structure(f"case_{i}", "liver", 1400.0 + i) for i in range(12)]
        >>> Expected.of(cases, "training cases", intensities=True).cases
        'the 12 training cases'
    """

    what: str
    num_cases: int
    num_present: int
    at_edge: float
    volume_ml: Spread | None
    components: Spread | None
    mean_intensity: Spread | None

    @classmethod
    def of(cls, structures: Sequence[Structure], what: str, intensities: bool) -> Expected | None:
        """Return the expected measurements of a class, or None for fewer than ten reference cases.

        Args:
            structures: measurements of the class, one per reference case.
            what: plural noun for the reference cases.
            intensities: whether intensities are comparable between scans. With True, intensities are used only if known
                in at least ten cases.

        Example:
            >>> Expected.of([], "training cases", intensities=True) is None
            True
        """
        if len(structures) < _MIN_CASES:
            return None
        present = [one for one in structures if one.volume_ml > 0]
        components = Spread.of([float(one.components) for one in present if one.components], _MIN_COMPONENTS_RATIO)
        if components is not None:  # at most half of the smallest number is an outlier
            components = replace(components, low=math.floor(components.values[0] / 2) + 0.5)
        means = [one.mean_intensity for one in present if one.mean_intensity is not None]
        return cls(
            what,
            len(structures),
            len(present),
            sum(one.touches_edge for one in present) / max(len(present), 1),
            Spread.of([one.volume_ml for one in present], _MIN_VOLUME_RATIO),
            components,
            Spread.of(means) if intensities and len(means) >= _MIN_CASES else None,
        )

    @property
    def present(self) -> float:
        """Fraction of the reference cases that contain the class."""
        return self.num_present / self.num_cases

    @property
    def cases(self) -> str:
        """Description of the reference cases, such as "the 12 training cases"."""
        return f"the {self.num_cases} {self.what}"

    @property
    def those_with_it(self) -> str:
        """Description of the reference cases that contain the class."""
        return self.cases if self.num_present == self.num_cases else f"the {self.num_present} {self.what} that have it"


class Expectations:
    """Expected measurements of all classes.

    The expectations of a class come from the training cases in which the class was annotated. If there are fewer than
    ten such cases, the expectations come from the other predicted scans. A class with fewer than ten training cases and
    fewer than ten other scans has no expectations.

    Args:
        training: measurements of the training cases; may be empty.
        found: measurements of the predictions.
        class_names: names of the foreground classes.
        intensities: whether intensities are comparable between scans, as in CT but not in MR (default True).

    Attributes:
        of_training: expected measurements by class, for the classes whose expectations come from the training cases.

    Example:
        >>> training = [Structure(f"case_{i}", "liver", 1400.0 + i) for i in range(12)]
        >>> expected = Expectations(training, [], ["liver"])
        >>> expected.of_class("liver").present
        1.0
    """

    def __init__(
        self,
        training: Sequence[Structure],
        found: Sequence[Structure],
        class_names: Sequence[str],
        intensities: bool = True,
    ) -> None:
        self._intensities = intensities
        self._found = {name: [one for one in found if one.name == name] for name in class_names}
        known = {name: [one for one in training if one.name == name] for name in class_names}
        usual = {name: Expected.of(cases, "training cases", intensities) for name, cases in known.items()}
        self.of_training = {name: one for name, one in usual.items() if one is not None}

    def of_class(self, name: str) -> Expected | None:
        """Return the expected measurements of a class from the training cases, or else from all predictions.

        Args:
            name: name of the class.

        Returns:
            expected measurements; None if there are fewer than ten training cases with annotations of the class, and at
            most ten predictions
        """
        scans = self._found[name]
        usual = Expected.of(scans, "predicted scans", self._intensities) if len(scans) > _MIN_CASES else None
        return self.of_training.get(name) or usual

    def of(self, one: Structure) -> Expected | None:
        """Return the expected measurements for a class in one predicted scan.

        The measurements come from the training cases, or else from the other predicted scans. If these are used,
        `at_edge` is 0, because a class may be cut off in all scans of a batch.

        Args:
            one: measurements of the class in the scan.

        Returns:
            expected measurements; None if there are fewer than ten training cases with annotations of the class, and
            fewer than ten other scans
        """
        if one.name in self.of_training:
            return self.of_training[one.name]
        others = [each for each in self._found[one.name] if each.case != one.case]
        usual = Expected.of(others, "other scans", self._intensities)
        return None if usual is None else replace(usual, at_edge=0.0)  # all scans of a batch may be cut off


@dataclass(frozen=True)
class Warnings:
    """Warnings about one class in one predicted scan.

    Attributes:
        unusual: deviations from the reference cases, as text that follows the name of the class.
        at_edge: whether the class touches the edge of the scan, although this is rare in the reference cases.

    Example:
        >>> Warnings(at_edge=True).words
        ['touches the edge of the scan and may be cut off']
    """

    unusual: Sequence[str] = field(default_factory=list)
    at_edge: bool = False

    @property
    def words(self) -> list[str]:
        """All warnings as text that follows the name of the class."""
        return [*self.unusual, *([EDGE] if self.at_edge else [])]


def warnings_of(found: Structure, usual: Expected | None) -> Warnings:
    """Return the warnings about a class in a predicted scan.

    Args:
        found: measurements of the class in the scan.
        usual: expected measurements. With None, the function checks only whether the class touches the edge of the
            scan.

    Example:
        >>> cases = [Structure(f"case_{i}", "liver", 1400.0 + i) for i in range(12)]
        >>> usual = Expected.of(cases, "training cases", intensities=True)
        >>> warnings_of(Structure("scan", "liver", 90.0), usual).words
        ['has a volume of 90 ml, below all of the 12 training cases (1400 to 1411 ml)']
    """
    at_edge = found.touches_edge and (usual is None or usual.at_edge <= _RARELY_AT_EDGE)
    return Warnings([] if usual is None else list(_deviations(found, usual)), at_edge)


def _deviations(found: Structure, usual: Expected) -> Iterator[str]:
    if found.volume_ml == 0:
        if usual.present >= _USUALLY_PRESENT:
            yield f"is missing, but present in {usual.present:.0%} of {usual.cases}"
        return
    if usual.num_present == 0:
        yield f"is present, but in none of {usual.cases}"
    values = (
        (found.volume_ml, usual.volume_ml, "a volume of {} ml", " ml"),
        (found.components, usual.components, "{} component" if found.components == 1 else "{} components", ""),
        (found.mean_intensity, usual.mean_intensity, "a mean intensity of {}", ""),
    )
    for value, spread, template, unit in values:
        if value is not None and spread is not None and spread.is_far_out(value):
            comparison = spread.compared(value, usual.those_with_it, unit)
            yield f"has {template.format(in_short(value))}, {comparison}"


def of_all_scans(found: Sequence[Structure], of_training: Mapping[str, Expected]) -> Iterator[str]:
    """Yield warnings about deviations from the training cases that most scans of a batch share.

    A warning is given for a class that is usually present but missing in most scans, and for a class whose volumes are
    mostly below or mostly above those of all training cases.

    Args:
        found: measurements of all classes in all scans.
        of_training: expected measurements by class, from the training cases.

    Yields:
        one complete sentence per warning; nothing for classes with fewer than five scans

    Example:
        >>> cases = [Structure(f"case_{i}", "liver", 1400.0 + i) for i in range(12)]
        >>> usual = {"liver": Expected.of(cases, "training cases", intensities=True)}
        >>> list(of_all_scans([Structure(f"scan_{i}", "liver", 0.0) for i in range(5)], usual))
        ['liver is missing in 5 of 5 scans, but present in 100% of the 12 training cases.']
    """
    for name, usual in of_training.items():
        scans = [one for one in found if one.name == name]
        volumes = sorted(one.volume_ml for one in scans if one.volume_ml > 0)
        if len(scans) < _MIN_SCANS:
            continue
        if usual.present >= _USUALLY_PRESENT and len(volumes) < len(scans) / 2:
            missing = f"is missing in {len(scans) - len(volumes)} of {len(scans)} scans"
            yield f"{name} {missing}, but present in {usual.present:.0%} of {usual.cases}."
        if usual.volume_ml is None or len(volumes) < _MIN_SCANS:
            continue
        smallest, largest = usual.volume_ml.values[0], usual.volume_ml.values[-1]
        num_above, num_below = sum(one > largest for one in volumes), sum(one < smallest for one in volumes)
        for direction, count in (("above", num_above), ("below", num_below)):
            if count > len(volumes) / 2:
                median = f"median {in_short(statistics.median(volumes))} ml; training cases {usual.volume_ml.ends} ml"
                which = f"{count} of {len(volumes)} volumes of {name}"
                yield f"{which} are {direction} all of {usual.those_with_it} ({median})."


def unchecked(expected: Mapping[str, Expected | None], intensities: bool) -> Iterator[str]:
    """Yield sentences that say which checks of the predictions were not possible, and why.

    Args:
        expected: expected measurements by class; None if there are too few reference cases.
        intensities: whether intensities are comparable between scans.

    Yields:
        complete sentences; nothing if everything could be checked

    Example:
        >>> next(unchecked({}, intensities=False)).partition(",")[0]
        'Intensities were not compared: they have no common scale'
    """
    unknown = [name for name, usual in expected.items() if usual is None]
    if unknown:
        yield (
            f"Presence, volume and components were not checked for {', '.join(unknown)}: fewer than ten training cases "
            "and fewer than ten other scans."
        )
    uncounted = [name for name, usual in expected.items() if usual and usual.volume_ml and usual.components is None]
    if uncounted:
        yield f"Components were not checked for {', '.join(uncounted)}: training_cases.csv does not list them."
    if not intensities:
        yield (
            "Intensities were not compared: they have no common scale, because `intensity` does not clip them (as "
            "usual for MR)."
        )
        return
    means = [name for name, usual in expected.items() if usual and usual.volume_ml and usual.mean_intensity is None]
    if means:
        yield f"Intensities were not compared for {', '.join(means)}: fewer than ten reference cases have them."
