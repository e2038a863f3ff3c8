"""The figures of a study: each function takes records and returns (figure, DataFrame), so that the numbers go along.

Built for half a page width: 9 point text, colours that colour-blind readers can tell apart (Okabe and Ito 2008), markers
that survive a black and white print, lines labelled at their ends. Error bars are 95% Wilson intervals.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

Row = dict[str, Any]
History = dict[str, list[tuple[int, float]]]  # metric name -> (step, value) points

BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222"
COLOURS, MARKERS = [BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK], "osD^vPX"
GREY = "#767676"
MODEL_COLOURS = {"base": GREY, "mid": SKY, "sft": BLUE, "rl": RED}
MODEL_LABELS = {"base": "base", "mid": "mid", "sft": "SFT", "rl": "RL"}
TASK_NAMES = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Chall.", "mmlu": "MMLU", "gsm8k": "GSM8K", "humaneval": "HumanEval"}
METHOD_STYLES = {  # name in the records: label, colour, marker
    "greedy": ("greedy", BLACK, "*"), "low_temperature": ("low temperature", GREEN, "D"), "plain": ("plain sample", SKY, "o"),
    "best_of": ("best of n", ORANGE, "s"), "majority": ("majority vote", PINK, "^"),
}
SIZE = (4.6, 3.2)  # inches


def _figure(rows: int = 1, height: float = SIZE[1]) -> tuple[Figure, list[Axes]]:
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


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=9.5, loc="left", fontweight="bold")


def _percent(axis: Axes, label: str) -> None:
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylabel(label)


def _end_labels(axis: Axes, labels: list[tuple[float, float, str, str]]) -> None:
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
        axis.annotate(text, (x, y), xytext=(1.03, height), textcoords=axis.get_yaxis_transform(), fontsize=8, color=colour,
                      va="center", annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7})


def _errors(frame: pandas.DataFrame, low: str = "low", high: str = "high") -> list[pandas.Series] | None:
    """Distances to the interval's ends; None where the records have no interval."""
    if low not in frame or frame[low].isna().all():
        return None
    return [(frame["accuracy"] - frame[low]).clip(lower=0), (frame[high] - frame["accuracy"]).clip(lower=0)]


def _line(axis: Axes, frame: pandas.DataFrame, x: str, colour: str, marker: str, width: float = 1.5, opacity: float = 1.0) -> None:
    axis.errorbar(frame[x], frame["accuracy"], yerr=_errors(frame), color=colour, marker=marker, markersize=5, linewidth=width,
                  elinewidth=0.8, capsize=2, alpha=opacity, markeredgecolor="white", markeredgewidth=0.5)


def history_frame(history: History) -> pandas.DataFrame:
    """Metric histories as rows (metric, step, value), one row a metric and step: the last logged wins."""
    rows = [{"metric": name, "step": step, "value": value} for name, points in history.items() for step, value in points]
    frame = pandas.DataFrame(rows, columns=["metric", "step", "value"])
    return frame.drop_duplicates(["metric", "step"], keep="last").sort_values(["metric", "step"], ignore_index=True)


def _smoothed(axis: Axes, frame: pandas.DataFrame, colour: str, window: int) -> None:
    """The raw points pale and, where there are enough of them, their centred running mean on top."""
    many = len(frame) >= 3 * window
    axis.plot(frame["step"], frame["value"], color=colour, linewidth=0.8 if many else 1.5, alpha=0.35 if many else 1.0,
              marker="o" if len(frame) < 15 else None, markersize=4)
    if many:
        axis.plot(frame["step"], frame["value"].rolling(window, center=True, min_periods=1).mean(), color=colour, linewidth=1.8)


def training_curves(history: History, title: str) -> tuple[Figure, pandas.DataFrame]:
    """Training loss (nats a token) above validation bits per byte, by optimizer step; a panel without points is left out."""
    panels = {"train/loss": ("loss, nats per token", BLUE), "validation/bits_per_byte": ("validation bits per byte", RED)}
    frame = history_frame({name: history[name] for name in panels if history.get(name)})
    names = list(frame["metric"].unique()) or ["train/loss"]
    figure, axes = _figure(len(names), 2.0 * len(names) + 0.4)
    for axis, name in zip(axes, names):
        points = frame[frame["metric"] == name]
        label, colour = panels[name]
        _smoothed(axis, points, colour, 11)
        axis.set_ylabel(label)
        if len(points):
            last = points.iloc[-1]
            axis.annotate(f"{last['value']:.3f}", (last["step"], last["value"]), xytext=(5, 0), textcoords="offset points",
                          fontsize=8, color=colour, ha="left", va="center", annotation_clip=False)
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    _title(axes[0], title)
    return figure, frame


