"""Charts of a report as SVG, whose colours and fonts are the page's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

_GOLDEN = 0.618034
_MOST_DOTS = 6000
_WHISKERS = 1.5
_FEW_DECADES = 3
_SCALE = 1.3
"""How much larger than they are drawn charts may become where there is room."""
_MOST_STYLES = 21
_LONGEST_NAME = 32
_ENOUGH_FOR_LIMITS = 3
_FONT = 7.0
"""Width of a letter at the page's size of labels, about."""


@dataclass(frozen=True)
class Point:
    """A value with the case that it belongs to."""

    case: str
    value: float
    at: float = 0.0


@dataclass(frozen=True)
class Figure:
    """A chart, and what it shows in words."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Line:
    """Values over epochs, as (epoch, value), what they are called, and what lines of one style have in common."""

    key: str
    title: str
    values: Sequence[tuple[float, float]]


@dataclass
class _Drawing:
    """An SVG in the making, with a plot area that maps values to places."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    logarithmic: bool = False  # to the right; x_range then holds logarithms to base 10
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Where a value lies to the right."""
        low, high = self.x_range
        value = math.log10(value) if self.logarithmic else value
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Where a value lies downwards."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "middle") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def dot(self, x: float, y: float, words: str, kind: str = "dot") -> None:
        self.parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(words)}</title></circle>'
        )

    def x_axis(self, label: str) -> None:
        """Ticks, a grid and a label below the plot."""
        below = self.height - self.bottom
        for tick in _ticks(*self.x_range) if not self.logarithmic else _logarithmic_ticks(*self.x_range):
            self.line(self.x(tick), self.top, self.x(tick), below, "grid")
            self.text(self.x(tick), below + 14, _short(tick))
        self.text((self.left + self.width - self.right) / 2, self.height - 4, label)

    def y_axis(self, label: str) -> None:
        """Ticks, a grid and a label to the left of the plot."""
        for tick in _ticks(*self.y_range):
            self.line(self.left, self.y(tick), self.width - self.right, self.y(tick), "grid")
            self.text(self.left - 5, self.y(tick) + 4, _short(tick), "end")
        self.text(self.left, self.top - 6, label, "start")

    def svg(self, title: str) -> Markup:
        """The whole drawing."""
        box = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" style="max-width:{_SCALE * self.width:.0f}px"'
        head = f'<svg {box} role="img">'
        return Markup(f"{head}<title>{escape(title)}</title>{''.join(self.parts)}</svg>")


def strip_plot(
    title: str,
    label: str,
    groups: Mapping[str, Sequence[Point]],
    one: str = "case",
    differences: bool = False,
    logarithmic: bool = False,
) -> Figure:
    """A row per group, under its name: every value as a dot, the quartiles as a box, the median as a line across it.

    Of thousands of values only those more than 1.5 interquartile ranges beyond the quartiles are drawn, as dots beyond
    the whiskers of a box plot (Tukey, Exploratory Data Analysis, 1977).

    Args:
        title: for those who cannot see it.
        label: of the axis of values.
        groups: values by name; at least one.
        one: what a value stands for.
        differences: draw a line at 0.
        logarithmic: whether the axis of values, all positive then, is.
    """
    row, values = 42.0, [point.value for points in groups.values() for point in points]
    names = [_shortened(name, _LONGEST_NAME) for name in groups]
    ends = [math.log10(end) if logarithmic else end for end in (min(values), max(values))]
    ends = [min(ends[0], 0.0), max(ends[1], 0.0)] if differences else ends
    drawing = _Drawing(
        480, row * len(groups) + 44, left=12, right=12, top=6, bottom=38,
        x_range=_widened(ends[0], ends[1]), logarithmic=logarithmic,
    )  # fmt: skip
    drawing.x_axis(label)
    if differences:
        drawing.line(drawing.x(0), drawing.top, drawing.x(0), drawing.height - drawing.bottom, "limit")
    every_dot = len(values) <= _MOST_DOTS
    for index, (name, points) in enumerate(zip(names, groups.values(), strict=True)):
        middle = drawing.top + row * (index + 1) - 14
        drawing.text(0, middle - 16, name if points else f"{name}: none", "start")
        if not points:
            continue
        first, median, third = np.percentile([point.value for point in points], [25, 50, 75])
        drawing.parts.append(
            f'<rect class="box" x="{drawing.x(first):.1f}" y="{middle - 10:.1f}" '
            f'width="{drawing.x(third) - drawing.x(first):.1f}" height="20"/>'
        )
        drawing.line(drawing.x(median), middle - 12, drawing.x(median), middle + 12, "median")
        if not every_dot:
            reach = _WHISKERS * (third - first)
            inside = [point.value for point in points if first - reach <= point.value <= third + reach]
            for start, end in ((min(inside), first), (third, max(inside))):
                drawing.line(drawing.x(start), middle, drawing.x(end), middle, "whisker")
            points = [point for point in points if not first - reach <= point.value <= third + reach]
        for place, point in enumerate(points):
            off = 16 * ((place * _GOLDEN) % 1 - 0.5)
            drawing.dot(drawing.x(point.value), middle + off, f"{point.case}: {point.value:.4g}")
    beyond = "" if every_dot else " more than 1.5 interquartile ranges beyond the others"
    return Figure(drawing.svg(title), f"A dot is a {one}{beyond}; boxes are quartiles, lines in them medians.")


def bland_altman(title: str, points: Sequence[Point]) -> Figure:
    """Differences of two measurements over their mean (Bland & Altman, Lancet 1986).

    With three cases or more, the 95 % limits of agreement are drawn as well: mean ± 1.96 standard deviations.

    Args:
        title: for those who cannot see it.
        points: `at` is the mean, `value` the difference, in ml; at least one.
    """
    values = np.array([point.value for point in points])
    bias = float(values.mean())
    limits: tuple[float, ...] = ()
    if len(values) >= _ENOUGH_FOR_LIMITS:
        spread = 1.96 * float(values.std(ddof=1))
        limits = (bias - spread, bias + spread)
    places = [point.at for point in points]
    y_range = _widened(min([*limits, *values, 0.0]), max([*limits, *values, 0.0]))
    drawing = _Drawing(
        340, 240, left=_room_for_ticks(y_range), right=12, top=24, bottom=38,
        x_range=_widened(min(places), max(places)), y_range=y_range,
    )  # fmt: skip
    drawing.x_axis("mean of prediction and reference, ml")
    drawing.y_axis("prediction − reference, ml")
    for value, kind in ((0.0, "zero"), (bias, "median"), *((limit, "limit") for limit in limits)):
        drawing.line(drawing.left, drawing.y(value), drawing.width - drawing.right, drawing.y(value), kind)
    for point in points:
        drawing.dot(drawing.x(point.at), drawing.y(point.value), f"{point.case}: {point.value:+.4g} ml")
    words = f"Mean difference {_short(_rounded(bias))} ml"
    if limits:
        words += f", limits of agreement {' to '.join(_short(_rounded(limit)) for limit in limits)} ml"
    return Figure(drawing.svg(title), f"{words}, {len(points)} {'case' if len(points) == 1 else 'cases'}.")


def curves(label: str, lines: Sequence[Line]) -> Markup:
    """Values over epochs; lines of different keys differ in dashes as well as in colour.

    An empty key is not shown. So many that colours and dashes repeat are not shown either, and their lines look alike.
    """
    keys = list(dict.fromkeys(line.key for line in lines))
    keys = keys if len(keys) <= _MOST_STYLES else [""]
    shown = [key for key in keys if key]
    xs = [x for line in lines for x, _ in line.values]
    ys = [y for line in lines for _, y in line.values]
    y_range = _widened(min(ys), max(ys))
    drawing = _Drawing(
        340, 240 + 16 * len(shown), left=_room_for_ticks(y_range), right=12, top=24, bottom=38 + 16 * len(shown),
        x_range=_widened(min(xs), max(xs)), y_range=y_range,
    )  # fmt: skip
    drawing.y_axis(label)
    below = drawing.height - drawing.bottom
    for tick in _ticks(*drawing.x_range):
        drawing.text(drawing.x(tick), below + 14, _short(tick))
    drawing.text((drawing.left + drawing.width - drawing.right) / 2, below + 28, "epoch")
    styles = {key: f"c{place % 7} d{place % 3}" for place, key in enumerate(keys)}
    for line in lines:
        places = " ".join(f"{drawing.x(x):.1f},{drawing.y(y):.1f}" for x, y in line.values)
        style, told = styles.get(line.key, ""), f"<title>{escape(line.title or label)}</title>"
        drawing.parts.append(f'<polyline class="curve {style}" points="{places}">{told}</polyline>')
        if len(line.values) == 1:
            drawing.dot(drawing.x(line.values[0][0]), drawing.y(line.values[0][1]), line.title, f"dot {style}")
    for place, key in enumerate(shown):
        low = below + 44 + 16 * place
        drawing.parts.append(f'<path class="curve {styles[key]}" d="M{drawing.left:.1f} {low - 4:.1f}h28"/>')
        drawing.text(drawing.left + 34, low, key, "start")
    return drawing.svg(f"{label} over epochs")


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range with some room at both ends, never empty."""
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with twice and five times them if these are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < _FEW_DECADES else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _room_for_ticks(y_range: tuple[float, float]) -> float:
    """Width of the labels of an axis at the left."""
    return 12 + _FONT * max((len(_short(tick)) for tick in _ticks(*y_range)), default=0)


def _rounded(value: float) -> float:
    """With three digits that tell something."""
    return float(f"{value:.3g}")


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _short(value: float) -> str:
    return f"{round(value, 10):g}".replace("-", "−")
