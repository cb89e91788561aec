"""Rendering of self-contained HTML pages: templates with inlined CSS and JavaScript, and formatting of numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segbundle.metrics import Status
from segbundle.report.colors import css
from segbundle.segmentations.palette import Rgb
from segbundle.terminal import counted

_T = TypeVar("_T")
_TEMPLATES = Path(__file__).parent / "templates"
_PAGE_BYTES, _BYTES_PER_ROW = 9.4e6, 600
"""Target size of a page, and the size of all text and dots of one table row."""
_MIN_PICTURE_BYTES, _MAX_PICTURE_BYTES = 1e6, 7e6
LABELS = {
    Status.SCORED: "scored",
    Status.MISSED: "missed",
    Status.FALSE_POSITIVE: "false positive",
    Status.TRUE_ABSENT: "absent",
    Status.UNANNOTATED: "not annotated",
}
"""Status as shown on pages."""


def render(template: str, colors: Sequence[Rgb] = (), **values: Any) -> str:
    """Return an HTML page from a template, with CSS and JavaScript inlined and all values escaped.

    Args:
        template: file name in `templates/`.
        colors: color of each foreground class. Default: none.
        values: variables of the template. `Markup` is not escaped.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.

    Example:
        >>> "<title>a &amp; b</title>" in render("base.html", title="a & b")
        True
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    filters = (number, signed, interval, bootstrap, signed_bootstrap, plain, p_value)
    environment.filters.update({each.__name__: each for each in filters})
    style, script = (Markup((_TEMPLATES / f"report.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    statuses = [{"value": each.value, "key": f"n_{each.value}", "label": label} for each, label in LABELS.items()]
    return environment.get_template(template).render(
        style=style + Markup(css(colors)), script=script, statuses=statuses, **values
    )


def room_for_pictures(num_rows: int) -> float:
    """Return the size budget in bytes for the slice images of a report page.

    With this budget, the page of a run with 100 cases is smaller than 10 MB.

    Args:
        num_rows: number of rows in the table of cases, that is, cases times classes.

    Returns:
        number of bytes, from 1e6 to 7e6

    Example:
        >>> room_for_pictures(100), room_for_pictures(10**6)
        (7000000.0, 1000000.0)
    """
    return min(max(_PAGE_BYTES - _BYTES_PER_ROW * num_rows, _MIN_PICTURE_BYTES), _MAX_PICTURE_BYTES)


def progress(items: Collection[_T], what: str) -> Iterable[_T]:
    """Return an iterator over items that shows a progress bar.

    Args:
        items: one item per case.
        what: label of the progress bar.

    Example:
        >>> list(progress(["case_1", "case_2"], "report"))
        ['case_1', 'case_2']
    """
    return counted(items, len(items), what, "case", leave=False)


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return a configuration as YAML text, with each innermost list or mapping on one line.

    Args:
        values: configuration of plain values.

    Example:
        >>> print(as_yaml({"spacing": [1.0, 1.0, 3.0]}), end="")
        spacing: [1.0, 1.0, 3.0]
    """
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def number(value: float | None, digits: int) -> str:
    """Return a number with a fixed number of decimals and a typographic minus, or a dash for None.

    Args:
        value: number to format.
        digits: number of decimals.

    Example:
        >>> number(-0.125, 2), number(None, 2)
        ('−0.12', '–')
    """
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 turns −0.0 into 0.0


def signed(value: float | None, digits: int) -> str:
    """Return a difference as text with its sign (without a sign if it rounds to 0), or a dash for None.

    Args:
        value: difference to format.
        digits: number of decimals.

    Example:
        >>> signed(0.5, 2), signed(0.0, 2)
        ('+0.50', '0.00')
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and round(value, digits) > 0 else text


def interval(values: Sequence[float | None], digits: int) -> str:
    """Return a range as text, such as "0.1 to 0.2", or a dash if the first value is None.

    Args:
        values: lower and upper limit; [None] for an unknown range.
        digits: number of decimals.

    Example:
        >>> interval([0.1, 0.2], 1)
        '0.1 to 0.2'
    """
    return "–" if values[0] is None else " to ".join(number(value, digits) for value in values)


def bootstrap(values: Sequence[float | None], digits: int) -> str:
    """Return a bootstrap interval as text, or a dash if the interval is unknown or its limits are equal.

    Args:
        values: lower and upper limit; [None, None] for an unknown interval.
        digits: number of decimals.

    Example:
        >>> bootstrap([0.8, 0.9], 2), bootstrap([1.0, 1.0], 2)
        ('0.80 to 0.90', '–')
    """
    return "–" if values[0] == values[1] else interval(values, digits)


def signed_bootstrap(values: Sequence[float | None], digits: int) -> str:
    """Return a bootstrap interval as text with signs, or a dash if the interval is unknown or its limits are equal.

    Args:
        values: lower and upper limit; [None, None] for an unknown interval.
        digits: number of decimals.

    Example:
        >>> signed_bootstrap([-0.1, 0.2], 1)
        '−0.1 to +0.2'
    """
    return "–" if values[0] == values[1] else " to ".join(signed(value, digits) for value in values)


def p_value(value: float | None) -> str:
    """Return a p-value with four decimals, "< 0.0001" for smaller values, or a dash for None.

    Args:
        value: the p-value.

    Example:
        >>> p_value(0.03125), p_value(1e-6)
        ('0.0312', '< 0.0001')
    """
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, 4)


def plain(value: float | None) -> str:
    """Return a number without trailing zeros, or a dash for None.

    Args:
        value: number to format.

    Example:
        >>> plain(1.0), plain(2.5)
        ('1', '2.5')
    """
    return "–" if value is None else f"{value:g}"
