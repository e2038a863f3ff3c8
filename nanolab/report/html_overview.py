"""The first and last sections of report.html: results with their intervals and paired tests, plan
beside actual cost, provenance.
"""

import time
from collections.abc import Callable
from typing import Any

from nanolab import wording
from nanolab.report import outside
from nanolab.report.document import measured_of, other_power_steps
from nanolab.report.environment_section import EXECUTION
from nanolab.report.sections import SUMMARY_LABELS
from nanolab.report.templates import Links, macros
from nanolab.results import Score, accuracies, answered, first, select
from nanolab.settings.evaluation_stages import CHAT_TASKS
from nanolab.tracking import comparable
from nanolab.wording import (
    METHODS,
    MODEL_LABELS,
    RL_WAYS,
    TASK_LABELS,
    TASKS,
    decimals,
    duration,
    hours_and_minutes,
    is_missing,
    or_dash,
    p_value,
    share,
    short,
    whole,
)

Values = dict[str, Any]
WIDTH, HEIGHT, MARGIN = 120, 16, 4  # of an interval's drawing, in pixels
MEMORY_NAMES = {
    "system/processes_memory_megabytes": "the stage's processes",
    "system/gpu_0_memory_usage_megabytes": "GPU 0",
}


def chapters(values: Values, links: Links) -> list[tuple[str, str]]:
    """(heading, content) of the overview: what there is of tasks, power sampling, reinforcement
    learning and cost.
    """
    found = {
        "Results": tasks(values, links),
        "Power sampling beside the other methods": methods(values, links),
        "Before and after reinforcement learning": reinforcement(values, links),
        "Plan and actual cost": cost(values, links),
    }
    return [(heading, content) for heading, content in found.items() if content]


def interval(row: Score, scale: tuple[float, float] = (0.0, 1.0)) -> str:
    """A drawing of an accuracy with its interval on `scale`, and a tick at chance; empty without an
    interval.
    """
    if row.low is None or row.high is None:
        return ""

    def place(number: float) -> str:
        within = (number - scale[0]) / ((scale[1] - scale[0]) or 1)
        return f"{MARGIN + (WIDTH - 2 * MARGIN) * min(1.0, max(0.0, within)):.1f}"

    return macros("overview").interval(
        f"{share(row.value)}, 95% interval {wording.interval(row)}",
        *map(place, (row.value, row.low, row.high)),
        place(row.chance) if row.chance and row.chance > 0 else "",
        (WIDTH, HEIGHT, MARGIN),
    )


def span_of(rows: list[Score]) -> tuple[float, float]:
    """The scale that shows every interval of some rows: to the next tenths."""
    lows = [row.low for row in rows if row.low is not None]
    highs = [row.high for row in rows if row.high is not None]
    if not lows:
        return 0.0, 1.0
    return int(min(lows) * 10) / 10, min(1.0, (int(max(highs) * 10) + 1) / 10)


def _range(row: Score) -> str:
    return "" if row.low is None else f"{row.low:.3f} to {row.high:.3f}"


def _table(header: list[str], rows: list[list[str]], numbers: tuple[int, ...] = ()) -> str:
    """A table; the columns `numbers` are aligned to the right."""
    columns = [{"class": "number"} if i in numbers else {} for i in range(len(header))]
    return macros("elements").table(header, rows, columns)


def tasks(values: Values, links: Links) -> str:
    """Every task by model: accuracy, its interval drawn, its interval in figures."""
    measured = measured_of(values)
    models = outside.asked(values["steps"])
    rows = {model: measured[step] for model, step in models.items() if step in measured}
    rows = {
        model: found
        for model, found in rows.items()
        if any(answered(found, task) for task in TASKS)
    }
    if not rows:
        return ""
    trained = rows.keys() & MODEL_LABELS.keys()  # whose tasks are those of the form
    html = macros("overview")

    def cell(model: str, row: Score | None) -> str:
        if row is None:
            return "-"
        value = links.of(models[model], share(row.value), row.name)
        if row.metric != "accuracy":
            return html.score(value)
        n = "" if row.n is None else f", n = {whole(row.n)}"
        return html.score(value, interval(row), _range(row) + n)

    cells = []
    for label, key in SUMMARY_LABELS.items():
        if key in TASKS:
            found = {model: answered(of, key) for model, of in rows.items()}
        else:
            found = {model: first(of, metric=key) for model, of in rows.items()}
        if (key in CHAT_TASKS and trained) or any(found.values()):
            cells.append([html.strong(label), *(cell(*one) for one in found.items())])
    note = (
        "Accuracy with its 95% Wilson interval, on a scale from 0 to 1; the thin tick is chance."
        " Every number links to its MLflow run."
    )
    columns = {wording.model_label(model): values["steps"][models[model]] for model in rows}
    table = macros("elements").table(["task", *columns], cells, attributes={"class": "matrix"})
    return table + html.notes([note, *comparable.notes(columns, TASK_LABELS)])