def reward_curve(history: History, title: str = "Chat RL: reward of the rollouts") -> tuple[Figure, pandas.DataFrame]:
    """Mean reward of each update's rollouts (train/reward), pale, with a running mean of 5 updates."""
    frame = history_frame({"train/reward": history.get("train/reward", [])})
    figure, (axis,) = _figure()
    _smoothed(axis, frame, BLUE, 5)
    _percent(axis, "mean reward")
    axis.set_ylim(0, min(1.02, max(0.1, frame["value"].max() * 1.15)) if len(frame) else 1)
    axis.set_xlabel("policy update")
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    if len(frame) >= 15:
        axis.annotate("mean of 5 updates", (0.98, 0.05), xycoords="axes fraction", ha="right", fontsize=8, color=BLUE)
    _title(axis, title)
    return figure, frame


def task_bars(results: Iterable[Row], title: str = "Tasks by model") -> tuple[Figure, pandas.DataFrame]:
    """Accuracy of every model on every chat task. Rows: model, task, accuracy, and low, high, chance where known."""
    frame = pandas.DataFrame(list(results), columns=["model", "task", "accuracy", "low", "high", "chance", "passed", "n"])
    figure, (axis,) = _figure()
    tasks = [task for task in TASK_NAMES if task in set(frame["task"])]
    models = [model for model in MODEL_COLOURS if model in set(frame["model"])]
    width = 0.8 / max(1, len(models))
    for i, model in enumerate(models):
        rows = frame[frame["model"] == model].set_index("task").reindex(tasks)
        places = [j - 0.4 + width * (i + 0.5) for j in range(len(tasks))]
        axis.bar(places, rows["accuracy"], width * 0.92, color=MODEL_COLOURS[model], label=MODEL_LABELS[model], yerr=_errors(rows),
                 error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": BLACK})
    chances = frame.dropna(subset=["chance"]).groupby("task")["chance"].first()
    for j, task in enumerate(tasks):
        if chances.get(task, 0) > 0:
            axis.plot([j - 0.43, j + 0.43], [chances[task]] * 2, color=BLACK, linewidth=1, linestyle=(0, (3, 2)),
                      label="_chance")
    axis.set_xticks(range(len(tasks)), [TASK_NAMES[task] for task in tasks])
    axis.tick_params(axis="x", length=0)
    _percent(axis, "accuracy")
    axis.set_ylim(0, 1)
    if tasks:
        handles, labels = axis.get_legend_handles_labels()
        dashes = [line for line in axis.get_lines() if line.get_label() == "_chance"][:1]
        axis.legend([*handles, *dashes], [*labels, *["chance"] * len(dashes)], ncol=5, fontsize=8, frameon=False, loc="lower center",
                    bbox_to_anchor=(0.5, 0.98), columnspacing=1, handlelength=1.4)
    figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    return figure, frame


def _point_frame(points: Iterable[Row]) -> pandas.DataFrame:
    columns = ["alpha", "temperature", "num_steps", "accuracy", "passed", "total", "low", "high", "acceptance", "positions_per_problem"]
    frame = pandas.DataFrame(list(points)).reindex(columns=columns).apply(pandas.to_numeric)
    return frame.sort_values(["temperature", "alpha", "num_steps"], ignore_index=True)


def _settings(frame: pandas.DataFrame) -> list[tuple[tuple[float, float], pandas.DataFrame, str, str]]:
    """((alpha, T), its rows, colour, marker): the same look for a setting in every figure."""
    common = frame["temperature"].value_counts()  # the temperature of the alpha series comes first
    groups = sorted(frame.groupby(["alpha", "temperature"]), key=lambda group: (-common[group[0][1]], group[0][0]))
    return [(key, rows, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, (key, rows) in enumerate(groups)]


def _name(alpha: float, temperature: float) -> str:
    return f"α={alpha:g}, T={temperature:g}"


def accuracy_by_alpha(points: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against the exponent alpha at the largest number of steps; one line a proposal temperature."""
    frame = _point_frame(points)
    frame = frame[frame["num_steps"] == frame["num_steps"].max()].reset_index(drop=True)
    figure, (axis,) = _figure()
    groups = sorted(frame.groupby("temperature"), key=lambda group: -len(group[1]))
    axis.set_xscale("log", base=2)
    for i, (_, rows) in enumerate(groups):  # shifted a little sideways: the intervals stay readable
        _line(axis, rows.assign(alpha=rows["alpha"] * 1.04 ** i), "alpha", COLOURS[i], MARKERS[i])
    alphas = sorted(frame["alpha"].unique())
    axis.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.set_xlabel("α, exponent of the target")
    _percent(axis, "GSM8K accuracy")
    _end_labels(axis, [(rows["alpha"].iloc[-1], rows["accuracy"].iloc[-1], f"T={temperature:g}", COLOURS[i])
                       for i, (temperature, rows) in enumerate(groups)])
    steps = f" after {frame['num_steps'].iloc[0]:g} steps" if len(frame) else ""
    _title(axis, f"Accuracy against α{steps}")
    return figure, frame


def accuracy_by_steps(points: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against the number of Metropolis-Hastings steps; one line a pair (alpha, temperature)."""
    frame = _point_frame(points)
    figure, (axis,) = _figure()
    groups = _settings(frame)
    spread = 0.012 * max(1, frame["num_steps"].max() if len(frame) else 1)
    for i, (_, rows, colour, marker) in enumerate(groups):  # shifted a little sideways: the intervals stay readable
        _line(axis, rows.assign(num_steps=rows["num_steps"] + spread * (i - (len(groups) - 1) / 2)), "num_steps", colour, marker)
    axis.set_xticks(sorted(frame["num_steps"].unique()))
    axis.set_xlabel("Metropolis-Hastings steps")
    _percent(axis, "GSM8K accuracy")
    _end_labels(axis, [(rows["num_steps"].max(), rows["accuracy"].iloc[-1], _name(*key), colour) for key, rows, colour, _ in groups])
    _title(axis, "Accuracy against steps")
    return figure, frame


def accuracy_by_positions(points: Iterable[Row], baselines: Iterable[Row], main: tuple[float, float] = (4.0, 0.7),
                          ) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against token positions forwarded a problem (log scale), power sampling beside the baselines.

    Rows of `baselines`: method, n, accuracy, positions_per_problem, and low, high. `main` = (alpha, temperature) of the
    thick line; the other settings are grey.
    """
    power = _point_frame(points)
    other = pandas.DataFrame(list(baselines)).reindex(
        columns=["method", "n", "accuracy", "passed", "total", "low", "high", "positions_per_problem"])
    figure, (axis,) = _figure()
    axis.set_xscale("log")
    labels = []
    settings = list(power.groupby(["alpha", "temperature"]))
    if settings and main not in dict(settings):
        main = settings[0][0]
    for key, rows in settings:
        if key == main:
            _line(axis, rows, "positions_per_problem", BLUE, "P", width=2.2)
            labels.append((rows["positions_per_problem"].iloc[-1], rows["accuracy"].iloc[-1], f"power {_name(*key)}", BLUE))
        else:
            axis.plot(rows["positions_per_problem"], rows["accuracy"], color="#BBBBBB", linewidth=0.9, marker=".", zorder=1)
    for method, (label, colour, marker) in METHOD_STYLES.items():
        rows = other[other["method"] == method].sort_values("positions_per_problem")
        if len(rows):
            _line(axis, rows, "positions_per_problem", colour, marker)
            if len(rows) == 1:  # its level, to read the lines against
                axis.axhline(rows["accuracy"].iloc[0], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            x = axis.get_xlim()[1] if len(rows) == 1 else rows["positions_per_problem"].iloc[-1]
            name = f"{label}, to {rows['n'].max():g}" if rows["n"].max() > 1 else label
            labels.append((x, rows["accuracy"].iloc[-1], name, colour))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("positions forwarded per problem" + (" (grey: other α, T)" if len(settings) > 1 else ""))
    _percent(axis, "GSM8K accuracy")
    _end_labels(axis, labels)
    _title(axis, "Accuracy at equal cost")
    return figure, pandas.concat([power.assign(method="power"), other], ignore_index=True)


def acceptance_by_step(series: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Share of proposals accepted at each Metropolis-Hastings step. Rows: alpha, temperature, step, acceptance."""
    frame = pandas.DataFrame(list(series), columns=["alpha", "temperature", "step", "acceptance"]).apply(pandas.to_numeric)
    frame = frame.sort_values(["temperature", "alpha", "step"], ignore_index=True)
    figure, (axis,) = _figure()
    groups = _settings(frame)
    for _, rows, colour, marker in groups:
        axis.plot(rows["step"], rows["acceptance"], color=colour, marker=marker, markersize=4, linewidth=1.5)
    axis.set_ylim(0, 1)
    axis.set_xlabel("Metropolis-Hastings step")
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    _percent(axis, "proposals accepted")
    _end_labels(axis, [(rows["step"].max(), rows["acceptance"].iloc[-1], _name(*key), colour) for key, rows, colour, _ in groups])
    _title(axis, "Acceptance by step")
    return figure, frame
