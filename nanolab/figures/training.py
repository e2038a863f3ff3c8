"""The figures of training and of the chat tasks: loss, validation, reward, accuracy by model."""

from collections.abc import Iterable

import pandas
from matplotlib.axes import Axes

from nanolab.figures import style
from nanolab.figures.style import BLACK, BLUE, RED, Drawn, Row
from nanolab.wording import model_label

History = dict[str, list[tuple[int, float]]]  # metric name -> (step, value) points
PANELS = {
    "train/loss": ("loss, nats per token", BLUE),
    "validation/bits_per_byte": ("validation bits per byte", RED),
}
SHORT_NAME = 8  # characters of a model's name, of which five stand beside each other
RESULT_COLUMNS = ["model", "task", "accuracy", "low", "high", "chance", "passed", "n", "problems"]


def history_frame(history: History) -> pandas.DataFrame:
    """Metric histories as rows (metric, step, value), one row a metric and step: the last logged
    wins.
    """
    rows = [(name, *point) for name, points in history.items() for point in points]
    frame = pandas.DataFrame(rows, columns=["metric", "step", "value"])
    return frame.drop_duplicates(["metric", "step"], keep="last").sort_values(
        ["metric", "step"], ignore_index=True
    )


def _smoothed(axis: Axes, frame: pandas.DataFrame, colour: str, window: int) -> None:
    """The raw points and, where there are enough of them to be pale, their running mean on top."""
    mean = style.running_mean(frame["value"], window)
    look = {"linewidth": 1.5} if mean is None else {"linewidth": 0.8, "alpha": 0.35}
    marker = "o" if len(frame) < 15 else None
    axis.plot(frame["step"], frame["value"], color=colour, marker=marker, markersize=4, **look)
    if mean is not None:
        axis.plot(frame["step"], mean, color=colour, linewidth=1.8)


def _last_value(axis: Axes, points: pandas.DataFrame, colour: str) -> None:
    """The last value of a curve, beside it."""
    step, value = points.iloc[-1][["step", "value"]]
    beside = {"xytext": (5, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
    axis.annotate(
        f"{value:.3f}", (step, value), fontsize=8, color=colour, annotation_clip=False, **beside
    )


def training_curves(history: History, title: str, tokens: dict[str, float] | None = None) -> Drawn:
    """Training loss (nats a token) above validation bits per byte, by optimizer step; a panel
    without points is left out.

    `tokens` says how many a point of a metric is measured on; validation/bits_per_byte_se draws a
    standard error at each point.
    """
    known = [*PANELS, "validation/bits_per_byte_se"]
    frame = history_frame({name: history[name] for name in known if history.get(name)})
    names = [name for name in PANELS if history.get(name)] or ["train/loss"]
    figure, axes = style.new_figure(len(names), 2.0 * len(names) + 0.4)
    for axis, name in zip(axes, names):
        points = frame[frame["metric"] == name]
        label, colour = PANELS[name]
        _smoothed(axis, points, colour, 11)
        errors = frame[frame["metric"] == f"{name}_se"].set_index("step")["value"]
        if len(errors):
            label += ", ± 1 s.e."
            look = {"color": colour, "linestyle": "none", "elinewidth": 0.9, "capsize": 2}
            heights = points["step"].map(errors)
            axis.errorbar(points["step"], points["value"], yerr=heights, **look)
        if tokens and name in tokens:
            label += f"\n({tokens[name]:,.0f} tokens a point)"
        axis.set_ylabel(label)
        if len(points):
            _last_value(axis, points, colour)
    axes[-1].set_xlabel("optimizer step")
    style.integer_ticks(axes[-1])
    style.set_title(axes[0], title)
    if frame.empty:
        style.no_data(axes[0])
    return figure, frame


def reward_curve(history: History, title: str = "Chat RL: reward of the rollouts") -> Drawn:
    """Mean reward of each update's rollouts (train/reward), pale, with a running mean of 5
    updates.
    """
    frame = history_frame({"train/reward": history.get("train/reward", [])})
    figure, (axis,) = style.new_figure()
    _smoothed(axis, frame, BLUE, 5)
    style.percent_axis(axis, "mean reward")
    axis.set_ylim(0, min(1.02, max(0.1, frame["value"].max() * 1.15)) if len(frame) else 1)
    axis.set_xlabel("policy update")
    style.integer_ticks(axis)
    if len(frame) >= 15:
        corner = {"xycoords": "axes fraction", "ha": "right"}
        axis.annotate("mean of 5 updates", (0.98, 0.05), fontsize=8, color=BLUE, **corner)
    style.set_title(axis, title)
    if frame.empty:
        style.no_data(axis)
    return figure, frame


def task_bars(results: Iterable[Row], title: str = "Tasks by model") -> Drawn:
    """Accuracy of every model on every chat task. Rows: model, task, accuracy, and low, high,
    chance, n and problems where known.
    """
    frame = pandas.DataFrame(list(results), columns=RESULT_COLUMNS)
    figure, (axis,) = style.new_figure()
    tasks = [task for task in style.TASK_NAMES if task in set(frame["task"])]
    colours = style.model_colours(frame["model"])
    width, places = style.bar_places(len(colours), len(tasks), 0.8)
    for (model, colour), own_places in zip(colours.items(), places):
        rows = frame[frame["model"] == model].set_index("task").reindex(tasks)
        axis.bar(
            own_places,
            rows["accuracy"],
            width * 0.92,
            color=colour,
            label=model_label(model),
            yerr=style.interval_errors(rows),
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": BLACK},
        )
    chances = frame.dropna(subset=["chance"]).groupby("task")["chance"].first()
    dashes = []
    for j, task in enumerate(tasks):
        if chances.get(task, 0) > 0:
            look = {"color": BLACK, "linewidth": 1, "linestyle": (0, (3, 2))}
            dashes += axis.plot([j - 0.43, j + 0.43], [chances[task]] * 2, **look)
    counts = [_problems(frame[frame["task"] == task]) for task in tasks]
    style.named_groups(axis, [style.TASK_NAMES[task] + n for task, n in zip(tasks, counts)])
    style.percent_axis(axis, "accuracy")
    axis.set_ylim(0, 1)
    if tasks:
        handles, labels = axis.get_legend_handles_labels()
        handles += dashes[:1]
        labels += ["chance"] * len(dashes[:1])
        columns = 5 if max(map(len, labels)) <= SHORT_NAME else 2
        style.legend_above(axis, columns, handles=handles, labels=labels, handlelength=1.4)
    else:
        style.no_data(axis)
    style.set_figure_title(figure, title)
    return figure, frame


def _problems(rows: pandas.DataFrame) -> str:
    """How many problems the accuracies of a task are of, below its name; nothing where one of them
    does not know.
    """
    if rows["n"].isna().any():
        return ""
    counts = [f"{n:.0f}" for n in dict.fromkeys(rows["n"].astype(float))]
    if len(counts) > 1 or rows["problems"].nunique(dropna=False) > 1:
        return f"\nn = {', '.join(counts)}:\nnot the same\nproblems"
    return f"\nn = {counts[0]}"
