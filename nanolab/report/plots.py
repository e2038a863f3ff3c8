"""The figures of training, tasks and the power-sampling grid; power_plots.py has those of chains and samples.

Each function takes records and returns (figure, DataFrame), so that the numbers go along. canvas.py has their common style.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from nanolab.report.canvas import (
    BLACK,
    BLUE,
    COLOURS,
    MARKERS,
    METHOD_STYLES,
    MODEL_COLOURS,
    MODEL_LABELS,
    PALE,
    RED,
    TASK_NAMES,
    Row,
    draw_line,
    end_labels,
    growing_ticks,
    interval_errors,
    log2_ticks,
    new_figure,
    no_data,
    percent_axis,
    set_title,
)

History = dict[str, list[tuple[int, float]]]  # metric name -> (step, value) points


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, for a notebook or a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def history_frame(history: History) -> pandas.DataFrame:
    """Metric histories as rows (metric, step, value), one row a metric and step: the last logged wins."""
    rows = [
        {"metric": name, "step": step, "value": value}
        for name, points in history.items()
        for step, value in points
    ]
    frame = pandas.DataFrame(rows, columns=["metric", "step", "value"])
    return frame.drop_duplicates(["metric", "step"], keep="last").sort_values(
        ["metric", "step"], ignore_index=True
    )


def _smoothed(axis: Axes, frame: pandas.DataFrame, colour: str, window: int) -> None:
    """The raw points pale and, where there are enough of them, their centred running mean on top."""
    many = len(frame) >= 3 * window
    axis.plot(
        frame["step"],
        frame["value"],
        color=colour,
        linewidth=0.8 if many else 1.5,
        alpha=0.35 if many else 1.0,
        marker="o" if len(frame) < 15 else None,
        markersize=4,
    )
    if many:
        axis.plot(
            frame["step"],
            frame["value"].rolling(window, center=True, min_periods=1).mean(),
            color=colour,
            linewidth=1.8,
        )


def training_curves(history: History, title: str) -> tuple[Figure, pandas.DataFrame]:
    """Training loss (nats a token) above validation bits per byte, by optimizer step; a panel without points is left out."""
    panels = {
        "train/loss": ("loss, nats per token", BLUE),
        "validation/bits_per_byte": ("validation bits per byte", RED),
    }
    frame = history_frame({name: history[name] for name in panels if history.get(name)})
    names = list(frame["metric"].unique()) or ["train/loss"]
    figure, axes = new_figure(len(names), 2.0 * len(names) + 0.4)
    for axis, name in zip(axes, names):
        points = frame[frame["metric"] == name]
        label, colour = panels[name]
        _smoothed(axis, points, colour, 11)
        axis.set_ylabel(label)
        if len(points):
            last = points.iloc[-1]
            axis.annotate(
                f"{last['value']:.3f}",
                (last["step"], last["value"]),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                ha="left",
                va="center",
                annotation_clip=False,
            )
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    set_title(axes[0], title)
    if not len(frame):
        no_data(axes[0])
    return figure, frame


def reward_curve(
    history: History, title: str = "Chat RL: reward of the rollouts"
) -> tuple[Figure, pandas.DataFrame]:
    """Mean reward of each update's rollouts (train/reward), pale, with a running mean of 5 updates."""
    frame = history_frame({"train/reward": history.get("train/reward", [])})
    figure, (axis,) = new_figure()
    _smoothed(axis, frame, BLUE, 5)
    percent_axis(axis, "mean reward")
    axis.set_ylim(0, min(1.02, max(0.1, frame["value"].max() * 1.15)) if len(frame) else 1)
    axis.set_xlabel("policy update")
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    if len(frame) >= 15:
        axis.annotate(
            "mean of 5 updates",
            (0.98, 0.05),
            xycoords="axes fraction",
            ha="right",
            fontsize=8,
            color=BLUE,
        )
    set_title(axis, title)
    if not len(frame):
        no_data(axis)
    return figure, frame


