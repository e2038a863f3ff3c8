"""What all figures share: size, colours, markers, titles, intervals and the labels at the ends of lines.

Built for half a page width: 9 point text, colours that colour-blind readers can tell apart (Okabe and Ito 2008), markers
that survive a black and white print, lines labelled at their ends. Error bars are 95% Wilson intervals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

Row = dict[str, Any]

BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)
COLOURS, MARKERS = [BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK], "osD^vPX<"
GREY, PALE, PURPLE, OLIVE = "#767676", "#BBBBBB", "#5D3A9B", "#7A6A00"
MODEL_COLOURS = {"base": GREY, "mid": SKY, "sft": BLUE, "rl": RED}
MODEL_LABELS = {"base": "base", "mid": "mid", "sft": "SFT", "rl": "RL"}
TASK_NAMES = {
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Chall.",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K",
    "humaneval": "HumanEval",
}
METHOD_STYLES = {  # what stands beside power sampling: name in the records -> label, colour, marker
    "greedy": ("greedy", BLACK, "*"),
    "low_temperature": ("low temperature", GREEN, "D"),
    "plain": ("plain sample", SKY, "o"),
    "best_of": ("best of n", ORANGE, "s"),
    "majority": ("majority vote", PINK, "^"),
    "smc": ("SMC", RED, "v"),
    "rollout": ("rollouts", OLIVE, "X"),
    "chain_vote": ("vote of chains", PURPLE, "<"),
    "most_likely": ("most likely state", GREY, ">"),
}
POWER_STYLE = ("power", BLUE, "P")
MARKER_SIZES = {"*": 8, "P": 7, "X": 6.5}  # points; the others 5
SIZE = (4.6, 3.2)  # inches


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


def set_title(axis: Axes, text: str) -> None:
    """A bold title at the left of a panel."""
    axis.set_title(text, fontsize=9.5, loc="left", fontweight="bold")


def percent_axis(axis: Axes, label: str) -> None:
    """The y axis shows shares as percentages."""
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylabel(label)


def no_data(axis: Axes) -> None:
    """Says that there was nothing to draw."""
    axis.annotate(
        "no data",
        (0.5, 0.5),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=9,
        color=GREY,
    )
    axis.set_xticks([])
    axis.set_yticks([])


def growing_ticks(axis: Axes, values: list[float]) -> None:
    """An x axis that is logarithmic in 1 + x, so that 0 has its place; ticks at `values`, those left out that would touch."""
    axis.set_xscale(
        "function", functions=(lambda x: numpy.log1p(numpy.maximum(x, -0.9)), numpy.expm1)
    )
    values = sorted(set(values))
    apart = 0.045 * math.log1p(values[-1]) if values else 0.0
    kept: list[float] = []
    for value in values:
        if not kept or math.log1p(value) - math.log1p(kept[-1]) >= apart:
            kept.append(value)
    axis.set_xticks(kept, [f"{value:g}" for value in kept])
    axis.minorticks_off()


def log2_ticks(axis: Axes, values: list[float]) -> None:
    """A logarithmic x axis to base 2 with ticks at `values`."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
    axis.minorticks_off()


def end_labels(axis: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Labels (x, y, text, colour) to the right of the plot, at the height of their lines, moved apart where they would touch."""
    low, high = axis.get_ylim()
    apart = (high - low) * 0.075
    labels = sorted(labels, key=lambda label: label[1])
    heights = [label[1] for label in labels]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    excess = max(0.0, heights[-1] - high) if heights else 0.0
    for i in range(len(heights) - 1, -1, -1):  # push down what would leave the plot
        ceiling = high if i == len(heights) - 1 else heights[i + 1] - apart
        heights[i] = min(heights[i], ceiling) if excess else heights[i]
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
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 1,
            },
        )


def interval_errors(frame: pandas.DataFrame, y: str = "accuracy") -> numpy.ndarray | None:
    """Distances of `y` to its interval's ends (low, high), (2, rows); None where the records have no interval."""
    if "low" not in frame or frame["low"].isna().all():
        return None
    return numpy.array(
        [(frame[y] - frame["low"]).clip(lower=0), (frame["high"] - frame[y]).clip(lower=0)],
        dtype=float,
    )


def draw_line(
    axis: Axes,
    frame: pandas.DataFrame,
    x: str,
    colour: str,
    marker: str,
    width: float = 1.5,
    y: str = "accuracy",
    bars: float = 1.0,
) -> None:
    """A line with markers and, where the rows have them, the intervals low to high, drawn with opacity `bars`."""
    axis.errorbar(
        frame[x],
        frame[y],
        yerr=interval_errors(frame, y),
        color=colour,
        marker=marker,
        linewidth=width,
        elinewidth=0.8,
        capsize=2,
        ecolor=to_rgba(colour, bars),
        markersize=MARKER_SIZES.get(marker, 5),
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
