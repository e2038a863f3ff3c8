"""How a value or a table of the report is written: a format belongs to a place, never to the Python type (MLflow keeps text)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanolab.samplers.diagnostics import INFINITE


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing: None, or the text MLflow keeps for a None parameter."""
    return value is None or value in ("", "None", "null")


def text(value: Any) -> str:
    """The value as it is."""
    return str(value)


def whole(value: Any) -> str:
    """A whole number without commas, also from "400" or 400.0."""
    return str(round(float(value)))


def decimals(places: int) -> Callable[[Any], str]:
    """A formatter with a fixed number of decimal places."""
    return lambda value: f"{float(value):.{places}f}"


def plain_float(value: Any) -> str:
    """A float as Python writes it: 4.0."""
    return repr(float(value))


def ratio(value: Any) -> str:
    """A number with 2 decimal places that may be infinite, also as the largest float, which MLflow makes of it."""
    return f"{float(value):.2f}" if float(value) < INFINITE else "infinite"


def scientific(value: Any) -> str:
    """A small number, as 1.2e-06."""
    return f"{float(value):.1e}"


def or_dash(value: Any, format: Callable[[Any], str] = text) -> str:
    """The value as `format` writes it, "-" where there is none."""
    return "-" if is_missing(value) else format(value)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown: header, rule and rows."""
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]
    )


def hours(seconds: float | None) -> str:
    """Seconds as whole minutes, 3h51m; "-" for None."""
    if seconds is None:
        return "-"
    minutes = int(seconds) // 60
    return f"{minutes // 60}h{minutes % 60:02d}m"


def short(number: float) -> str:
    """1,234,567 as 1.23M; "-" for nothing."""
    if not number:
        return "-"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def duration(hours: float | None) -> str:
    """Seconds below two minutes, minutes below an hour, else 3h51m; "-" for an unknown time."""
    if hours is None:
        return "-"
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    minutes = round(hours * 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
