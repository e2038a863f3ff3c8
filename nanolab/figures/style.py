"""What all figures share: size, colours, markers, titles, intervals, bars and the labels at the
ends of lines.

Built for half a page width: 9 point text, colours that colour-blind readers can tell apart (Okabe
and Ito 2008), markers that survive a black and white print, lines labelled at their ends. Error
bars are 95% Wilson intervals. Every figure is a function of records that returns (figure,
DataFrame), so that the numbers go along.
"""

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    ScalarFormatter,
)

from nanolab.wording import METHOD_LABELS, TASKS

Row = dict[str, Any]
Drawn = tuple[Figure, pandas.DataFrame]
EndLabel = tuple[float, float, str, str]  # x, y, text, colour

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK = "#CC79A7", "#56B4E9", "#222222"
COLOURS, MARKERS = [BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK], "osD^vPX<"
GREY, PALE, PURPLE, OLIVE = "#767676", "#BBBBBB", "#5D3A9B", "#7A6A00"
MODEL_COLOURS = {"base": GREY, "mid": SKY, "sft": BLUE, "rl": RED}
OTHER_MODELS = (GREEN, ORANGE, PINK, PURPLE)
TASK_NAMES = TASKS | {"arc_challenge": "ARC-Chall."}
# method -> colour, marker, and the hatch of its bars, in their order; bars stay apart in black and
# white (greedy is white, power is full)
METHOD_LOOKS = {
    "greedy": (BLACK, "*", None),
    "low_temperature": (GREEN, "D", "...."),
    "plain": (SKY, "o", "////"),
    "best_of": (ORANGE, "s", "\\\\\\\\"),
    "majority": (PINK, "^", "xxxx"),
    "power": (BLUE, "P", None),
    "smc": (RED, "v", "||||"),
    "rollout": (OLIVE, "X", "----"),
    "chain_vote": (PURPLE, "<", "++++"),
    "most_likely": (GREY, ">", "oo"),
}
LABELS = {"power": "power", **METHOD_LABELS}
# method -> label, colour, marker, hatch
METHOD_STYLES = {name: (LABELS[name], *look) for name, look in METHOD_LOOKS.items()}
MARKER_SIZES = {"*": 8, "P": 7, "X": 6.5}  # points; the others 5
SIZE = (4.6, 3.2)  # inches
MIDDLE = {"ha": "center", "va": "center"}


class Look(NamedTuple):
    """How a line is drawn: width in points, `bars` the opacity of its intervals."""

    colour: str
    marker: str
    width: float = 1.5
    bars: float = 1.0


def look(place: int, **others: float) -> Look:
    """The look of the line at `place` among the lines of a figure."""
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], **others)


# ---- the figure


