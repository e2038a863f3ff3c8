"""The figures of power sampling's chains and samples, and of sharpening against training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes

from nanolab.figures import style
from nanolab.figures.style import BLACK, BLUE, GREY, METHOD_STYLES, RED, SKY, Drawn, Look, Row
from nanolab.samplers.diagnostics import clustered_mean
from nanolab.statistics import wilson
from nanolab.wording import MODEL_LABELS, model_label

Record = Mapping[str, Any]  # one problem with its "chains", or with its "samples"

BINS = 10
SINGLE_CHAINS = 4  # that are drawn faint, of each kind
NORMAL_95 = 1.959964  # standard errors of a 95% interval
ENDS = {"right": (BLUE, "o", "-"), "wrong": (RED, "s", (0, (5, 2)))}  # how a chain ends
TRAJECTORY = ["ends", "step", "chains", "mean", "low", "high"]
RELIABILITY = [
    "group",
    *("from_log_p", "to_log_p", "n", "passed", "accuracy", "low", "high", "auc"),
]


def _share(name: str, flags: Sequence[bool]) -> Row:
    """{name, low, high} of a share with its 95% Wilson interval; NaN without flags, where there is
    nothing to draw.
    """
    if not flags:
        return {name: math.nan, "low": math.nan, "high": math.nan}
    low, high = wilson(sum(flags), len(flags))
    return {name: sum(flags) / len(flags), "low": low, "high": high}


def _boundary(axis: Axes, x: float) -> None:
    """A line that keeps two parts of a figure apart."""
    axis.axvline(x, color=GREY, linewidth=0.7, linestyle=(0, (3, 3)))


def acceptance_by_cut(records: Iterable[Record]) -> Drawn:
    """Share of proposals accepted, and of those that changed the state, by where the state was cut.

    Power records. Rows: place, from, to (cut / of; both 0 for a restart, which is a cut at the
    first token), steps, accepted, moved, acceptance with its interval low to high, effective_moves.
    The intervals take steps as independent.
    """
    bins: list[list[Any]] = [[] for _ in range(BINS + 1)]
    for record in records:
        for chain in record["chains"]:
            for step in chain["steps"]:
                bins[1 + BINS * step["cut"] // step["of"] if step["cut"] else 0].append(step)
    rows = []
    for i, steps in enumerate(bins):
        begin, end = max(0, i - 1) / BINS, i / BINS
        moved = sum(step["moved"] for step in steps)
        rows.append(
            {
                "place": f"{begin:.1f} to {end:.1f}" if i else "restart",
                "from": begin,
                "to": end,
                "steps": len(steps),
                "accepted": sum(step["accepted"] for step in steps),
                "moved": moved,
                **_share("acceptance", [step["accepted"] for step in steps]),
                "effective_moves": moved / len(steps) if steps else math.nan,
            }
        )
    frame = pandas.DataFrame(rows)
    figure, (axis,) = style.new_figure()
    style.set_title(axis, "Acceptance by the place of the cut")
    if not any(bins):
        style.no_data(axis)
        return figure, frame
    middles = [-0.12, *((row["from"] + row["to"]) / 2 for row in rows[1:])]
    known = frame.assign(x=middles)[frame["steps"] > 0]
    restart = known["place"] == "restart"
    labels = []
    for y, label, look, drawn in (
        ("effective_moves", "state changed", Look(SKY, "o"), known.drop(columns=["low", "high"])),
        ("acceptance", "accepted", Look(BLUE, "s"), known),
    ):
        style.draw_line(axis, drawn[restart], "x", look, y)
        style.draw_line(axis, drawn[~restart], "x", look, y)
        labels.append((*known[["x", y]].iloc[-1], label, look.colour))
    _boundary(axis, -0.03)
    axis.set_xlim(-0.2, 1)
    ticks = {-0.12: "restart"} | {tick: f"{tick:g}" for tick in (0, 0.2, 0.4, 0.6, 0.8, 1)}
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlabel("tokens kept, as a share of the state's tokens")
    style.from_zero(axis)
    style.percent_axis(axis, "share of steps")
    style.end_labels(axis, labels)
    return figure, frame


def _trajectory(ends: str, paths: list[tuple[int, numpy.ndarray]]) -> pandas.DataFrame:
    """The mean of some chains' log p by step with its band; `paths` are (problem, log p)."""
    rows = []
    for step in range(max(len(path) for _, path in paths)):
        there = [(problem, path[step]) for problem, path in paths if step < len(path)]
        mean, error = clustered_mean([value for _, value in there], [own for own, _ in there])
        band = NORMAL_95 * error
        rows.append((ends, step, len(there), mean, mean - band, mean + band))
    return pandas.DataFrame(rows, columns=TRAJECTORY)


