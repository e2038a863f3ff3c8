"""The figures of power sampling's chains and samples, and of sharpening against training.

Each function takes records, as they are read back from disk, and returns (figure, DataFrame), so that the numbers go along.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanolab.intervals import wilson
from nanolab.report.canvas import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    METHOD_STYLES,
    MODEL_LABELS,
    POWER_STYLE,
    RED,
    SKY,
    Row,
    draw_line,
    end_labels,
    interval_errors,
    log2_ticks,
    new_figure,
    no_data,
    percent_axis,
    set_title,
)
from nanolab.samplers.diagnostics import clustered_mean

Record = Mapping[str, Any]  # one problem with its "chains", or with its "samples"

BINS = 10
FAINT = 4  # single chains drawn of each kind
HATCHES = {
    "low_temperature": "....",
    "plain": "////",
    "best_of": "\\\\\\\\",
    "majority": "xxxx",
    "smc": "||||",
    "rollout": "----",
    "chain_vote": "++++",
    "most_likely": "oo",
}  # bars stay apart in black and white; greedy is white, power is full
METHODS = {
    **{
        name: METHOD_STYLES[name]
        for name in ("greedy", "low_temperature", "plain", "best_of", "majority")
    },
    "power": POWER_STYLE,
    **METHOD_STYLES,
}  # in the order of the bars


def _proportion(name: str, flags: Sequence[bool]) -> Row:
    """{name, low, high} of a share with its 95% Wilson interval; NaN without flags, where there is nothing to draw."""
    low, high = wilson(sum(flags), len(flags)) if flags else (math.nan, math.nan)
    return {name: sum(flags) / len(flags) if flags else math.nan, "low": low, "high": high}


def acceptance_by_cut(records: Iterable[Record]) -> tuple[Figure, pandas.DataFrame]:
    """Share of proposals accepted, and of those that changed the state, by where the state was cut.

    Power records. Rows: place, from, to (cut / of; both 0 for a restart, which is a cut at the first token), steps, accepted, moved,
    acceptance with its interval low to high, effective_moves. The intervals take steps as independent.
    """
    steps = [step for record in records for chain in record["chains"] for step in chain["steps"]]
    places: list[list[Any]] = [[] for _ in range(BINS + 1)]
    for step in steps:
        places[1 + BINS * step["cut"] // step["of"] if step["cut"] else 0].append(step)
    rows = [
        {
            "place": "restart" if i == 0 else f"{(i - 1) / BINS:.1f} to {i / BINS:.1f}",
            "from": max(0, i - 1) / BINS,
            "to": i / BINS,
            "steps": len(own),
            "accepted": sum(step["accepted"] for step in own),
            "moved": sum(step["moved"] for step in own),
            **_proportion("acceptance", [step["accepted"] for step in own]),
            "effective_moves": sum(step["moved"] for step in own) / len(own) if own else math.nan,
        }
        for i, own in enumerate(places)
    ]
    frame = pandas.DataFrame(rows)
    figure, (axis,) = new_figure()
    set_title(axis, "Acceptance by the place of the cut")
    if not steps:
        no_data(axis)
        return figure, frame
    frame["x"] = [-0.12, *((row["from"] + row["to"]) / 2 for row in rows[1:])]
    labels = []
    seen = frame[frame["steps"] > 0]
    for y, label, colour, marker in (
        ("effective_moves", "state changed", SKY, "o"),
        ("acceptance", "accepted", BLUE, "s"),
    ):
        shown = seen if y == "acceptance" else seen.drop(columns=["low", "high"])
        for part in (shown[shown["place"] == "restart"], shown[shown["place"] != "restart"]):
            draw_line(axis, part, "x", colour, marker, y=y)
        labels.append((seen["x"].iloc[-1], seen[y].iloc[-1], label, colour))
    axis.axvline(-0.03, color=GREY, linewidth=0.7, linestyle=(0, (3, 3)))
    axis.set_xlim(-0.2, 1)
    axis.set_xticks(
        [-0.12, 0, 0.2, 0.4, 0.6, 0.8, 1], ["restart", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    )
    axis.set_xlabel("tokens kept, as a share of the state's tokens")
    _from_zero(axis)
    percent_axis(axis, "share of steps")
    end_labels(axis, labels)
    return figure, frame.drop(columns="x")


def _from_zero(axis: Axes) -> None:
    """A share's axis from 0 to what is drawn, with a little air, at most to 1."""
    axis.set_ylim(-0.02, min(1.02, max(0.1, axis.get_ylim()[1])))


