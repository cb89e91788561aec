"""From values to a page that needs no other file: templates, style and script in one, everything else escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbundle.metrics import Status

_TEMPLATES = Path(__file__).parent / "templates"
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
    environment.filters.update(number=number, interval=interval, plain=plain, p_value=p_value)
    style, script = (Markup((_TEMPLATES / f"report.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    statuses = [{"value": each.value, "key": f"n_{each.value}", "label": label} for each, label in LABELS.items()]
    return environment.get_template(template).render(style=style, script=script, statuses=statuses, **values)


def number(value: float | None, digits: int) -> str:
    """A number for people, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(values: Sequence[float | None], digits: int) -> str:
    """A range for people, or a dash."""
    return "–" if values[0] is None else " to ".join(number(value, digits) for value in values)


def p_value(value: float | None) -> str:
    """A probability with four digits, as far as they tell something, or a dash."""
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, 4)


def plain(value: float | None) -> str:
    """A number with as many digits as it has, or a dash."""
    return "–" if value is None else f"{value:g}"