def log_p_trajectories(records: Iterable[Record]) -> Drawn:
    """Mean log p (nats) of the chains' states by step, chains that end right against chains that
    end wrong.

    Power records. Rows: ends (right, wrong), step, chains, mean, low, high: 95% band of the mean,
    clustered by problem, NaN for fewer than two problems. A few single chains are drawn faint.
    """
    chains = [
        (chain["passed"], problem, numpy.asarray(chain["log_p_by_step"], dtype=float))
        for problem, record in enumerate(records)
        for chain in record["chains"]
    ]
    figure, (axis,) = style.new_figure()
    frames, labels = [], []
    for ends, (colour, marker, dashes) in ENDS.items():
        own = [(problem, path) for passed, problem, path in chains if passed == (ends == "right")]
        if not own:
            continue
        faint = {"linewidth": 0.6, "alpha": 0.35, "drawstyle": "steps-post"}
        for _, path in own[:: max(1, math.ceil(len(own) / SINGLE_CHAINS))]:
            axis.plot(range(len(path)), path, color=colour, **faint)
        frame = _trajectory(ends, own)
        frames.append(frame)
        steps, means, sparse = frame["step"], frame["mean"], max(1, len(frame) // 10)
        axis.fill_between(steps, frame["low"], frame["high"], color=colour, alpha=0.2, linewidth=0)
        line = {"marker": marker, "markersize": 4, "linewidth": 1.8, "markevery": sparse}
        axis.plot(steps, means, color=colour, linestyle=dashes, **line)
        labels.append((len(frame) - 1, means.iloc[-1], f"end {ends} ({len(own)})", colour))
    frame = (
        pandas.concat(frames, ignore_index=True)
        if frames
        else pandas.DataFrame([], columns=TRAJECTORY)
    )
    if frames:  # a single chain may start far below the others: it may leave the plot
        states = numpy.concatenate([path for *_, path in chains])
        bands = frame[["mean", "low", "high"]].to_numpy().ravel()
        seen = [*numpy.nanquantile(states, [0.1, 0.9]), *bands]
        axis.set_ylim(numpy.nanmin(seen) - 0.3, numpy.nanmax(seen) + 0.3)
    style.integer_ticks(axis)
    axis.set_xlabel("Metropolis-Hastings step")
    axis.set_ylabel("log p, nats")
    style.finish(axis, "log p of the chains' states", labels)
    return figure, frame


def within_problem_auc(samples: Sequence[Record]) -> float:
    """Chance that a right sample of a problem has a higher log p than a wrong one, a tie counting
    half; NaN unless it has both.
    """
    right = numpy.array([sample["log_p"] for sample in samples if sample["passed"]])[:, None]
    wrong = numpy.array([sample["log_p"] for sample in samples if not sample["passed"]])[None, :]
    pairs = (right > wrong) + 0.5 * (right == wrong)
    return float(pairs.mean()) if pairs.size else math.nan


def _deciles(samples: list[Record]) -> list[Row]:
    """Accuracy by decile of log p; fewer with under ten samples."""
    samples = sorted(samples, key=lambda sample: sample["log_p"])
    parts = numpy.array_split(numpy.arange(len(samples)), min(BINS, len(samples)) or 1)
    rows = []
    for i, places in enumerate(parts if samples else []):
        own = [samples[place] for place in places]
        passed = [sample["passed"] for sample in own]
        rows.append(
            {
                "group": f"decile {i + 1}",
                "from_log_p": own[0]["log_p"],
                "to_log_p": own[-1]["log_p"],
                "n": len(own),
                "passed": sum(passed),
                **_share("accuracy", passed),
            }
        )
    return rows


def _preferred(problems: list[Sequence[Record]]) -> list[Row]:
    """Which sample log p prefers within problems that have both right and wrong ones, and what any
    sample would give.
    """
    if not problems:
        return []
    # the first of equals, as best-of-n takes it
    best = [max(own, key=lambda sample: sample["log_p"])["passed"] for own in problems]
    shares = [sum(sample["passed"] for sample in own) / len(own) for own in problems]
    auc = float(numpy.mean([within_problem_auc(own) for own in problems]))
    count = {"n": len(problems)}
    highest = {"passed": sum(best), **_share("accuracy", best), "auc": auc}
    return [
        {"group": "highest log p", **count, **highest},
        {"group": "any sample", **count, "accuracy": float(numpy.mean(shares))},
    ]


def log_p_reliability(samples: Iterable[Record]) -> Drawn:
    """Whether log p is a score: accuracy by its decile over all samples, and which sample it
    prefers within a problem.

    Samples records. Rows: group ("decile 1" .. "decile 10", fewer with under ten samples; then, of
    the problems that have both right and wrong samples, "highest log p" and "any sample": the mean
    share of right ones), from_log_p, to_log_p (nats), n (samples, or problems), passed, accuracy,
    low, high, auc: chance that a right sample has the higher log p, averaged over those problems.
    """
    problems = [record["samples"] for record in samples]
    mixed = [own for own in problems if len({bool(sample["passed"]) for sample in own}) == 2]
    deciles = _deciles([sample for own in problems for sample in own])
    preferred = _preferred(mixed)
    frame = pandas.DataFrame([*deciles, *preferred]).reindex(columns=RELIABILITY)
    figure, (axis,) = style.new_figure()
    auc = f" AUC within a problem: {preferred[0]['auc']:.2f}" if mixed else ""
    style.set_title(axis, f"Is log p a score?{auc}")
    if not deciles:
        style.no_data(axis)
        return figure, frame
    count = len(deciles)
    ticks = {place: str(place) for place in range(1, count + 1)}
    style.draw_line(axis, frame[:count].assign(x=list(ticks)), "x", Look(BLUE, "o"))
    if mixed:
        highest, anything = count + 2, count + 3.6
        style.draw_line(axis, frame[count : count + 1].assign(x=highest), "x", Look(RED, "s"))
        style.draw_line(axis, frame[count + 1 :].assign(x=anything), "x", Look(BLACK, "D"))
        _boundary(axis, count + 1)
        ticks |= {highest: "highest", anything: "any"}
    axis.set_xticks(list(ticks), list(ticks.values()))
    within = f"  |  in {len(mixed)} mixed problems" if mixed else ""
    axis.set_xlabel(f"decile of log p ({sum(map(len, problems))} samples){within}")
    style.from_zero(axis)
    style.percent_axis(axis, "samples that are right")
    return figure, frame


def pass_at_k(rows: Iterable[Row]) -> Drawn:
    """Chance that one of k samples is right, against k (log2 axis). Rows: method (its label), k,
    pass_at_k, and low, high.
    """
    frame = style.numbers(rows, ["k", "pass_at_k", "low", "high"], ["method"])
    figure, (axis,) = style.new_figure()
    labels = []
    style.log2_ticks(axis, frame["k"].tolist())
    for i, (method, own) in enumerate(frame.groupby("method", sort=False)):
        own, look = own.assign(k=own["k"] * 1.02**i).sort_values("k"), style.look(i)
        style.draw_line(axis, own, "k", look, "pass_at_k")
        labels.append((*own[["k", "pass_at_k"]].iloc[-1], method, look.colour))
    axis.set_xlabel("k, samples a problem")
    style.percent_axis(axis, "pass@k")
    style.finish(axis, "Chance that one of k samples is right", labels)
    return figure, frame


def methods_by_model(rows: Iterable[Row]) -> Drawn:
    """Sharpening against training: accuracy of every method on every model. Rows: model, method,
    accuracy, and low, high, total.
    """
    frame = style.numbers(rows, ["accuracy", "low", "high", "total"], ["model", "method"])
    figure, (axis,) = style.new_figure(height=3.4)
    known = list(MODEL_LABELS)
    models = sorted(
        frame["model"].unique(),
        key=lambda model: (known.index(model) if model in known else len(known), model),
    )
    methods = [method for method in METHOD_STYLES if method in set(frame["method"])]
    width, places = style.bar_places(len(methods), len(models), 0.84)
    for method, own_places in zip(methods, places):
        label, colour, _, hatch = METHOD_STYLES[method]
        own = frame[frame["method"] == method].drop_duplicates("model", keep="last")
        own = own.set_index("model").reindex(models)
        fill = {"color": colour, "edgecolor": "white", "linewidth": 0}
        if method == "greedy":
            fill = {"color": "white", "edgecolor": colour, "linewidth": 0.9}
        bars = axis.bar(
            own_places,
            own["accuracy"],
            width * 0.9,
            label=label,
            hatch=hatch,
            yerr=style.interval_errors(own),
            error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": BLACK},
            **fill,
        )
        for bar in bars:
            bar.set_hatch_linewidth(0.6)
    counts = frame.groupby("model")["total"].max().reindex(models)
    names = [model_label(model) for model in models]
    remarks = ["" if pandas.isna(n) else f"\nn = {n:.0f}" for n in counts]
    style.named_groups(axis, [name + remark for name, remark in zip(names, remarks)])
    style.percent_axis(axis, "accuracy")
    if methods:
        axis.set_ylim(0, min(1.0, axis.get_ylim()[1]))
        style.legend_above(axis, 3, (0.5, 0.99), handlelength=1.6)
    else:
        style.no_data(axis)
    style.set_figure_title(figure, "Sharpening against training")
    return figure, frame
