"""From values to a page that needs no other file: templates, style and script in one, everything else escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segbundle.metrics import Status
from segbundle.report.colors import css
from segbundle.terminal import counted

_T = TypeVar("_T")
_TEMPLATES = Path(__file__).parent / "templates"
_MOST_BYTES, _LEAST_BYTES, _OF_A_PAGE, _OF_A_ROW = 7e6, 1e6, 9.4e6, 600
"""Of a page's pictures at most and at least, of a page with a hundred cases, and of all that it tells of a row."""
LABELS = {
    Status.SCORED: "scored",
    Status.MISSED: "missed",
    Status.FALSE_POSITIVE: "false positive",
    Status.TRUE_ABSENT: "absent",
    Status.UNANNOTATED: "not annotated",
}
"""What readers call a status."""


def render(template: str, **values: Any) -> str:
    """A page from one of our templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    filters = (number, signed, interval, bootstrap, signed_bootstrap, plain, p_value)
    environment.filters.update({each.__name__: each for each in filters})
    style, script = (Markup((_TEMPLATES / f"report.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    statuses = [{"value": each.value, "key": f"n_{each.value}", "label": label} for each, label in LABELS.items()]
    return environment.get_template(template).render(
        style=style + Markup(css()), script=script, statuses=statuses, **values
    )


def room_for_pictures(num_rows: int) -> float:
    """Bytes that a page's pictures may take, so that with a hundred cases it stays below ten megabytes.

    Args:
        num_rows: cases times classes, each with a row of the table and dots in the plots.
    """
    return min(max(_OF_A_PAGE - _OF_A_ROW * num_rows, _LEAST_BYTES), _MOST_BYTES)


def progress(items: Collection[_T], what: str) -> Iterable[_T]:
    """Yield cases and show how many are done."""
    return counted(items, len(items), what, "case", leave=False)


def as_yaml(values: Mapping[str, Any]) -> str:
    """A configuration as people would write it."""
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def number(value: float | None, digits: int) -> str:
    """A number for people, or a dash."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: of −0.0 the sign goes


def signed(value: float | None, digits: int) -> str:
    """A difference for people, with its sign, or a dash."""
    words = number(value, digits)
    return f"+{words}" if value is not None and round(value, digits) > 0 else words


def interval(values: Sequence[float | None], digits: int) -> str:
    """A range for people, or a dash."""
    return "–" if values[0] is None else " to ".join(number(value, digits) for value in values)


def bootstrap(values: Sequence[float | None], digits: int) -> str:
    """An interval for people; a dash also where all values were the same, of which resampling tells nothing."""
    return "–" if values[0] == values[1] else interval(values, digits)


def signed_bootstrap(values: Sequence[float | None], digits: int) -> str:
    """The same of differences."""
    return "–" if values[0] == values[1] else " to ".join(signed(value, digits) for value in values)


def p_value(value: float | None) -> str:
    """A probability with four digits, as far as they tell something, or a dash."""
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, 4)


def plain(value: float | None) -> str:
    """A number with as many digits as it has, or a dash."""
    return "–" if value is None else f"{value:g}"