def log_p_trajectories(records: Iterable[Record]) -> tuple[Figure, pandas.DataFrame]:
    """Mean log p (nats) of the chains' states by step, chains that end right against chains that end wrong.

    Power records. Rows: ends (right, wrong), step, chains, mean, low, high: 95% band of the mean, clustered by problem, NaN for
    fewer than two problems. A few single chains are drawn faint.
    """
    chains = [(i, chain) for i, record in enumerate(records) for chain in record["chains"]]
    rows: list[Row] = []
    figure, (axis,) = new_figure()
    set_title(axis, "log p of the chains' states")
    labels = []
    for ends, colour, marker, dashes in (
        ("right", BLUE, "o", "-"),
        ("wrong", RED, "s", (0, (5, 2))),
    ):
        own = [
            (i, numpy.asarray(chain["log_p_by_step"], dtype=float))
            for i, chain in chains
            if chain["passed"] == (ends == "right")
        ]
        if not own:
            continue
        longest = max(len(path) for _, path in own)
        for _, path in own[:: max(1, math.ceil(len(own) / FAINT))]:
            axis.plot(
                range(len(path)),
                path,
                color=colour,
                linewidth=0.6,
                alpha=0.35,
                drawstyle="steps-post",
            )
        for step in range(longest):
            there = [(i, path[step]) for i, path in own if step < len(path)]
            mean, error = clustered_mean([value for _, value in there], [i for i, _ in there])
            rows.append(
                {
                    "ends": ends,
                    "step": step,
                    "chains": len(there),
                    "mean": mean,
                    "low": mean - 1.959964 * error,
                    "high": mean + 1.959964 * error,
                }
            )
        frame = pandas.DataFrame(rows[-longest:])
        axis.fill_between(
            frame["step"], frame["low"], frame["high"], color=colour, alpha=0.2, linewidth=0
        )
        axis.plot(
            frame["step"],
            frame["mean"],
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=4,
            linewidth=1.8,
            markevery=max(1, longest // 10),
        )
        labels.append((longest - 1, frame["mean"].iloc[-1], f"end {ends} ({len(own)})", colour))
    if rows:  # a single chain may start far below the others: it may leave the plot
        states = numpy.concatenate([chain["log_p_by_step"] for _, chain in chains]).astype(float)
        ends = [
            *numpy.nanquantile(states, [0.1, 0.9]),
            *(row[key] for row in rows for key in ("mean", "low", "high")),
        ]
        axis.set_ylim(numpy.nanmin(ends) - 0.3, numpy.nanmax(ends) + 0.3)
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axis.set_xlabel("Metropolis-Hastings step")
    axis.set_ylabel("log p, nats")
    end_labels(axis, labels)
    if not rows:
        no_data(axis)
    return figure, pandas.DataFrame(rows, columns=["ends", "step", "chains", "mean", "low", "high"])


def within_problem_auc(samples: Sequence[Record]) -> float:
    """Chance that a right sample of a problem has a higher log p than a wrong one, a tie counting half; NaN unless it has both."""
    right = numpy.array([sample["log_p"] for sample in samples if sample["passed"]])[:, None]
    wrong = numpy.array([sample["log_p"] for sample in samples if not sample["passed"]])[None, :]
    pairs = (right > wrong) + 0.5 * (right == wrong)
    return float(pairs.mean()) if pairs.size else math.nan


def log_p_reliability(samples: Iterable[Record]) -> tuple[Figure, pandas.DataFrame]:
    """Whether log p is a score: accuracy by its decile over all samples, and which sample it prefers within a problem.

    Samples records. Rows: group ("decile 1" .. "decile 10", fewer with under ten samples; then, of the problems that have both right and
    wrong samples, "highest log p" and "any sample": the mean share of right ones), from_log_p, to_log_p (nats), n (samples, or
    problems), passed, accuracy, low, high, auc: chance that a right sample has the higher log p, averaged over those problems.
    """
    problems = [record["samples"] for record in samples]
    every = sorted(
        (sample for own in problems for sample in own), key=lambda sample: sample["log_p"]
    )
    rows: list[Row] = []
    for i, places in enumerate(
        numpy.array_split(numpy.arange(len(every)), min(BINS, len(every)) or 1)
    ):
        own = [every[place] for place in places]
        if own:
            rows.append(
                {
                    "group": f"decile {i + 1}",
                    "from_log_p": own[0]["log_p"],
                    "to_log_p": own[-1]["log_p"],
                    "n": len(own),
                    "passed": sum(sample["passed"] for sample in own),
                    **_proportion("accuracy", [sample["passed"] for sample in own]),
                }
            )
    deciles = len(rows)
    mixed = [own for own in problems if len({bool(sample["passed"]) for sample in own}) == 2]
    if mixed:
        best = [
            max(own, key=lambda sample: sample["log_p"])["passed"] for own in mixed
        ]  # the first of equals, as best-of-n takes it
        auc = float(numpy.mean([within_problem_auc(own) for own in mixed]))
        share = float(
            numpy.mean([sum(sample["passed"] for sample in own) / len(own) for own in mixed])
        )
        rows.append(
            {
                "group": "highest log p",
                "n": len(mixed),
                "passed": sum(best),
                **_proportion("accuracy", best),
                "auc": auc,
            }
        )
        rows.append({"group": "any sample", "n": len(mixed), "accuracy": share})
    frame = pandas.DataFrame(rows).reindex(
        columns=["group", "from_log_p", "to_log_p", "n", "passed", "accuracy", "low", "high", "auc"]
    )
    figure, (axis,) = new_figure()
    set_title(axis, "Is log p a score?" + (f" AUC within a problem: {auc:.2f}" if mixed else ""))
    if not every:
        no_data(axis)
        return figure, frame
    draw_line(axis, frame[:deciles].assign(x=range(1, deciles + 1)), "x", BLUE, "o")
    ticks = dict(zip(range(1, deciles + 1), map(str, range(1, deciles + 1))))
    if mixed:
        draw_line(axis, frame[deciles : deciles + 1].assign(x=deciles + 2), "x", RED, "s")
        draw_line(axis, frame[deciles + 1 :].assign(x=deciles + 3.6), "x", BLACK, "D")
        axis.axvline(deciles + 1, color=GREY, linewidth=0.7, linestyle=(0, (3, 3)))
        ticks |= {deciles + 2: "highest", deciles + 3.6: "any"}
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlabel(
        f"decile of log p ({len(every)} samples)"
        + (f"  |  in {len(mixed)} mixed problems" if mixed else "")
    )
    _from_zero(axis)
    percent_axis(axis, "samples that are right")
    return figure, frame


def pass_at_k(rows: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Chance that one of k samples is right, against k (log2 axis). Rows: method (its label), k, pass_at_k, and low, high."""
    frame = pandas.DataFrame(list(rows)).reindex(
        columns=["method", "k", "pass_at_k", "low", "high"]
    )
    frame[["k", "pass_at_k", "low", "high"]] = frame[["k", "pass_at_k", "low", "high"]].apply(
        pandas.to_numeric
    )
    figure, (axis,) = new_figure()
    labels = []
    log2_ticks(axis, frame["k"].tolist())
    for i, (method, own) in enumerate(frame.groupby("method", sort=False)):
        own, colour = own.sort_values("k"), COLOURS[i % len(COLOURS)]
        draw_line(
            axis,
            own.assign(k=own["k"] * 1.02**i),
            "k",
            colour,
            MARKERS[i % len(MARKERS)],
            y="pass_at_k",
        )
        labels.append((own["k"].iloc[-1] * 1.02**i, own["pass_at_k"].iloc[-1], method, colour))
    axis.set_xlabel("k, samples a problem")
    percent_axis(axis, "pass@k")
    end_labels(axis, labels)
    set_title(axis, "Chance that one of k samples is right")
    if not labels:
        no_data(axis)
    return figure, frame


def methods_by_model(rows: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Sharpening against training: accuracy of every method on every model. Rows: model, method, accuracy, and low, high."""
    frame = pandas.DataFrame(list(rows)).reindex(
        columns=["model", "method", "accuracy", "low", "high"]
    )
    frame[["accuracy", "low", "high"]] = frame[["accuracy", "low", "high"]].apply(pandas.to_numeric)
    figure, (axis,) = new_figure(height=3.4)
    models = sorted(
        frame["model"].unique(),
        key=lambda model: (list(MODEL_LABELS).index(model) if model in MODEL_LABELS else 99, model),
    )
    methods = [method for method in METHODS if method in set(frame["method"])]
    width = 0.84 / max(1, len(methods))
    for i, method in enumerate(methods):
        label, colour, _ = METHODS[method]
        own = (
            frame[frame["method"] == method]
            .drop_duplicates("model", keep="last")
            .set_index("model")
            .reindex(models)
        )
        places = [j - 0.42 + width * (i + 0.5) for j in range(len(models))]
        plain = method == "greedy"
        bars = axis.bar(
            places,
            own["accuracy"],
            width * 0.9,
            color="white" if plain else colour,
            label=label,
            hatch=HATCHES.get(method),
            edgecolor=colour if plain else "white",
            linewidth=0.9 if plain else 0,
            yerr=interval_errors(own),
            error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": BLACK},
        )
        for bar in bars:
            bar.set_hatch_linewidth(0.6)
    axis.set_xticks(range(len(models)), [MODEL_LABELS.get(model, model) for model in models])
    axis.tick_params(axis="x", length=0)
    percent_axis(axis, "accuracy")
    if methods:
        axis.set_ylim(0, min(1.0, axis.get_ylim()[1]))
        axis.legend(
            ncol=3,
            fontsize=8,
            frameon=False,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.99),
            columnspacing=1,
            handlelength=1.6,
        )
    else:
        no_data(axis)
    figure.suptitle(
        "Sharpening against training", fontsize=9.5, fontweight="bold", x=0.02, ha="left"
    )
    return figure, frame
