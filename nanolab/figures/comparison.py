"""The figures that hold studies side by side: curves of training, and accuracy against cost."""

import pandas
from matplotlib.axes import Axes

from nanolab.figures import style
from nanolab.figures.style import COLOURS, Drawn, EndLabel, Row
from nanolab.figures.training import History, history_frame

WINDOW = 11  # steps of the running mean


def losses(
    histories: dict[str, dict[str, History]], titles: dict[str, str], studies: list[str]
) -> Drawn:
    """Training loss (nats a token, logarithmic) by optimizer step: a panel for each step of
    `histories`, a line for each study.

    The colour of a study is its place in `studies`.
    """
    figure, axes = style.new_figure(len(histories), 1.9 * len(histories) + 0.3)
    frames = []
    for axis, (step, by_study) in zip(axes, histories.items()):
        axis.tick_params(labelbottom=True)
        labels = []
        for study, history in by_study.items():
            frame = history_frame({"train/loss": history.get("train/loss", [])})
            frames.append(frame.assign(part=step, study=study))
            mean = style.running_mean(frame["value"], WINDOW)
            heights = frame["value"] if mean is None else mean
            labels += _line(axis, frame["step"], heights, study, studies)
        axis.set_yscale("log")
        style.log_ticks(axis.yaxis)
        axis.set_ylabel("loss, nats a token")
        style.set_title(axis, titles[step])
        _names_beside(axis, labels)
    axes[-1].set_xlabel("optimizer step")
    style.integer_ticks(axes[-1])
    return figure, pandas.concat(frames, ignore_index=True)


def _line(
    axis: Axes, steps: pandas.Series, values: pandas.Series, study: str, studies: list[str]
) -> list[EndLabel]:
    """Draws the curve of a study and gives its label; none without points."""
    if values.empty:
        return []
    colour = COLOURS[studies.index(study) % len(COLOURS)]
    axis.plot(steps, values, color=colour, linewidth=1.5)
    return [(steps.iloc[-1], values.iloc[-1], study, colour)]


def _names_beside(axis: Axes, labels: list[EndLabel]) -> None:
    """Names in the colours of the lines, one below the other beside a logarithmic panel, the
    highest line first.
    """
    beside = {"xycoords": "axes fraction", "va": "center", "annotation_clip": False}
    for place, (_, _, text, colour) in enumerate(sorted(labels, key=lambda label: -label[1])):
        axis.annotate(text, (1.02, 0.9 - 0.13 * place), fontsize=8, color=colour, **beside)


def rewards(histories: dict[str, History], studies: list[str]) -> Drawn:
    """Mean reward of the rollouts by policy update, a running mean of 5, a line for each study."""
    figure, (axis,) = style.new_figure(height=2.4)
    frames, labels = [], []
    for study, history in histories.items():
        frame = history_frame({"train/reward": history.get("train/reward", [])}).assign(study=study)
        frames.append(frame)
        mean = frame["value"].rolling(5, min_periods=1).mean()
        labels += _line(axis, frame["step"], mean, study, studies)
    style.percent_axis(axis, "mean reward")
    axis.set_ylim(0, 1)
    axis.set_xlabel("policy update")
    style.integer_ticks(axis)
    style.set_title(axis, "Reinforcement learning: mean of 5 updates")
    style.end_labels(axis, labels)
    return figure, pandas.concat(frames, ignore_index=True)


def accuracy_by_cost(rows: dict[str, list[Row]]) -> Drawn:
    """Accuracy against positions a problem (logarithmic), a panel for each study, a mark for each
    method with its 95% interval.
    """
    figure, axes = style.new_figure(len(rows), 1.75 * len(rows) + 0.7)
    frames, handles = [], {}
    for axis, (study, own) in zip(axes, rows.items()):
        frame = pandas.DataFrame(own).assign(study=study)
        frames.append(frame)
        for method, point in frame.groupby("method", sort=False):
            label, colour, marker, _ = style.METHOD_STYLES[method]
            handles[label] = axis.errorbar(
                point["positions_per_problem"].astype(float),
                point["accuracy"],
                yerr=style.interval_errors(point),
                color=colour,
                marker=marker,
                markersize=8 if method == "power" else 6,
                elinewidth=0.8,
                capsize=2,
                linestyle="none",
            )
        axis.set_xscale("log")
        style.log_ticks(axis.xaxis, (1, 2, 4))
        axis.tick_params(labelbottom=True)
        style.percent_axis(axis, "accuracy")
        counts = {f"{float(total):.0f}" for total in frame.get("total", []) if total is not None}
        style.set_title(axis, study + (f", {counts.pop()} problems" if len(counts) == 1 else ""))
    axes[-1].set_xlabel("token positions forwarded for a problem")
    above = {"loc": "outside upper center", "ncol": 3, "columnspacing": 1}
    figure.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, **above)
    return figure, pandas.concat(frames, ignore_index=True)
