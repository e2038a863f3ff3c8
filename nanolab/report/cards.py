"""Small pieces of HTML for notebooks: numbers for people, tiles, tables, bars, curves, and the card of a stage.

Styles are inline and finished curves are images, because Jupyter drops style sheets and SVG from a notebook that was run elsewhere.
Colours are readable on a light and on a dark page.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

BLUE, GREEN, RED, ORANGE, GREY = "#2f81c7", "#1a9e6f", "#d9541e", "#d18f00", "#8a8a8a"
COLOURS = {
    "blue": BLUE,
    "green": GREEN,
    "red": RED,
    "yellow": ORANGE,
    "bright_black": GREY,
}  # of the terminal's states
FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif)"
WIDTH = 640  # pixels of a card
Points = Sequence[tuple[float, float]]


class Markup(str):
    """Text that is HTML already; every other text is escaped."""


def escape(text: Any) -> str:
    """`text` as HTML."""
    return text if isinstance(text, Markup) else html.escape(str(text))


# ---- numbers for people


def number(value: Any) -> str:
    """A number with as many digits as a reader uses: 1,228,800, 0.8377, 22,960; other values as they are, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return "infinite" if value > 0 else str(value)
    size = abs(value)
    if isinstance(value, int) or size >= 1000 or (size >= 10 and float(value).is_integer()):
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.{1 if size >= 100 else 2 if size >= 10 else 3}f}"


def percent(value: Any) -> str:
    """A share as a percentage: 58.5%."""
    return "–" if value is None else f"{100 * float(value):.1f}%"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 43 s, 5 min 12 s, 3 h 51 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


# ---- pieces


def link(text: str, address: str) -> Markup:
    """A link: relative to the notebook it opens in Jupyter, any other in a new tab."""
    target = ' target="_blank" rel="noopener"' if "://" in address else ""
    return Markup(f'<a href="{html.escape(address)}"{target}>{escape(text)}</a>')


def muted(text: Any) -> Markup:
    """A remark in grey."""
    return Markup(f'<span style="color:{GREY}">{escape(text)}</span>')


def pill(text: str, colour: str) -> Markup:
    """A word on a coloured ground."""
    return Markup(
        f'<span style="background:{colour};color:white;border-radius:9px;padding:1px 8px;font-size:12px;white-space:nowrap">'
        f"{escape(text)}</span>"
    )


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large values with a small label under each: (label, value)."""
    cells = "".join(
        f'<div style="margin:4px 26px 6px 0"><div style="font-size:21px;font-weight:600;line-height:1.2">{escape(value)}</div>'
        f'<div style="font-size:12px;color:{GREY}">{escape(label)}</div></div>'
        for label, value in values
    )
    return f'<div style="display:flex;flex-wrap:wrap;{FONT}">{cells}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """A table whose first `left` columns are text and the others numbers; one that is too wide for its page can be scrolled."""

    def cell(tag: str, place: int, value: Any) -> str:
        side = "left" if place < left else "right"
        return f'<{tag} style="text-align:{side};padding:3px 12px 3px 4px;vertical-align:top">{escape(value)}</{tag}>'

    head = "".join(cell("th", place, text) for place, text in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", place, value) for place, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div style="overflow-x:auto">'
        f'<table style="border-collapse:collapse;font-size:13px;margin:4px 0;{FONT}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def fold(summary: str, content: str) -> str:
    """Content that a click shows."""
    return (
        f'<details style="margin:4px 0;{FONT}"><summary style="cursor:pointer;color:{GREY}">{escape(summary)}</summary>'
        f"{content}</details>"
    )


def bar(share: float, colour: str = BLUE, width: int = WIDTH) -> str:
    """A progress bar, `share` from 0 to 1."""
    done = 100 * min(1.0, max(0.0, share))
    return (
        f'<div style="background:rgba(128,128,128,.25);border-radius:4px;height:8px;max-width:{width}px;margin:6px 0">'
        f'<div style="background:{colour};border-radius:4px;height:8px;width:{done:.1f}%"></div></div>'
    )


def curve(
    points: Points,
    label: str,
    end: float | None = None,
    shares: bool = False,
    colour: str = BLUE,
    width: int = 460,
    height: int = 110,
) -> str:
    """A curve as SVG with its last value; x from 0 to `end`; y from 0 to 1 for `shares`, else logarithmic where it spans a lot."""
    if not points:
        return ""
    values = [value for _, value in points if math.isfinite(value)] or [0.0]
    low, high = (0.0, 1.0) if shares else (min(values), max(values))
    log = not shares and low > 0 and high > 4 * low
    scale = math.log if log else float
    bottom, span = scale(low), (scale(high) - scale(low)) or 1.0
    left, right, top, floor = 44, width - 56, 16, height - 8
    last = max(end or 0, points[-1][0]) or 1

    def place(x: float, y: float) -> str:
        inside = min(max(y, low), high) if math.isfinite(y) else high
        return f"{left + (right - left) * x / last:.1f},{floor - (floor - top) * (scale(inside) - bottom) / span:.1f}"

    thin = points[:: max(1, len(points) // 300)]
    thin = thin if thin[-1] == points[-1] else [*thin, points[-1]]
    shown, ends = (percent, ("100%", "0%")) if shares else (number, (number(high), number(low)))
    x, y = place(*points[-1]).split(",")
    text, strong = (
        f'font-size="{size}" font-family="sans-serif" fill="{fill}"'
        for size, fill in ((11, GREY), (12, colour))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<text x="0" y="10" {text}>{html.escape(label)}{" (logarithmic)" if log else ""}</text>'
        f'<text x="{left - 5}" y="{top + 8}" text-anchor="end" {text}>{ends[0]}</text>'
        f'<text x="{left - 5}" y="{floor}" text-anchor="end" {text}>{ends[1]}</text>'
        f'<path d="M{left},{top}V{floor}H{right}" fill="none" stroke="{GREY}" stroke-opacity=".5"/>'
        f'<polyline points="{" ".join(place(*point) for point in thin)}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
        f'<text x="{float(x) + 6:.1f}" y="{float(y) + 4:.1f}" font-weight="bold" {strong}>{shown(points[-1][1])}</text></svg>'
    )


def image(svg: str) -> str:
    """An SVG as an image, which a notebook that was run elsewhere still shows."""
    return (
        f'<img style="max-width:100%" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
        if svg
        else ""
    )