def methods(values: Values, links: Links) -> str:
    """For each power evaluation: power sampling and every method on the same problems, with cost
    and paired test.
    """
    rows = measured_of(values)
    steps = [step for step in ["power_eval", *other_power_steps(rows)] if step in rows]
    found = [_evaluation(step, values["steps"][step], rows[step], links) for step in steps]
    return macros("overview").joined(found)


def _evaluation(step: str, settings: Values, measured: list[Score], links: Links) -> str:
    """The methods of one power evaluation; empty where it has no accuracy."""
    by_method = accuracies(measured)
    if "power" not in by_method:
        return ""
    power = by_method["power"]
    rows = {method: by_method[method] for method in METHODS if method in by_method}
    scale = span_of(list(rows.values()))
    header = [
        "method",
        "accuracy",
        f"{scale[0]:.1f} to {scale[1]:.1f}",
        "95% interval",
        "positions a problem",
        "McNemar p against power",
    ]
    source = settings.get("source", "sft")
    facts = [TASKS[power.task], f"{wording.model_label(source)} model"]
    engine = outside.engine_of(settings)
    facts += [] if engine == "nanolab" else [f"engine {engine}"]
    facts += [] if power.n is None else [f"{whole(power.n)} problems"]
    facts += [
        f"{name} {float(settings[name]):g}"
        for name in ("alpha", "num_steps")
        if not is_missing(settings.get(name))
    ]
    cells = []
    for method, row in rows.items():
        more = or_dash(row.positions, whole), or_dash(row.p_value, p_value)
        more = [links.of(step, text) for text in more]
        cells.append([*_accuracy_cells(METHODS[method], step, row, links, scale), *more])
    return macros("overview").titled(", ".join(facts), _table(header, cells, (1, 3, 4, 5)))


def _accuracy_cells(
    label: str, step: str, row: Score, links: Links, scale: tuple[float, float] = (0.0, 1.0)
) -> list[str]:
    """What a row is called, its accuracy, and its interval, drawn and in figures."""
    accuracy = links.of(step, share(row.value), row.name)
    return [label, accuracy, interval(row, scale), _range(row)]


def reinforcement(values: Values, links: Links) -> str:
    """The test problems before and after, with the paired test."""
    measured, cells = measured_of(values).get("rl", []), []
    for way, label in RL_WAYS.items():
        for moment in ("before", "after"):
            for row in select(measured, method=way, moment=moment):
                problems = links.of("rl", or_dash(row.n, whole), row.name)
                test = "" if moment == "before" else or_dash(row.p_value, p_value)
                start = _accuracy_cells(f"{label}, {moment}", "rl", row, links)
                cells.append([*start, problems, links.of("rl", test, row.name) if test else ""])
    header = ["answers", "accuracy", "0 to 1", "95% interval", "problems", "McNemar p"]
    return _table(header, cells, (1, 3, 4, 5)) if cells else ""


