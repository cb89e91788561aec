"""What a training's cases let expect of a scan, and what of a prediction is then worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segbundle.reports.structures import Structure

_USUAL = 0.9
_ENOUGH = 10
_FAR_OUT = 3.0
_LEAST_VOLUME = float(np.log(2))
_LEAST_PARTS = float(np.log(3))
"""How far from the quartiles something is at least before it is far out: twice as large, three times as many parts."""
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

        Far out is more than three interquartile ranges beyond the quartiles (Tukey, Exploratory Data Analysis, 1977).
        With fewer than ten values, which have no quartiles to speak of, it is more than the least distance beyond the
        smallest and the largest.

        Args:
            values: positive, if `least` is given.
            least: take logarithms, as values are skewed, and this as the least distance to a limit; None for the values
                as they are, and their whole range as that distance.
        """
        ordered = sorted(values)
        if not ordered:
            return None
        scaled = np.asarray(ordered) if least is None else np.log(ordered)
        many = len(ordered) >= _ENOUGH
        first, third = np.percentile(scaled, [25, 75]) if many else (scaled[0], scaled[-1])
        smallest_reach = scaled[-1] - scaled[0] if least is None else least
        reach = max(_FAR_OUT * (third - first), smallest_reach) if many else smallest_reach
        limits = np.array([first - reach, third + reach])
        low, high = limits if least is None else np.exp(limits)
        return cls(ordered, float(low), float(high))

    def is_far_out(self, value: float) -> bool:
        """Whether a value is beyond a limit."""
        return not self.low <= value <= self.high

    def compared(self, value: float, what: str, unit: str = "", own: bool = False) -> str:
        """In words, how a value compares with these: "more than in any of the 12 training cases (1 to 3 ml)".

        Args:
            value: one that is far out.
            what: where the values are from.
            unit: of the values.
            own: whether the value is one of them.
        """
        others = list(self.values)
        if own:
            others.remove(value)
        above = value > self.high
        as_far = sum(other >= value if above else other <= value for other in others)
        which = (f"all but {as_far}" if as_far else "any") + (" other" if own else "")
        which += "s" if own and as_far > 1 else ""
        most = f" ({others[0]:.3g} to {others[-1]:.3g}{unit})" if others else ""
        return f"{'more' if above else 'less'} than in {which} of {what}{most}"


@dataclass(frozen=True)
class Expected:
    """What other cases let expect of a class.

    Attributes:
        source: which cases these are.
        from_training: whether the model was trained on them.
        num_cases: in how many of them somebody or something looked for it.
        present: in which part of them it is.
        at_edge: in which part of those that have it, it touches the edge.
        volume_ml, components, mean_intensity: of those that have it; None where nothing is known.
    """

    source: str
    from_training: bool
    num_cases: int
    present: float
    at_edge: float = 0.0
    volume_ml: Spread | None = None
    components: Spread | None = None
    mean_intensity: Spread | None = None

    @classmethod
    def of(cls, structures: Sequence[Structure], from_training: bool, intensities: bool = True) -> Expected:
        """From the same class in several cases; at least one.

        Args:
            structures: the class in each of them.
            from_training: whether they are training cases, or other scans of the same predictions.
            intensities: whether those of different scans can be compared; ten of them are needed.
        """
        there = [one for one in structures if one.volume_ml > 0]
        parts = Spread.of([float(one.components) for one in there if one.components], _LEAST_PARTS)
        means = [one.mean_intensity for one in there if one.mean_intensity is not None]
        return cls(
            f"the {len(structures)} training cases" if from_training else f"these {len(structures)} scans",
            from_training,
            len(structures),
            len(there) / len(structures),
            sum(one.touches_edge for one in there) / max(len(there), 1) if from_training else 0.0,  # or all may be cut
            Spread.of([one.volume_ml for one in there], _LEAST_VOLUME),
            None if parts is None else replace(parts, low=0.0),  # to be in fewer parts is nothing to worry about
            Spread.of(means) if intensities and len(means) >= _ENOUGH else None,
        )

    @property
    def those_with_it(self) -> str:
        """The cases that have the class, in words."""
        return self.source if self.present == 1 else f"{self.source} that have it"


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


def expectations(
    training: Sequence[Structure], found: Sequence[Structure], class_names: Sequence[str], intensities: bool = True
) -> dict[str, Expected]:
    """What to expect of each class: from ten training cases or more, or else from the predictions themselves.

    Args:
        training: classes of the cases that the model was trained on; may be empty.
        found: those of the predictions.
        class_names: without the background.
        intensities: whether those of different scans can be compared, as in CT and not in MR.
    """
    expected = {}
    for name in class_names:
        known, own = ([one for one in structures if one.name == name] for structures in (training, found))
        given = known if len(known) >= _ENOUGH else own
        if len(given) >= _ENOUGH:
            expected[name] = Expected.of(given, given is known, intensities)
    return expected


def warnings_of(found: Structure, expected: Mapping[str, Expected]) -> Warnings:
    """What somebody should look at in a prediction."""
    usual = expected.get(found.name)
    at_edge = found.touches_edge and (usual is None or usual.at_edge <= 1 - _USUAL)
    return Warnings([] if usual is None else list(_unusual(found, usual)), at_edge)


def _unusual(found: Structure, usual: Expected) -> Iterable[str]:
    if found.volume_ml == 0:
        if usual.present >= _USUAL:
            yield f"is missing, and is in {usual.present:.0%} of {usual.source}"
        return
    values = (
        (found.volume_ml, usual.volume_ml, "{} ml", " ml"),
        (found.components, usual.components, "{} parts", ""),
        (found.mean_intensity, usual.mean_intensity, "a mean intensity of {}", ""),
    )
    for value, spread, what, unit in values:
        if value is not None and spread is not None and spread.is_far_out(value):
            words = spread.compared(value, usual.those_with_it, unit, own=not usual.from_training)
            yield f"has {what.format(f'{value:.3g}')}, {words}"
