"""The figures that hold studies side by side: curves of training, and accuracy against cost. canvas.py has their common style."""

from __future__ import annotations

from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from nanolab.report.canvas import (
    COLOURS,
    METHOD_STYLES,
    POWER_STYLE,
    end_labels,
    interval_errors,
    new_figure,
    percent_axis,
    set_title,
)
from nanolab.report.plots import History, history_frame

WINDOW = 11  # steps of the running mean


def losses(
    histories: dict[str, dict[str, History]], titles: dict[str, str], studies: list[str]
) -> tuple[Figure, pandas.DataFrame]:
    """Training loss (nats a token, logarithmic) by optimizer step: a panel for each step of `histories`, a line for each study.

    The colour of a study is its place in `studies`.
    """
    figure, axes = new_figure(len(histories), 1.9 * len(histories) + 0.3)
    frames = []
    for axis, (step, by_study) in zip(axes, histories.items()):
        axis.tick_params(labelbottom=True)
        labels = []
        for study, history in by_study.items():
            frame = history_frame({"train/loss": history.get("train/loss", [])})
            frames.append(frame.assign(part=step, study=study))
            if len(frame):
                colour = COLOURS[studies.index(study) % len(COLOURS)]
                mean = (
                    frame["value"].rolling(WINDOW, center=True, min_periods=1).mean()
                    if len(frame) >= 3 * WINDOW
                    else frame["value"]
                )
                axis.plot(frame["step"], mean, color=colour, linewidth=1.5)
                labels.append((frame["step"].iloc[-1], mean.iloc[-1], study, colour))
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel("loss, nats a token")
        set_title(axis, titles[step])
        _at_the_end(axis, labels)
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    return figure, pandas.concat(frames, ignore_index=True)


def _at_the_end(axis: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Names in the colours of the lines, one below the other beside a logarithmic panel, the highest line first."""
    for place, (_, _, text, colour) in enumerate(sorted(labels, key=lambda label: -label[1])):
        axis.annotate(
            text,
            (1.02, 0.9 - 0.13 * place),
            xycoords="axes fraction",
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
        )


def rewards(histories: dict[str, History], studies: list[str]) -> tuple[Figure, pandas.DataFrame]:
    """Mean reward of the rollouts by policy update, a running mean of 5, a line for each study."""
    figure, (axis,) = new_figure(height=2.4)
    frames, labels = [], []
    for study, history in histories.items():
        frame = history_frame({"train/reward": history.get("train/reward", [])}).assign(study=study)
        frames.append(frame)
        if len(frame):
            mean, colour = (
                frame["value"].rolling(5, min_periods=1).mean(),
                COLOURS[studies.index(study) % len(COLOURS)],
            )
            axis.plot(frame["step"], mean, color=colour, linewidth=1.5)
            labels.append((frame["step"].iloc[-1], mean.iloc[-1], study, colour))
    percent_axis(axis, "mean reward")
    axis.set_ylim(0, 1)
    axis.set_xlabel("policy update")
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    set_title(axis, "Reinforcement learning: mean of 5 updates")
    end_labels(axis, labels)
    return figure, pandas.concat(frames, ignore_index=True)


def accuracy_by_cost(rows: dict[str, list[dict[str, Any]]]) -> tuple[Figure, pandas.DataFrame]:
    """Accuracy against positions a problem (logarithmic), a panel for each study, a mark for each method with its 95% interval."""
    figure, axes = new_figure(len(rows), 1.75 * len(rows) + 0.7)
    frames = []
    for axis, (study, own) in zip(axes, rows.items()):
        frame = pandas.DataFrame(own).assign(study=study)
        frames.append(frame)
        for method, point in frame.groupby("method", sort=False):
            label, colour, marker = POWER_STYLE if method == "power" else METHOD_STYLES[method]
            axis.errorbar(
                point["positions_per_problem"].astype(float),
                point["accuracy"],
                yerr=interval_errors(point),
                color=colour,
                marker=marker,
                markersize=8 if method == "power" else 6,
                elinewidth=0.8,
                capsize=2,
                linestyle="none",
                label=label,
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelbottom=True)
        percent_axis(axis, "accuracy")
        set_title(axis, study)
    axes[-1].set_xlabel("token positions forwarded for a problem")
    handles = {
        label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        fontsize=8,
        frameon=False,
        ncol=3,
        loc="outside upper center",
        columnspacing=1,
    )
    return figure, pandas.concat(frames, ignore_index=True)