def task_bars(
    results: Iterable[Row], title: str = "Tasks by model"
) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy of every model on every chat task. Rows: model, task, accuracy, and low, high, chance where known."""
    frame = pandas.DataFrame(
        list(results), columns=["model", "task", "accuracy", "low", "high", "chance", "passed", "n"]
    )
    figure, (axis,) = new_figure()
    tasks = [task for task in TASK_NAMES if task in set(frame["task"])]
    models = [model for model in MODEL_COLOURS if model in set(frame["model"])]
    width = 0.8 / max(1, len(models))
    for i, model in enumerate(models):
        rows = frame[frame["model"] == model].set_index("task").reindex(tasks)
        places = [j - 0.4 + width * (i + 0.5) for j in range(len(tasks))]
        axis.bar(
            places,
            rows["accuracy"],
            width * 0.92,
            color=MODEL_COLOURS[model],
            label=MODEL_LABELS[model],
            yerr=interval_errors(rows),
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": BLACK},
        )
    chances = frame.dropna(subset=["chance"]).groupby("task")["chance"].first()
    for j, task in enumerate(tasks):
        if chances.get(task, 0) > 0:
            axis.plot(
                [j - 0.43, j + 0.43],
                [chances[task]] * 2,
                color=BLACK,
                linewidth=1,
                linestyle=(0, (3, 2)),
                label="_chance",
            )
    axis.set_xticks(range(len(tasks)), [TASK_NAMES[task] for task in tasks])
    axis.tick_params(axis="x", length=0)
    percent_axis(axis, "accuracy")
    axis.set_ylim(0, 1)
    if tasks:
        handles, labels = axis.get_legend_handles_labels()
        dashes = [line for line in axis.get_lines() if line.get_label() == "_chance"][:1]
        axis.legend(
            [*handles, *dashes],
            [*labels, *["chance"] * len(dashes)],
            ncol=5,
            fontsize=8,
            frameon=False,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.98),
            columnspacing=1,
            handlelength=1.4,
        )
    else:
        no_data(axis)
    figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
    return figure, frame


SETTING = [
    "alpha",
    "temperature",
    "restart_prob",
    "num_blocks",
]  # what tells one sampler's settings apart
OTHER = [
    "ess_threshold",
    "ramp_tokens",
    "candidates",
    "horizon",
]  # the same of the samplers that are no chains
UNSAID = {"restart_prob": 0.0, "num_blocks": 1.0}  # what a row without the key ran with
NUMBERS = [
    "num_steps",
    "accuracy",
    "passed",
    "total",
    "low",
    "high",
    "acceptance",
    "positions_per_problem",
]
MOST = 8  # lines of a figure that have colours and names
Setting = tuple[float, float, float, float]  # values of SETTING


def _is_power(row: Row) -> bool:
    return row.get("method", "power") == "power"


def _numbers(rows: Iterable[Row], columns: list[str]) -> pandas.DataFrame:
    """Rows as numbers; a missing value, also None, is NaN."""
    return pandas.DataFrame(list(rows)).reindex(columns=columns).apply(pandas.to_numeric)


def _point_frame(points: Iterable[Row]) -> pandas.DataFrame:
    """The rows of power sampling; rows of other samplers are left out."""
    frame = _numbers([row for row in points if _is_power(row)], SETTING + NUMBERS).fillna(UNSAID)
    return frame.sort_values(
        ["temperature", "alpha", "restart_prob", "num_blocks", "num_steps"], ignore_index=True
    )


def _settings(frame: pandas.DataFrame) -> list[tuple[Setting, pandas.DataFrame, str, str]]:
    """(setting, its rows, colour, marker): the same look for a setting in every figure.

    Of more settings than MOST only the alphas of the commonest other values (T = 0.7 of equals) have colours; the rest
    are PALE and come first.
    """
    common = frame["temperature"].value_counts()  # the temperature of the alpha series comes first
    groups = sorted(
        frame.groupby(SETTING), key=lambda group: (-common[group[0][1]], group[0][0], group[0][1:])
    )
    counts = frame.groupby(SETTING[1:]).size()
    usual = (
        max(counts.index, key=lambda rest: (counts[rest], rest[0] == 0.7))
        if len(groups) > MOST
        else None
    )
    pale = [(key, rows, PALE, ".") for key, rows in groups if usual and key[1:] != usual]
    shown = [(key, rows) for key, rows in groups if not usual or key[1:] == usual]
    return pale + [
        (key, rows, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, (key, rows) in enumerate(shown)
    ]


def _names(
    settings: list[tuple[float, ...]], keys: list[str]
) -> tuple[dict[tuple[float, ...], str], str]:
    """A short label for each setting, values of `keys`, and what holds where a label does not say otherwise.

    A label has the first of the keys that vary, and of the others what differs from the commonest value.
    """
    places = range(len(keys))
    common = [
        max((setting[i] for setting in settings), key=[setting[i] for setting in settings].count)
        for i in places
        if settings
    ]
    vary = [i for i in places if len({setting[i] for setting in settings}) > 1] or [0]
    names = {
        setting: ", ".join(
            _said(keys[i], setting[i]) for i in vary if i == vary[0] or setting[i] != common[i]
        )
        for setting in settings
    }
    unsaid = ", ".join(_said(keys[i], common[i]) for i in vary[1:])
    return names, f"\nunless said: {unsaid}" if unsaid else ""


def _named(
    groups: list[tuple[Setting, pandas.DataFrame, str, str]],
) -> tuple[dict[tuple[float, ...], str], str]:
    """`_names` of the groups in colour; where others are pale, what all those in colour share."""
    shown = [key for key, _, colour, _ in groups if colour != PALE]
    names, unsaid = _names(shown, SETTING)
    if len(shown) < len(groups):
        unsaid = f"\n{', '.join(_said(key, shown[0][i]) for i, key in enumerate(SETTING) if i)}; grey: other settings"
    return names, unsaid


def _said(key: str, value: float) -> str:
    """A setting in words."""
    forms = {
        "alpha": "α={:g}",
        "temperature": "T={:g}",
        "restart_prob": "restart {:g}",
        "num_blocks": "{:g} blocks",
    }
    return "1 block" if key == "num_blocks" and value == 1 else forms[key].format(value)


def accuracy_by_alpha(points: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against the exponent alpha at the largest number of steps of each setting.

    One line a proposal temperature and, where they vary, restart probability and number of blocks. Rows with a "method"
    other than power are left out.
    """
    frame = _point_frame(points)
    frame = frame[
        frame["num_steps"] == frame.groupby(SETTING)["num_steps"].transform("max")
    ].reset_index(drop=True)
    figure, (axis,) = new_figure()
    groups = sorted(frame.groupby(SETTING[1:]), key=lambda group: -len(group[1]))
    names, unsaid = _names([key for key, _ in groups], SETTING[1:])
    labels = []
    log2_ticks(axis, frame["alpha"].tolist())
    for i, (key, rows) in enumerate(
        groups
    ):  # shifted a little sideways: the intervals stay readable
        colour = COLOURS[i % len(COLOURS)]
        draw_line(
            axis,
            rows.assign(alpha=rows["alpha"] * 1.04**i),
            "alpha",
            colour,
            MARKERS[i % len(MARKERS)],
        )
        labels.append(
            (rows["alpha"].iloc[-1] * 1.04**i, rows["accuracy"].iloc[-1], names[key], colour)
        )
    axis.set_xlabel("α, exponent of the target" + unsaid)
    percent_axis(axis, "accuracy")
    end_labels(axis, labels)
    steps = sorted(frame["num_steps"].unique())
    set_title(
        axis,
        "Accuracy against α"
        + (
            f" after {steps[0]:g} steps"
            if len(steps) == 1
            else ", after the most steps"
            if steps
            else ""
        ),
    )
    if not groups:
        no_data(axis)
    return figure, frame