def new_figure(rows: int = 1, height: float = SIZE[1]) -> tuple[Figure, list[Axes]]:
    """An empty figure of `rows` panels above each other with a common x axis; height in inches."""
    figure = Figure(figsize=(SIZE[0], height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, list(axes)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, for a notebook or a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def numbers(rows: Iterable[Row], columns: list[str], texts: Sequence[str] = ()) -> pandas.DataFrame:
    """Rows as a table of numbers, behind columns of `texts`; a missing value, also None, is NaN."""
    frame = pandas.DataFrame(list(rows)).reindex(columns=[*texts, *columns])
    frame[columns] = frame[columns].apply(pandas.to_numeric)
    return frame


def set_title(axis: Axes, text: str) -> None:
    """A bold title at the left of a panel."""
    axis.set_title(text, fontsize=9.5, loc="left", fontweight="bold")


def set_figure_title(figure: Figure, text: str) -> None:
    """The same above a legend."""
    figure.suptitle(text, fontsize=9.5, fontweight="bold", x=0.02, ha="left")


def no_data(axis: Axes) -> None:
    """Says that there was nothing to draw."""
    middle = {"xycoords": "axes fraction", **MIDDLE}
    axis.annotate("no data", (0.5, 0.5), fontsize=9, color=GREY, **middle)
    axis.set_xticks([])
    axis.set_yticks([])


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """The colour of each of these models: those trained here first, in the order of training, then
    those from outside as they come.
    """
    names = list(dict.fromkeys(models))
    found = {name: colour for name, colour in MODEL_COLOURS.items() if name in names}
    others = [name for name in names if name not in found]
    return found | dict(zip(others, itertools.cycle(OTHER_MODELS)))


# ---- axes


def percent_axis(axis: Axes, label: str) -> None:
    """The y axis shows shares as percentages."""
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylabel(label)


def from_zero(axis: Axes) -> None:
    """A share's axis from 0 to what is drawn, with a little air, at most to 1."""
    axis.set_ylim(-0.02, min(1.02, max(0.1, axis.get_ylim()[1])))


def integer_ticks(axis: Axes, most: int = 7, steps: Sequence[int] | None = (1, 2, 5, 10)) -> None:
    """At most `most` whole numbers on the x axis, multiples of `steps` (None: what fits)."""
    axis.xaxis.set_major_locator(MaxNLocator(most, integer=True, steps=steps))


def log_ticks(axis: Axis, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Plain numbers on a logarithmic x or y axis, at `subs` of each power of ten."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def growing_ticks(axis: Axes, values: list[float]) -> None:
    """An x axis that is logarithmic in 1 + x, so that 0 has its place; ticks at `values`, those
    left out that would touch.
    """
    axis.set_xscale(
        "function", functions=(lambda x: numpy.log1p(numpy.maximum(x, -0.9)), numpy.expm1)
    )
    values = sorted(set(values))
    apart = 0.045 * math.log1p(values[-1]) if values else 0.0
    kept: list[float] = []
    for value in values:
        if not kept or math.log1p(value) - math.log1p(kept[-1]) >= apart:
            kept.append(value)
    _ticks_at(axis, kept)


def log2_ticks(axis: Axes, values: list[float]) -> None:
    """A logarithmic x axis to base 2 with ticks at `values`."""
    axis.set_xscale("log", base=2)
    _ticks_at(axis, sorted(set(values)))


def _ticks_at(axis: Axes, values: list[float]) -> None:
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.minorticks_off()


def named_groups(axis: Axes, names: list[str]) -> None:
    """An x axis with a name below each group of bars."""
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(axis="x", length=0)


# ---- what is drawn


def interval_errors(frame: pandas.DataFrame, y: str = "accuracy") -> numpy.ndarray | None:
    """Distances of `y` to its interval's ends (low, high), (2, rows); None where the records have
    no interval.
    """
    if "low" not in frame or frame["low"].isna().all():
        return None
    ends = [(frame[y] - frame["low"]).clip(lower=0), (frame["high"] - frame[y]).clip(lower=0)]
    return numpy.array(ends, dtype=float)


def draw_line(axis: Axes, frame: pandas.DataFrame, x: str, look: Look, y: str = "accuracy") -> None:
    """A line with markers and, where the rows have them, the intervals low to high."""
    axis.errorbar(
        frame[x],
        frame[y],
        yerr=interval_errors(frame, y),
        color=look.colour,
        marker=look.marker,
        linewidth=look.width,
        elinewidth=0.8,
        capsize=2,
        ecolor=to_rgba(look.colour, look.bars),
        markersize=MARKER_SIZES.get(look.marker, 5),
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def draw_pale(axis: Axes, frame: pandas.DataFrame, x: str) -> None:
    """A grey line of accuracies behind the others: a setting without a name."""
    pale = {"color": PALE, "linewidth": 0.8, "marker": ".", "markersize": 4, "zorder": 1}
    axis.plot(frame[x], frame["accuracy"], **pale)


def bar_places(bars: int, groups: int, width: float) -> tuple[float, list[list[float]]]:
    """Width of a bar, and where the bars of each kind stand (bars, groups), in groups `width` wide
    around 0, 1, 2, ...
    """
    each = width / max(1, bars)
    return each, [[j - width / 2 + each * (i + 0.5) for j in range(groups)] for i in range(bars)]


def running_mean(values: pandas.Series, window: int) -> pandas.Series | None:
    """The centred running mean; None for too few points."""
    if len(values) < 3 * window:
        return None
    return values.rolling(window, center=True, min_periods=1).mean()


def legend_above(axis: Axes, columns: int, place: tuple[float, float] = (0.5, 0.98), **how) -> None:
    """A legend above a panel, the middle of its lower edge at `place` (axes fraction)."""
    above = {"loc": "lower center", "bbox_to_anchor": place, "ncol": columns}
    axis.legend(**{"fontsize": 8, "frameon": False, "columnspacing": 1, **above, **how})


def end_labels(axis: Axes, labels: list[EndLabel]) -> None:
    """Labels to the right of the plot, at the height of their lines, moved apart where they would
    touch.
    """
    low, high = axis.get_ylim()
    apart = (high - low) * 0.075
    labels = sorted(labels, key=lambda label: label[1])
    heights = [label[1] for label in labels]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    if heights and heights[-1] > high:  # push down what would leave the plot
        ceiling = high
        for i in reversed(range(len(heights))):
            heights[i] = min(heights[i], ceiling)
            ceiling = heights[i] - apart
    leader = {"arrowstyle": "-", "lw": 0.6, "alpha": 0.7, "relpos": (0, 0.5), "shrinkA": 1}
    for (x, y, text, colour), height in zip(labels, heights):
        axis.annotate(
            text,
            (x, y),
            xytext=(1.03, height),
            textcoords=axis.get_yaxis_transform(),
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"color": colour, **leader},
        )


def finish(axis: Axes, title: str, labels: list[EndLabel]) -> None:
    """Names the lines and the panel, or says that there was nothing to draw."""
    end_labels(axis, labels)
    set_title(axis, title)
    if not labels:
        no_data(axis)
