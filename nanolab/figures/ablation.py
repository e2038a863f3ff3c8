"""The figures of the power-sampling grid."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas

from nanolab.figures import style
from nanolab.figures.style import BLUE, METHOD_STYLES, PALE, Drawn, Look, Row

# what tells one sampler's settings apart
SETTING = ["alpha", "temperature", "restart_prob", "num_blocks"]
# the same of the samplers that are no chains
OTHER_SETTINGS = ["ess_threshold", "ramp_tokens", "candidates", "horizon"]
DEFAULTS = {"restart_prob": 0.0, "num_blocks": 1.0}  # what a row without the key ran with
RESULTS = ["accuracy", "passed", "total", "low", "high", "acceptance", "positions_per_problem"]
NUMBERS = ["num_steps", *RESULTS]
ORDER = ["temperature", "alpha", "restart_prob", "num_blocks"]
MOST_NAMED = 8  # lines of a figure that have colours and names
FORMS = {
    "alpha": "α={:g}",
    "temperature": "T={:g}",
    "restart_prob": "restart {:g}",
    "num_blocks": "{:g} blocks",
}
MAIN = (4.0, 0.7)  # alpha and temperature of the coloured lines, where a grid has them
Setting = tuple[float, ...]  # values of SETTING


class Group(NamedTuple):
    """The rows of a setting, and how they are drawn in every figure."""

    setting: Setting
    rows: pandas.DataFrame
    look: Look

    @property
    def pale(self) -> bool:
        """Whether it has neither a colour nor a name."""
        return self.look.colour == PALE


def _is_power(row: Row) -> bool:
    return row.get("method", "power") == "power"


def _point_frame(points: Iterable[Row]) -> pandas.DataFrame:
    """The rows of power sampling; rows of other samplers are left out."""
    frame = style.numbers(filter(_is_power, points), SETTING + NUMBERS).fillna(DEFAULTS)
    return frame.sort_values([*ORDER, "num_steps"], ignore_index=True)


def _groups(frame: pandas.DataFrame) -> list[Group]:
    """The settings of a figure. Of more than MOST_NAMED only the alphas of the commonest other
    values (T = 0.7 of equals) have colours; the rest are pale and come first.
    """
    common = frame["temperature"].value_counts()  # the temperature of the alpha series comes first
    groups = sorted(
        frame.groupby(SETTING), key=lambda group: (-common[group[0][1]], group[0][0], group[0][1:])
    )
    pale, named = [], groups
    if len(groups) > MOST_NAMED:
        counts = frame.groupby(SETTING[1:]).size()
        usual = max(counts.index, key=lambda rest: (counts[rest], rest[0] == 0.7))
        pale = [group for group in groups if group[0][1:] != usual]
        named = [group for group in groups if group[0][1:] == usual]
    return [Group(*group, Look(PALE, ".")) for group in pale] + [
        Group(*group, style.look(i, bars=0.6)) for i, group in enumerate(named)
    ]


def _written(key: str, value: float) -> str:
    """A setting in words."""
    return "1 block" if key == "num_blocks" and value == 1 else FORMS[key].format(value)


def _names(settings: list[Setting], keys: list[str]) -> tuple[dict[Setting, str], str]:
    """A short label for each setting, values of `keys`: the first of the keys that vary, and what
    differs from the commonest values; and a remark that names those.
    """
    columns = list(zip(*settings))
    common = [max(column, key=column.count) for column in columns]
    vary = [i for i, column in enumerate(columns) if len(set(column)) > 1] or [0]
    names = {
        setting: ", ".join(
            _written(keys[i], setting[i]) for i in vary if i == vary[0] or setting[i] != common[i]
        )
        for setting in settings
    }
    others = ", ".join(_written(keys[i], common[i]) for i in vary[1:])
    return names, f"\nunless said: {others}" if others else ""


def _group_names(groups: list[Group]) -> tuple[dict[Setting, str], str]:
    """`_names` of the groups in colour; where others are pale, what all those in colour share."""
    named = [group.setting for group in groups if not group.pale]
    names, remark = _names(named, SETTING)
    if len(named) < len(groups):
        shared = ", ".join(map(_written, SETTING[1:], named[0][1:]))
        remark = f"\n{shared}; grey: other settings"
    return names, remark


def accuracy_by_alpha(points: Iterable[Row]) -> Drawn:
    """Accuracy of power sampling against alpha, after the most steps; one line a setting."""
    frame = _point_frame(points)
    most = frame.groupby(SETTING)["num_steps"].transform("max")
    frame = frame[frame["num_steps"] == most].reset_index(drop=True)
    figure, (axis,) = style.new_figure()
    groups = sorted(frame.groupby(SETTING[1:]), key=lambda group: -len(group[1]))
    names, remark = _names([key for key, _ in groups], SETTING[1:])
    labels = []
    style.log2_ticks(axis, frame["alpha"].tolist())
    for i, (key, rows) in enumerate(groups):
        # shifted a little sideways: the intervals stay readable
        rows = rows.assign(alpha=rows["alpha"] * 1.04**i)
        look = style.look(i)
        style.draw_line(axis, rows, "alpha", look)
        labels.append((*rows[["alpha", "accuracy"]].iloc[-1], names[key], look.colour))
    axis.set_xlabel("α, exponent of the target" + remark)
    style.percent_axis(axis, "accuracy")
    steps = sorted(frame["num_steps"].unique())
    after = ", after the most steps" if steps else ""
    after = f" after {steps[0]:g} steps" if len(steps) == 1 else after
    style.finish(axis, "Accuracy against α" + after, labels)
    return figure, frame


def accuracy_by_steps(points: Iterable[Row]) -> Drawn:
    """Accuracy of power sampling against its number of steps; one line a setting."""
    frame = _point_frame(points)
    figure, (axis,) = style.new_figure()
    groups = _groups(frame)
    names, remark = _group_names(groups)
    labels = []
    for i, (key, rows, look) in enumerate(groups):
        if key not in names:
            style.draw_pale(axis, rows, "num_steps")
            continue
        # shifted a little sideways: the intervals stay readable
        shift = 1.03 ** (i - len(groups) + (len(names) + 1) / 2)
        rows = rows.assign(num_steps=(1 + rows["num_steps"]) * shift - 1)
        style.draw_line(axis, rows, "num_steps", look)
        labels.append((*rows[["num_steps", "accuracy"]].iloc[-1], names[key], look.colour))
    style.growing_ticks(axis, frame["num_steps"].tolist())
    blocks = " a block" if (frame["num_blocks"] > 1).any() else ""
    axis.set_xlabel(f"Metropolis-Hastings steps{blocks}{remark}")
    style.percent_axis(axis, "accuracy")
    style.finish(axis, "Accuracy against steps", labels)
    return figure, frame


def _series(
    frame: pandas.DataFrame, main: tuple[float, float], by: list[str]
) -> list[pandas.DataFrame]:
    """The lines of one method, by the columns `by`: first that of `main` (alpha, temperature), the
    commonest and longest of them.
    """
    known = frame.fillna(dict.fromkeys(by, 0.0))
    common = known[SETTING[2:]].value_counts()

    def order(group: tuple) -> tuple:
        key, rows = group
        return key[0] != main[0], key[1] != main[1], -common[key[2:4]], -len(rows), key

    return [
        frame.loc[rows.index].sort_values("positions_per_problem")
        for _, rows in sorted(known.groupby(by), key=order)
    ]


def _cost_lines(
    power: pandas.DataFrame, other: pandas.DataFrame, main: tuple[float, float]
) -> tuple[list[tuple[pandas.DataFrame, str, Look]], list[pandas.DataFrame]]:
    """(rows, label, look) of the coloured lines of the figure of cost; rows of the grey ones."""
    coloured, grey = [], []
    first, *others = _series(power, main, SETTING) or [None]
    if first is not None:
        alpha, temperature = first[SETTING[:2]].iloc[0]
        label = f"power α={alpha:g}, T={temperature:g}"
        coloured.append((first, label, Look(BLUE, "P", 2.2, 0.5)))
        grey += others
    for method, (label, colour, marker, _) in METHOD_STYLES.items():
        own = other[other["method"] == method]
        by = [*SETTING, *(key for key in OTHER_SETTINGS if key in own)]
        by += ["num_steps"] if own["n"].nunique() > 1 else []
        first, *others = _series(own, main, by) or [None]
        if first is not None:
            most = first["n"].max()
            label += f", to {most:g}" if most > 1 else ""
            coloured.append((first, label, Look(colour, marker, 1.4, 0.5)))
            grey += others
    return coloured, grey


def accuracy_by_positions(
    points: Iterable[Row], baselines: Iterable[Row], main: tuple[float, float] = MAIN
) -> Drawn:
    """Accuracy against token positions forwarded a problem (log scale), a line for each method.

    Rows: method (power where it is missing), n, accuracy, positions_per_problem, low, high, and the
    sampler's settings. `main` = (alpha, temperature) of the coloured lines; others are grey.
    """
    rows = [*points, *baselines]
    power, others = _point_frame(rows), [row for row in rows if not _is_power(row)]
    settings = [key for key in OTHER_SETTINGS if any(row.get(key) is not None for row in others)]
    other = style.numbers(others, ["n", *SETTING, *settings, *NUMBERS], ["method"])
    figure, (axis,) = style.new_figure(height=3.6)
    axis.set_xscale("log")
    coloured, grey = _cost_lines(power, other, main)
    for series in grey:
        style.draw_pale(axis, series, "positions_per_problem")
    levels = []  # of the methods that are one sample, to read the lines against
    for series, label, look in coloured:
        style.draw_line(axis, series, "positions_per_problem", look)
        if len(series) == 1 and "n" in series and not series["n"].iloc[0] > 1:
            dashes = {"linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
            axis.axhline(series["accuracy"].iloc[0], color=look.colour, **dashes)
            levels.append(label)
    style.log_ticks(axis.xaxis)
    remark = " (grey: other settings)" if grey else ""
    axis.set_xlabel("positions forwarded per problem" + remark, loc="left")
    style.percent_axis(axis, "accuracy")
    edge = axis.get_xlim()[1]
    labels = []
    for series, label, look in coloured:
        x, y = series[["positions_per_problem", "accuracy"]].iloc[-1]
        labels.append((edge if label in levels else x, y, label, look.colour))
    vary = [key for key in SETTING[2:] if power[key].nunique() > 1]
    first = ", ".join(_written(key, coloured[0][0][key].iloc[0]) for key in vary)
    style.finish(axis, "Accuracy at equal cost" + (f" ({first})" if first else ""), labels)
    parts = [part for part in (power.assign(method="power"), other) if len(part)] or [other]
    return figure, pandas.concat(parts, ignore_index=True)


def acceptance_by_step(series: Iterable[Row]) -> Drawn:
    """Share of proposals accepted at each step, of rows with step, acceptance and a setting."""
    frame = style.numbers(series, [*SETTING, "step", "acceptance"]).fillna(DEFAULTS)
    frame = frame.sort_values([*ORDER, "step"], ignore_index=True)
    figure, (axis,) = style.new_figure()
    groups = _groups(frame)
    names, remark = _group_names(groups)
    labels = []
    for key, rows, look in groups:
        line = {"color": look.colour, "marker": look.marker, "markersize": 4}
        width = 1.5 if key in names else 0.8
        axis.plot(rows["step"], rows["acceptance"], linewidth=width, **line)
        if key in names:
            last = rows["acceptance"].iloc[-1]
            labels.append((rows["step"].max(), last, names[key], look.colour))
    axis.set_ylim(0, 1)
    axis.set_xlabel("Metropolis-Hastings step" + remark)
    style.integer_ticks(axis)
    style.percent_axis(axis, "proposals accepted")
    style.finish(axis, "Acceptance by step", labels)
    return figure, frame


def figures(
    points: list[Row], others: list[Row], series: list[Row], main: tuple[float, float] = MAIN
) -> dict[str, Drawn]:
    """Every figure of a grid that it has rows for, by name."""
    drawn = {}
    if points:
        drawn["accuracy_by_alpha"] = accuracy_by_alpha(points)
        drawn["accuracy_by_steps"] = accuracy_by_steps(points)
    drawn["accuracy_by_positions"] = accuracy_by_positions(points, others, main)
    if series:
        drawn["acceptance_by_step"] = acceptance_by_step(series)
    return drawn