def accuracy_by_steps(points: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against the number of Metropolis-Hastings steps; one line a setting. Rows of other methods are left out."""
    frame = _point_frame(points)
    figure, (axis,) = new_figure()
    groups = _settings(frame)
    names, unsaid = _named(groups)
    labels = []
    for i, (key, rows, colour, marker) in enumerate(groups):
        if colour == PALE:
            axis.plot(
                rows["num_steps"],
                rows["accuracy"],
                color=PALE,
                linewidth=0.8,
                marker=marker,
                markersize=4,
                zorder=1,
            )
            continue
        # shifted a little sideways: the intervals stay readable
        shifted = rows.assign(
            num_steps=(1 + rows["num_steps"]) * 1.03 ** (i - len(groups) + (len(names) + 1) / 2) - 1
        )
        draw_line(axis, shifted, "num_steps", colour, marker, bars=0.6)
        labels.append(
            (shifted["num_steps"].iloc[-1], rows["accuracy"].iloc[-1], names[key], colour)
        )
    growing_ticks(axis, frame["num_steps"].tolist())
    axis.set_xlabel(
        "Metropolis-Hastings steps"
        + (" a block" if (frame["num_blocks"] > 1).any() else "")
        + unsaid
    )
    percent_axis(axis, "accuracy")
    end_labels(axis, labels)
    set_title(axis, "Accuracy against steps")
    if not groups:
        no_data(axis)
    return figure, frame


def _series(
    frame: pandas.DataFrame, main: tuple[float, float], by: list[str]
) -> list[pandas.DataFrame]:
    """The lines of one method, by the columns `by`: first that of `main` (alpha, temperature), the commonest and longest of them."""
    known = frame.fillna(dict.fromkeys(by, 0.0))
    common = known[SETTING[2:]].value_counts()

    def order(group: tuple) -> tuple:
        key, rows = group
        return key[0] != main[0], key[1] != main[1], -common[key[2:4]], -len(rows), key

    return [
        frame.loc[rows.index].sort_values("positions_per_problem")
        for _, rows in sorted(known.groupby(by), key=order)
    ]


def _lines(
    power: pandas.DataFrame, other: pandas.DataFrame, main: tuple[float, float]
) -> tuple[list[tuple], list[pandas.DataFrame]]:
    """What the figure of cost shows: (rows, label, colour, marker, width) of the coloured lines, and rows of the grey ones."""
    coloured, grey = [], []
    lines = _series(power, main, SETTING)
    if lines:
        alpha, temperature = lines[0][SETTING[:2]].iloc[0]
        coloured.append((lines[0], f"power α={alpha:g}, T={temperature:g}", BLUE, "P", 2.2))
        grey += lines[1:]
    for method, (label, colour, marker) in METHOD_STYLES.items():
        own = other[other["method"] == method]
        by = [
            *SETTING,
            *[key for key in OTHER if key in own],
            *["num_steps"] * (own["n"].nunique() > 1),
        ]
        lines = _series(own, main, by)
        if lines:
            most = lines[0]["n"].max()
            coloured.append(
                (lines[0], f"{label}, to {most:g}" if most > 1 else label, colour, marker, 1.4)
            )
            grey += lines[1:]
    return coloured, grey


def accuracy_by_positions(
    points: Iterable[Row],
    baselines: Iterable[Row],
    main: tuple[float, float] = (4.0, 0.7),
) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against token positions forwarded a problem (log scale), power sampling beside the other methods.

    Rows: method (power where it is missing), n, accuracy, positions_per_problem, low, high, and the sampler's settings. A method
    is one line over n or num_steps. `main` = (alpha, temperature) of the coloured lines; the other settings of a sampler are grey.
    """
    rows = [*points, *baselines]
    power, others = _point_frame(rows), [row for row in rows if not _is_power(row)]
    other = _numbers(
        others,
        [
            "n",
            *SETTING,
            *[key for key in OTHER if any(row.get(key) is not None for row in others)],
            *NUMBERS,
        ],
    )
    other.insert(0, "method", [row["method"] for row in others])
    figure, (axis,) = new_figure(height=3.6)
    axis.set_xscale("log")
    coloured, grey = _lines(power, other, main)
    for series in grey:
        axis.plot(
            series["positions_per_problem"],
            series["accuracy"],
            color=PALE,
            linewidth=0.8,
            marker=".",
            markersize=4,
            zorder=1,
        )
    single = []
    for series, _, colour, marker, width in coloured:
        draw_line(axis, series, "positions_per_problem", colour, marker, width, bars=0.5)
        single.append(len(series) == 1 and "n" in series and not series["n"].iloc[0] > 1)
        if single[-1]:  # the level of one sample, to read the lines against
            axis.axhline(
                series["accuracy"].iloc[0],
                color=colour,
                linewidth=0.8,
                linestyle=(0, (4, 3)),
                zorder=1,
            )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(
        "positions forwarded per problem" + (" (grey: other settings)" if grey else ""), loc="left"
    )
    percent_axis(axis, "accuracy")
    edge = axis.get_xlim()[1]
    end_labels(
        axis,
        [
            (
                edge if level else series["positions_per_problem"].iloc[-1],
                series["accuracy"].iloc[-1],
                label,
                colour,
            )
            for (series, label, colour, *_), level in zip(coloured, single)
        ],
    )
    vary = [key for key in SETTING[2:] if power[key].nunique() > 1]
    told = ", ".join(_said(key, coloured[0][0][key].iloc[0]) for key in vary)
    set_title(axis, "Accuracy at equal cost" + (f" ({told})" if told else ""))
    if not coloured:
        no_data(axis)
    return figure, pandas.concat(
        [part for part in (power.assign(method="power"), other) if len(part)] or [other],
        ignore_index=True,
    )


def acceptance_by_step(series: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Share of proposals accepted at each Metropolis-Hastings step.

    Rows: alpha, temperature, step, acceptance, and restart_prob and num_blocks where they vary.
    """
    frame = _numbers(series, [*SETTING, "step", "acceptance"]).fillna(UNSAID)
    frame = frame.sort_values(
        ["temperature", "alpha", "restart_prob", "num_blocks", "step"], ignore_index=True
    )
    figure, (axis,) = new_figure()
    groups = _settings(frame)
    names, unsaid = _named(groups)
    for _, rows, colour, marker in groups:
        axis.plot(
            rows["step"],
            rows["acceptance"],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=0.8 if colour == PALE else 1.5,
        )
    axis.set_ylim(0, 1)
    axis.set_xlabel("Metropolis-Hastings step" + unsaid)
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    percent_axis(axis, "proposals accepted")
    end_labels(
        axis,
        [
            (rows["step"].max(), rows["acceptance"].iloc[-1], names[key], colour)
            for key, rows, colour, _ in groups
            if key in names
        ],
    )
    set_title(axis, "Acceptance by step")
    if not groups:
        no_data(axis)
    return figure, frame
