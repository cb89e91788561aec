"""SVG charts that take their colors and fonts from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

_GOLDEN_RATIO = 0.618034
_MAX_DOTS = 6000
_WHISKER_IQRS = 1.5
_FEW_DECADES = 3
_MAX_SCALE = 1.3
"""Largest magnification of a chart on a wide screen."""
_MAX_STYLES = 21
_MAX_NAME_LENGTH = 32
_MIN_POINTS_FOR_LIMITS = 3
_MAX_STEPS = 5
"""Largest number of steps between the ticks of an axis."""
_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15)
"""Digits of the step between ticks."""
_LETTER_WIDTH = 7.0
"""Approximate width of a letter in axis labels."""


@dataclass(frozen=True)
class Point:
    """Value of one case in a chart.

    Attributes:
        case: name of the case, for the tooltip.
        value: value of the case.
        at: position on the x-axis of a Bland-Altman plot; not used in other charts.

    Example:
        >>> Point("case_1", 0.9).value
        0.9
    """

    case: str
    value: float
    at: float = 0.0


@dataclass(frozen=True)
class Figure:
    """Chart with its caption.

    Attributes:
        svg: chart as SVG.
        caption: caption as plain text.

    Example:
        >>> Figure(Markup("<svg></svg>"), "An empty chart.").caption
        'An empty chart.'
    """

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Line:
    """Curve over epochs.

    Attributes:
        key: legend entry; curves with the same key have the same color and dash pattern.
        title: tooltip; if empty, the label of the y axis is shown.
        values: pairs of (epoch, value).

    Example:
        >>> Line("liver", "fold 0 liver", [(1, 0.5), (2, 0.7)]).key
        'liver'
    """

    key: str
    title: str
    values: Sequence[tuple[float, float]]


@dataclass
class _Drawing:
    """SVG under construction, with a plot area that maps values to coordinates."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    logarithmic: bool = False  # x axis; x_range is then in decades
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Return the x coordinate of a value."""
        low, high = self.x_range
        value = math.log10(value) if self.logarithmic else value
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, content: str, anchor: str = "middle") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>')

    def dot(self, x: float, y: float, tooltip: str, kind: str = "dot") -> None:
        self.parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(tooltip)}</title></circle>'
        )

    def x_axis(self, label: str) -> None:
        """Draw grid, tick labels and axis label below the plot."""
        below = self.height - self.bottom
        for tick in _ticks(*self.x_range) if not self.logarithmic else _logarithmic_ticks(*self.x_range):
            self.line(self.x(tick), self.top, self.x(tick), below, "grid")
            self.text(self.x(tick), below + 14, _short(tick))
        self.text((self.left + self.width - self.right) / 2, self.height - 4, label)

    def y_axis(self, label: str) -> None:
        """Draw grid, tick labels and axis label at the left of the plot."""
        for tick in _ticks(*self.y_range):
            self.line(self.left, self.y(tick), self.width - self.right, self.y(tick), "grid")
            self.text(self.left - 5, self.y(tick) + 4, _short(tick), "end")
        self.text(self.left, self.top - 6, label, "start")

    def svg(self, title: str) -> Markup:
        """Return the finished SVG."""
        box = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" style="max-width:{_MAX_SCALE * self.width:.0f}px"'
        head = f'<svg {box} role="img">'
        return Markup(f"{head}<title>{escape(title)}</title>{''.join(self.parts)}</svg>")


def strip_plot(
    title: str,
    label: str,
    groups: Mapping[str, Sequence[Point]],
    one: str = "case",
    differences: bool = False,
    logarithmic: bool = False,
    styles: Mapping[str, str] | None = None,
    compact: bool = False,
) -> Figure:
    """Return a strip plot with one row per group: values as dots, quartiles as a box, the median as a line.

    For more than 6000 values in total, a box plot is returned instead: only values more than 1.5 interquartile ranges
    beyond the quartiles are drawn as dots, and whiskers extend to the other values (Tukey, Exploratory Data Analysis,
    1977).

    Args:
        title: description for screen readers.
        label: label of the axis of values.
        groups: values by name of the group. At least one group must not be empty.
        one: singular noun for the caption that names what a dot represents. Default: "case".
        differences: whether values are differences. The axis then includes 0, marked by a line. Default: False.
        logarithmic: whether the axis is logarithmic; all values must then be positive. Default: False.
        styles: CSS class of the dots by name of the group, for groups with a color. Default: none.
        compact: whether rows are half as high, with the names beside them, for many groups. Default: False.

    Example:
        >>> plot = strip_plot("Dice per class", "Dice", {"liver": [Point("case_1", 0.9), Point("case_2", 0.8)]})
        >>> plot.caption
        'Each dot is a case; boxes show quartiles and medians.'
    """
    row, values = 20.0 if compact else 42.0, [point.value for points in groups.values() for point in points]
    names = [_shorten(name, _MAX_NAME_LENGTH) for name in groups]
    left = 12 + (_LETTER_WIDTH * max(map(len, names)) if compact else 0.0)
    ends = [math.log10(end) if logarithmic else end for end in (min(values), max(values))]
    ends = [min(ends[0], 0.0), max(ends[1], 0.0)] if differences else ends
    drawing = _Drawing(
        480, row * len(groups) + 44, left=left, right=12, top=6, bottom=38,
        x_range=_with_margin(ends[0], ends[1]), logarithmic=logarithmic,
    )  # fmt: skip
    drawing.x_axis(label)
    if differences:
        drawing.line(drawing.x(0), drawing.top, drawing.x(0), drawing.height - drawing.bottom, "limit")
    all_dots, half = len(values) <= _MAX_DOTS, 6.0 if compact else 10.0
    kinds = [f"dot {(styles or {}).get(name, '')}".rstrip() for name in groups]
    for index, (name, kind, points) in enumerate(zip(names, kinds, groups.values(), strict=True)):
        middle = drawing.top + row * (index + 1) - (10 if compact else 14)
        if compact:
            drawing.text(left - 8, middle + 4, name, "end")
        else:
            drawing.text(0, middle - 16, name if points else f"{name}: none", "start")
        if not points:
            continue
        first, median, third = np.percentile([point.value for point in points], [25, 50, 75])
        drawing.parts.append(
            f'<rect class="box" x="{drawing.x(first):.1f}" y="{middle - half:.1f}" '
            f'width="{drawing.x(third) - drawing.x(first):.1f}" height="{2 * half:.0f}"/>'
        )
        drawing.line(drawing.x(median), middle - half - 2, drawing.x(median), middle + half + 2, "median")
        if not all_dots:
            reach = _WHISKER_IQRS * (third - first)
            inside = [point.value for point in points if first - reach <= point.value <= third + reach]
            for start, end in ((min(inside), first), (third, max(inside))):
                drawing.line(drawing.x(start), middle, drawing.x(end), middle, "whisker")
            points = [point for point in points if not first - reach <= point.value <= third + reach]
        for number, point in enumerate(points):
            jitter = 1.6 * half * ((number * _GOLDEN_RATIO) % 1 - 0.5)
            drawing.dot(drawing.x(point.value), middle + jitter, f"{point.case}: {point.value:.4g}", kind)
    outliers = "" if all_dots else " more than 1.5 interquartile ranges beyond the quartiles"
    return Figure(drawing.svg(title), f"Each dot is a {one}{outliers}; boxes show quartiles and medians.")


def bland_altman(title: str, points: Sequence[Point], style: str = "") -> Figure:
    """Return a Bland-Altman plot of volumes: difference between prediction and reference over their mean.

    Lines show the mean difference and, for three or more cases, the 95% limits of agreement: mean ± 1.96 standard
    deviations (Bland and Altman, Lancet 1986).

    Args:
        title: description for screen readers.
        points: one per case, at least one. `at` is the mean of the two volumes in ml, and `value` is the predicted
            volume minus the reference volume in ml.
        style: CSS class of the dots. Default: none.

    Example:
        >>> bland_altman("Volumes", [Point("a", 1.0, 10.0), Point("b", 2.0, 10.0), Point("c", 3.0, 10.0)]).caption
        'Mean difference 2 ml, limits of agreement 0.04 to 3.96 ml, 3 cases.'
    """
    values = np.array([point.value for point in points])
    bias = float(values.mean())
    limits: tuple[float, ...] = ()
    if len(values) >= _MIN_POINTS_FOR_LIMITS:
        spread = 1.96 * float(values.std(ddof=1))
        limits = (bias - spread, bias + spread)
    means = [point.at for point in points]
    y_range = _with_margin(min([*limits, *values, 0.0]), max([*limits, *values, 0.0]))
    drawing = _Drawing(
        340, 240, left=_tick_label_width(y_range), right=12, top=24, bottom=38,
        x_range=_with_margin(min(means), max(means)), y_range=y_range,
    )  # fmt: skip
    drawing.x_axis("mean of prediction and reference (ml)")
    drawing.y_axis("prediction − reference (ml)")
    for value, kind in ((0.0, "zero"), (bias, "median"), *((limit, "limit") for limit in limits)):
        drawing.line(drawing.left, drawing.y(value), drawing.width - drawing.right, drawing.y(value), kind)
    for point in points:
        drawing.dot(
            drawing.x(point.at), drawing.y(point.value), f"{point.case}: {point.value:+.4g} ml", f"dot {style}".rstrip()
        )
    caption = f"Mean difference {_short(_to_three_digits(bias))} ml"
    if limits:
        caption += f", limits of agreement {' to '.join(_short(_to_three_digits(limit)) for limit in limits)} ml"
    return Figure(drawing.svg(title), f"{caption}, {len(points)} {'case' if len(points) == 1 else 'cases'}.")


def curves(label: str, lines: Sequence[Line], colors: Mapping[str, str] | None = None) -> Markup:
    """Return a chart of curves over epochs, in which each key has its own color and dash pattern.

    Args:
        label: label of the y axis.
        lines: one or more curves, each with at least one value. A curve with an empty key has no legend entry. With
            more than 21 keys, the legend is omitted, and all curves without `colors` have the same style.
        colors: CSS class that sets the color of a curve, by key. Default: a built-in sequence of colors.

    Example:
        >>> "<title>loss over epochs</title>" in curves("loss", [Line("", "", [(1, 0.9), (2, 0.5)])])
        True
    """
    keys = list(dict.fromkeys(line.key for line in lines))
    styles = {key: f"{(colors or {}).get(key) or f'c{number % 7}'} d{number % 3}" for number, key in enumerate(keys)}
    if len(keys) > _MAX_STYLES:
        keys, styles = [""], dict(colors or {})
    shown = [key for key in keys if key]
    xs = [x for line in lines for x, _ in line.values]
    ys = [y for line in lines for _, y in line.values]
    y_range = _with_margin(min(ys), max(ys))
    drawing = _Drawing(
        340, 240 + 16 * len(shown), left=_tick_label_width(y_range), right=12, top=24, bottom=38 + 16 * len(shown),
        x_range=_with_margin(min(xs), max(xs)), y_range=y_range,
    )  # fmt: skip
    drawing.y_axis(label)
    below = drawing.height - drawing.bottom
    for tick in _ticks(*drawing.x_range):
        drawing.text(drawing.x(tick), below + 14, _short(tick))
    drawing.text((drawing.left + drawing.width - drawing.right) / 2, below + 28, "epoch")
    for line in lines:
        coordinates = " ".join(f"{drawing.x(x):.1f},{drawing.y(y):.1f}" for x, y in line.values)
        style, tooltip = styles.get(line.key, ""), f"<title>{escape(line.title or label)}</title>"
        drawing.parts.append(f'<polyline class="curve {style}" points="{coordinates}">{tooltip}</polyline>')
        if len(line.values) == 1:
            drawing.dot(drawing.x(line.values[0][0]), drawing.y(line.values[0][1]), line.title, f"dot {style}")
    for number, key in enumerate(shown):
        baseline = below + 44 + 16 * number
        drawing.parts.append(f'<path class="curve {styles[key]}" d="M{drawing.left:.1f} {baseline - 4:.1f}h28"/>')
        drawing.text(drawing.left + 34, baseline, key, "start")
    return drawing.svg(f"{label} over epochs")


def _with_margin(low: float, high: float) -> tuple[float, float]:
    """Return a range with a margin at both ends; it is never empty."""
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return the multiples of a round step in a range, with at most five steps; usually those of matplotlib."""
    smallest = (high - low) / _MAX_STEPS
    power = 10.0 ** math.floor(math.log10(smallest))
    step = next(digits * power for digits in _ROUND if digits * power >= smallest * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten in a range, or 1, 2 and 5 times the powers if the range is short."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < _FEW_DECADES else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _tick_label_width(y_range: tuple[float, float]) -> float:
    return 12 + _LETTER_WIDTH * max((len(_short(tick)) for tick in _ticks(*y_range)), default=0)


def _to_three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _shorten(name: str, max_length: int) -> str:
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def _short(value: float) -> str:
    return f"{round(value, 10):g}".replace("-", "−")