def cost(values: Values, links: Links) -> str:
    """Each step as planned and as it was: time, speed, memory, dollars."""
    costs = values.get("costs") or {"rows": []}
    rows = costs["rows"]
    if not rows:
        return ""
    planned, paid, peaks = (
        any(row[key] is not None for row in rows)
        for key in ("planned_hours", "dollars", "peak_gib")
    )

    def column(key: str, form: Callable[[Any], str]) -> Callable[[Values, str], str]:
        return lambda row, step: or_dash(row[key], form)

    def linked(key: str, form: Callable[[Any], str], name: str) -> Callable[[Values, str], str]:
        return lambda row, step: links.of(step, or_dash(row[key], form), name or row["memory_of"])

    def lasting(hours: float) -> str:
        return duration(hours * 3600)

    def ratio(row: Values, step: str) -> str:
        return f"{row['hours'] / row['planned_hours']:.2f}" if row["planned_hours"] else "-"

    columns = [  # heading, whether there is such a thing, what stands in the row of a step
        ("planned", planned, column("planned_hours", lasting)),
        ("took", True, linked("hours", lasting, "duration")),
        ("took / planned", planned, ratio),
        ("FLOPs planned", planned, column("flops", lambda flops: f"{flops:.1e}" if flops else "-")),
        ("tokens/s", True, linked("tokens_per_second", short, "tokens_per_second")),
        ("GiB planned", planned, column("planned_gib", decimals(2))),
        ("GiB peak", peaks, linked("peak_gib", decimals(2), "")),
        ("$ planned", paid, column("planned_dollars", decimals(2))),
        ("$", paid, column("dollars", decimals(2))),
    ]
    columns = [(heading, write) for heading, there, write in columns if there]
    sums = {
        key: [row[key] for row in rows]
        for key in ("planned_hours", "hours", "flops", "planned_dollars", "dollars")
    }
    # no sum of a part of the steps beside a sum of all
    whole = dict.fromkeys(rows[0]) | {
        key: None if None in found else sum(found) for key, found in sums.items()
    }
    strong = macros("overview").strong
    cells = [[row["step"], *(write(row, row["step"]) for _, write in columns)] for row in rows]
    cells.append([strong("all"), *(strong(write(whole, "")) for _, write in columns)])
    header = ["step", *(heading for heading, _ in columns)]
    table = _table(header, cells, tuple(range(1, len(header))))
    return table + macros("overview").notes([" ".join(_cost_notes(values, planned, peaks))])


def _cost_notes(values: Values, planned: bool, peaks: bool) -> list[str]:
    """What is compared with what, in sentences."""
    costs = values["costs"]
    no_plan = (
        "No plan stands beside these times: the settings of this execution were not recorded, or"
        " its device or its model is not in the table."
    )
    plan = (
        f"Planned for {costs['machine']} by the table of nanolab/costs/estimate.py, whose speeds"
        f" are {costs['source']}."
    )
    times = (
        "Time inside the steps, earlier attempts and reused steps included:"
        f" {hours_and_minutes(values.get('wall_clock_seconds'))}; this execution from its start to"
        f" its last step: {hours_and_minutes(values.get('elapsed_seconds'))}."
    )
    measured = {row["memory_of"] for row in costs["rows"] if row["memory_of"]}
    names = sorted(MEMORY_NAMES.get(name, name) for name in measured)
    memory = f"Peak memory is that of {', '.join(names)}, as MLflow's system metrics have it."
    return [plan if planned else no_plan, times, *([memory] if peaks else [])]


def provenance(values: Values, links: Links) -> list[tuple[str, str]]:
    """The run behind every step."""
    origins = values.get("origins", {})
    if not origins:
        return []
    html = macros("overview")
    rows = []
    for step, origin in origins.items():
        code = origin["commit"][:7] + (" (dirty)" if origin["dirty"] else "")
        rows.append(
            {
                "step": "the execution" if step == EXECUTION else step,
                "run": links.of(step, origin["name"]),
                "run id": html.code(origin["run_id"]),
                "started": time.strftime(
                    "%Y-%m-%d %H:%M:%S", time.localtime(origin["start"] / 1000)
                ),
                "took": duration(origin["seconds"]),
                "here or reused": "reused" if origin["reused"] else "ran here",
                "fingerprint": html.code(origin["fingerprint"] or "-"),
                "commit": code or "-",
                "data": origin["data"] or "-",
            }
        )
    note = (
        f"Links open the run in the MLflow UI at {links.server} (start it with: make ui). Where a"
        " page may not open another, as inside MLflow itself, a click shows the run's name and id"
        " instead."
    )
    table = _table(list(rows[0]), [list(row.values()) for row in rows], (4,))
    return [("Provenance", html.notes([note]) + table)]
