"""Numbers for people, and the pieces of HTML that notebooks are made of (cards.html.j2). Finished
curves are images, because Jupyter drops SVG from a notebook that was run elsewhere.
"""

import base64
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanolab import files, wording
from nanolab.report import templates
from nanolab.results import Score

BLUE, GREEN, RED, ORANGE, GREY = "#2f81c7", "#1a9e6f", "#d9541e", "#d18f00", "#8a8a8a"
# of the terminal's states
COLOURS = {"blue": BLUE, "green": GREEN, "red": RED, "yellow": ORANGE, "bright_black": GREY}
FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif)"
WIDTH = 640  # pixels of a card
CURVE_WIDTH = 460
CURVE_POINTS = 300  # of a curve, about
METHODS = wording.METHODS
Points = Sequence[tuple[float, float]]


# ---- numbers for people


def number(value: Any) -> str:
    """A number with as many digits as a reader uses: 1,228,800, 0.8377; nothing as a dash."""
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
    decimals = 3 - (size >= 10) - (size >= 100)
    return f"{value:.{decimals}f}"


def percent(value: Any) -> str:
    """A share as a percentage: 58.5%."""
    return "–" if value is None else f"{100 * float(value):.1f}%"


def written(metric: str, value: Any) -> str:
    """The value of a metric: shares as percentages, counts with commas."""
    if metric in wording.PERCENTAGES:
        return percent(value)
    form = wording.METRICS[metric].report
    return number(round(value)) if form is wording.whole else form(value)


def interval(row: Score | Mapping[str, Any]) -> list[str]:
    """The cells "[low, high]" and "passed of total"."""
    row = vars(row) if isinstance(row, Score) else row
    if row.get("low") is None:
        return ["–", "–"]
    passed, total = row.get("passed"), row.get("total", row.get("n"))
    known = passed is not None and total is not None
    return [
        f"[{percent(row['low'])}, {percent(row['high'])}]",
        f"{float(passed):.0f} of {float(total):.0f}" if known else "–",
    ]


def relative(path: Path) -> str:
    """A path as seen from the repository."""
    return str(path.relative_to(files.ROOT) if path.is_relative_to(files.ROOT) else path)


# ---- pieces


@functools.cache
def html(name: str = "cards") -> Any:
    """The macros of NAME.html.j2, which escape what they are given."""
    environment = templates.environment()
    environment.filters |= {"number": number, "percent": percent, "clock": wording.clock}
    environment.filters |= {"coloured": coloured, "interval": interval, "written": written}
    environment.filters |= {"duration": wording.duration, "typed": json.dumps}
    colours = {"BLUE": BLUE, "GREEN": GREEN, "RED": RED, "GREY": GREY}
    environment.globals |= colours | {"FONT": FONT, "WIDTH": WIDTH}
    return templates.macros(name)


def coloured(text: str, before: str = "") -> str:
    """A completion with its tool calls (blue) and their outputs (orange) marked, as
    `<<call=output>>`; `before` is what precedes it.
    """
    colour = ""
    if before.rfind("<<") > before.rfind(">>"):
        colour = ORANGE if "=" in before[before.rfind("<<") :] else BLUE
    pieces = []
    for piece in re.split("(<<|=|>>)", text):
        if piece == "<<" or (piece == ">>" and colour):
            pieces.append((piece, BLUE))
            colour = BLUE if piece == "<<" else ""
            continue
        if piece == "=" and colour:
            colour = ORANGE
        pieces.append((piece, colour if piece else ""))
    return html().pieces(pieces)


def curve(
    points: Points, label: str, end: float | None = None, shares: bool = False, height: int = 110
) -> str:
    """A curve as SVG with its last value; x from 0 to `end`; y from 0 to 1 for `shares`, else
    logarithmic where it spans a lot.
    """
    if not points:
        return ""
    values = [value for _, value in points if math.isfinite(value)] or [0.0]
    low, high = (0.0, 1.0) if shares else (min(values), max(values))
    scale = math.log if not shares and low > 0 and high > 4 * low else float
    span = (scale(high) - scale(low)) or 1.0
    left, top, right, bottom = frame = (44, 16, CURVE_WIDTH - 56, height - 8)
    last = max(end or 0, points[-1][0]) or 1

    def place(x: float, y: float) -> tuple[str, str]:
        inside = min(max(y, low), high) if math.isfinite(y) else high
        down = bottom - (bottom - top) * (scale(inside) - scale(low)) / span
        return f"{left + (right - left) * x / last:.1f}", f"{down:.1f}"

    some = [*points[: -1 : max(1, len(points) // CURVE_POINTS)], points[-1]]
    ends = ("100%", "0%") if shares else (number(high), number(low))
    return html().curve(
        label + (" (logarithmic)" if scale is math.log else ""),
        (CURVE_WIDTH, height),
        frame,
        ends,
        [place(*point) for point in some],
        (percent if shares else number)(points[-1][1]),
    )


def image(svg: str) -> str:
    """An SVG as an image."""
    return html().image(base64.b64encode(svg.encode()).decode())
