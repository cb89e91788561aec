"""What a training's cases let expect of a scan, and what of a prediction is then worth a look."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segbundle.results.structures import Structure

_USUAL = 0.9
_SELDOM = 0.1
_ENOUGH = 10
_SEVERAL = 5
_FAR_OUT = 3.0
_LEAST_VOLUME = 2.0
_LEAST_PARTS = 3.0
"""How many times larger, or more, than the quartile something is at least before it is far out."""
_ROUNDING = 1e-9
EDGE = "touches the scan's edge, and may be cut off"


@dataclass(frozen=True)
class Spread:
    """How a value is spread over other cases, and beyond what it is far out.

    Attributes:
        values: in ascending order.
        low, high: the limits.
    """

    values: Sequence[float]
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float], least: float | None = None) -> Spread | None:
        """From values of other cases; None without any.

        Far out is more than three interquartile ranges beyond the quartiles (Tukey, Exploratory Data Analysis, 1977),
        and at least a least distance. With fewer than ten values, which have no quartiles to speak of, it is more than
        that distance beyond the smallest and the largest.

        Args:
            values: positive, if `least` is given.
            least: take logarithms, as values are skewed, and this factor as the least distance; None for the values as
                they are, and their whole range as that distance.
        """
        ordered = sorted(values)
        if not ordered:
            return None
        scaled = np.asarray(ordered) if least is None else np.log(ordered)
        many = len(ordered) >= _ENOUGH
        first, third = np.percentile(scaled, [25, 75]) if many else (scaled[0], scaled[-1])
        smallest_reach = scaled[-1] - scaled[0] if least is None else np.log(least)
        reach = max(_FAR_OUT * (third - first), smallest_reach) if many else smallest_reach
        limits = np.array([first - reach, third + reach])
        low, high = limits if least is None else np.exp(limits)
        return cls(ordered, float(low), float(high))

    def is_far_out(self, value: float) -> bool:
        """Whether a value is beyond a limit."""
        return value < self.low - _ROUNDING * abs(self.low) or value > self.high + _ROUNDING * abs(self.high)

    def compared(self, value: float, what: str, unit: str = "") -> str:
        """In words, how a value that is far out compares: "more than in any of the 12 training cases (1 to 3 ml)"."""
        above = value > self.high
        as_far = sum(other >= value if above else other <= value for other in self.values)
        which = f"all but {as_far}" if as_far else "any"
        return f"{'more' if above else 'less'} than in {which} of {what} ({self.ends}{unit})"

    @property
    def ends(self) -> str:
        """The smallest and the largest, in words."""
        return " to ".join(dict.fromkeys(map(in_short, (self.values[0], self.values[-1]))))


def in_short(value: float) -> str:
    """A number with three digits that tell something, or all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Expected:
    """What other cases let expect of a class.

    Attributes:
        what: what the cases are.
        num_cases: in how many of them somebody or something looked for it.
        num_present: in how many of these it is.
        at_edge: in which part of those that have it, it touches the edge.
        volume_ml, components, mean_intensity: of those that have it; None where nothing is known.
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
        """From the same class in several cases; None if they are fewer than ten.

        Args:
            structures: the class in each of them.
            what: what the cases are.
            intensities: whether those of different scans can be compared; ten of them are needed.
        """
        if len(structures) < _ENOUGH:
            return None
        there = [one for one in structures if one.volume_ml > 0]
        parts = Spread.of([float(one.components) for one in there if one.components], _LEAST_PARTS)
        means = [one.mean_intensity for one in there if one.mean_intensity is not None]
        return cls(
            what,
            len(structures),
            len(there),
            sum(one.touches_edge for one in there) / max(len(there), 1),
            Spread.of([one.volume_ml for one in there], _LEAST_VOLUME),
            None if parts is None else replace(parts, low=math.floor(parts.values[0] / 2) + 0.5),  # half of the fewest
            Spread.of(means) if intensities and len(means) >= _ENOUGH else None,
        )

    @property
    def present(self) -> float:
        """In which part of the cases the class is."""
        return self.num_present / self.num_cases

    @property
    def cases(self) -> str:
        """The cases, in words."""
        return f"the {self.num_cases} {self.what}"

    @property
    def those_with_it(self) -> str:
        """The cases that have the class, in words."""
        return self.cases if self.num_present == self.num_cases else f"the {self.num_present} {self.what} that have it"


class Expectations:
    """What to expect of each class: from ten training cases or more, or else from the other scans that were predicted.

    Args:
        training: classes of the cases that the model was trained on; may be empty.
        found: those of the predictions.
        class_names: without the background.
        intensities: whether those of different scans can be compared, as in CT and not in MR.
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
        """What the training's cases, or else all of the predictions, let expect of a class."""
        own = self._found[name]
        usual = Expected.of(own, "scans themselves", self._intensities) if len(own) > _ENOUGH else None
        return self.of_training.get(name) or usual

    def of(self, one: Structure) -> Expected | None:
        """What the training's cases, or else the other predictions, let expect of a class in a scan."""
        if one.name in self.of_training:
            return self.of_training[one.name]
        others = [each for each in self._found[one.name] if each.case != one.case]
        usual = Expected.of(others, "other scans", self._intensities)
        return None if usual is None else replace(usual, at_edge=0.0)  # all of the predictions may be cut off


@dataclass(frozen=True)
class Warnings:
    """What of a structure somebody should look at.

    Attributes:
        unusual: in what it differs from other cases, in words.
        at_edge: whether it touches the scan's edge, and does not usually.
    """

    unusual: Sequence[str] = field(default_factory=list)
    at_edge: bool = False

    @property
    def words(self) -> list[str]:
        """All of it."""
        return [*self.unusual, *([EDGE] if self.at_edge else [])]


def warnings_of(found: Structure, usual: Expected | None) -> Warnings:
    """What somebody should look at in a prediction, given what is expected of the class."""
    at_edge = found.touches_edge and (usual is None or usual.at_edge <= _SELDOM)
    return Warnings([] if usual is None else list(_unusual(found, usual)), at_edge)


def _unusual(found: Structure, usual: Expected) -> Iterator[str]:
    if found.volume_ml == 0:
        if usual.present >= _USUAL:
            yield f"is missing, and is in {usual.present:.0%} of {usual.cases}"
        return
    if usual.num_present == 0:
        yield f"is there, and is in none of {usual.cases}"
    values = (
        (found.volume_ml, usual.volume_ml, "{} ml", " ml"),
        (found.components, usual.components, "{} part" if found.components == 1 else "{} parts", ""),
        (found.mean_intensity, usual.mean_intensity, "a mean intensity of {}", ""),
    )
    for value, spread, what, unit in values:
        if value is not None and spread is not None and spread.is_far_out(value):
            words = spread.compared(value, usual.those_with_it, unit)
            yield f"has {what.format(in_short(value))}, {words}"


def of_all_scans(found: Sequence[Structure], of_training: Mapping[str, Expected]) -> Iterator[str]:
    """What of all predictions together is not as in the training's cases, though single ones may pass, in sentences.

    Args:
        found: every class of every scan.
        of_training: what to expect of each class.
    """
    for name, usual in of_training.items():
        own = [one for one in found if one.name == name]
        volumes = sorted(one.volume_ml for one in own if one.volume_ml > 0)
        if len(own) < _SEVERAL:
            continue
        if usual.present >= _USUAL and len(volumes) < len(own) / 2:
            missing = f"is missing in {len(own) - len(volumes)} of {len(own)} scans"
            yield f"{name} {missing}, and is in {usual.present:.0%} of {usual.cases}."
        if usual.volume_ml is None or len(volumes) < _SEVERAL:
            continue
        least, most = usual.volume_ml.values[0], usual.volume_ml.values[-1]
        larger, smaller = sum(one > most for one in volumes), sum(one < least for one in volumes)
        for beyond, count in (("larger", larger), ("smaller", smaller)):
            if count > len(volumes) / 2:
                median = f"their median is {in_short(statistics.median(volumes))} ml, there {usual.volume_ml.ends} ml"
                which = f"{count} of the {len(volumes)} volumes of {name}"
                yield f"{which} are {beyond} than in any of {usual.those_with_it} ({median})."


def unchecked(expected: Mapping[str, Expected | None], intensities: bool) -> Iterator[str]:
    """What could not be compared with other cases, in sentences.

    Args:
        expected: of each class.
        intensities: as in `Expectations`.
    """
    nothing = [name for name, usual in expected.items() if usual is None]
    if nothing:
        yield (
            f"Whether they are missing, how large they are and in how many parts was not checked of "
            f"{', '.join(nothing)}: there are fewer than ten training cases, and fewer than ten other scans."
        )
    parts = [name for name, usual in expected.items() if usual and usual.volume_ml and usual.components is None]
    if parts:
        yield f"In how many parts they are was not checked of {', '.join(parts)}: training_cases.csv does not tell."
    if not intensities:
        yield "Intensities were not compared: where a task clips none, as in MR, they have no common scale."
        return
    means = [name for name, usual in expected.items() if usual and usual.volume_ml and usual.mean_intensity is None]
    if means:
        yield f"Intensities were not compared of {', '.join(means)}: fewer than ten are known."
