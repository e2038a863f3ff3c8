"""The first and last sections of report.html: results with their intervals and paired tests, plan beside actual cost, provenance."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from nanolab.report.collect import MODELS
from nanolab.report.formats import decimals, duration, hours, is_missing, or_dash, short
from nanolab.report.html_links import Links, tag
from nanolab.report.markdown import (
    EXECUTION,
    METHOD_LABELS,
    MODEL_LABELS,
    RL_WAYS,
    SUMMARY_LABELS,
    TASK_LABELS,
    other_power_steps,
)

Values = dict[str, Any]
WIDTH, HEIGHT = 120, 16  # of an interval's drawing, in pixels
MEMORY_NAMES = {
    "system/processes_memory_megabytes": "the stage's processes",
    "system/gpu_0_memory_usage_megabytes": "GPU 0",
}


def chapters(values: Values, links: Links) -> list[tuple[str, str]]:
    """(heading, content) of the overview: what there is of tasks, power sampling, reinforcement learning and cost."""
    found = [
        ("Results", tasks(values, links)),
        ("Power sampling beside the other methods", methods(values, links)),
        ("Before and after reinforcement learning", reinforcement(values, links)),
        ("Plan and actual cost", cost(values, links)),
    ]
    return [(heading, content) for heading, content in found if content]


def interval(
    value: Any, low: Any, high: Any, chance: Any = None, scale: tuple[float, float] = (0.0, 1.0)
) -> str:
    """A drawing of a share with its interval on `scale`, and a tick at chance; empty without an interval."""
    if is_missing(value) or is_missing(low) or is_missing(high):
        return ""
    least, most = scale

    def place(number: Any) -> str:
        return f"{4 + (WIDTH - 8) * min(1.0, max(0.0, (float(number) - least) / ((most - least) or 1))):.1f}"

    middle = HEIGHT // 2
    drawn = f'<line class="axis" x1="4" x2="{WIDTH - 4}" y1="{middle}" y2="{middle}"/>'
    if not is_missing(chance) and float(chance) > 0:
        drawn += f'<line class="chance" x1="{place(chance)}" x2="{place(chance)}" y1="2" y2="{HEIGHT - 2}"/>'
    drawn += (
        f'<line class="range" x1="{place(low)}" x2="{place(high)}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{place(value)}" cy="{middle}" r="3.5"/>'
    )
    said = f"{float(value):.4f}, 95% interval {float(low):.4f} to {float(high):.4f}"
    return (
        f'<svg class="interval" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f"<title>{said}</title>{drawn}</svg>"
    )


def span_of(rows: list[Values]) -> tuple[float, float]:
    """The scale that shows every interval of some rows: to the next tenths."""
    lows = [float(row["low"]) for row in rows if not is_missing(row.get("low"))]
    highs = [float(row["high"]) for row in rows if not is_missing(row.get("high"))]
    return (
        (int(min(lows) * 10) / 10, min(1.0, (int(max(highs) * 10) + 1) / 10))
        if lows
        else (0.0, 1.0)
    )


def _range(row: Values) -> str:
    return (
        "" if is_missing(row.get("low")) else f"{float(row['low']):.3f} to {float(row['high']):.3f}"
    )


def _p(value: Any) -> str:
    return or_dash(value, lambda number: f"{float(number):.3g}")


def _table(header: list[str], rows: list[list[str]], numbers: tuple[int, ...] = ()) -> str:
    """A table whose cells are HTML; the columns `numbers` are aligned to the right."""
    kinds = ["number" if place in numbers else None for place in range(len(header))]
    head = "".join(tag("th", name, class_=kind) for name, kind in zip(header, kinds))
    body = "".join(
        tag("tr", "".join(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds)))
        for row in rows
    )
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)) + tag("tbody", body)), class_="scroll"
    )


def tasks(values: Values, links: Links) -> str:
    """Every task by model: accuracy, its interval drawn, its interval in figures."""
    rows = values.get("task_results", [])
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    if not rows:
        return ""
    known = {(row["task"], row["model"]): row for row in rows}
    table = []
    for label, task in TASK_LABELS.items():
        cells = [tag("b", label)]
        for model in models:
            row = known.get((task, model))
            cells.append(
                "-"
                if row is None
                else tag(
                    "span",
                    links.of(MODELS[model], decimals(4)(row["accuracy"]), task),
                    class_="big",
                )
                + interval(row["accuracy"], row.get("low"), row.get("high"), row.get("chance"))
                + tag("span", _range(row), class_="small")
            )
        table.append(cells)
    for label, key in SUMMARY_LABELS.items():
        found = [
            or_dash(values["steps"].get(MODELS[model], {}).get(key), decimals(4))
            for model in models
        ]
        if key not in TASK_LABELS.values() and set(found) != {"-"}:
            table.append(
                [
                    tag("b", label),
                    *(
                        tag("span", links.of(MODELS[model], text, key), class_="big")
                        for model, text in zip(models, found)
                    ),
                ]
            )
    note = "Accuracy with its 95% Wilson interval, on a scale from 0 to 1; the thin tick is chance. Every number links to its MLflow run."
    return _table(["task", *(MODEL_LABELS[model] for model in models)], table).replace(
        "<table>", '<table class="matrix">'
    ) + tag("p", note, class_="note")


def methods(values: Values, links: Links) -> str:
    """For each power evaluation: power sampling and every method on the same problems, with cost and paired test."""
    content = []
    for step in ["power_eval", *other_power_steps(values["steps"])]:
        found = values["steps"].get(step)
        task = next(
            (task for task in TASK_LABELS.values() if found and not is_missing(found.get(task))), ""
        )
        if not found or not task:
            continue
        rows: list[Values] = [
            {
                "label": "power sampling",
                "accuracy": found[task],
                "key": task,
                **{key: found.get(key) for key in ("low", "high", "positions_per_problem")},
            }
        ]
        rows += [
            {
                "label": label,
                "key": f"{key}/accuracy",
                **{
                    name: found.get(f"{key}/{name}")
                    for name in ("accuracy", "low", "high", "positions_per_problem", "p_value")
                },
            }
            for key, label in METHOD_LABELS.items()
            if not is_missing(found.get(f"{key}/accuracy"))
        ]
        scale, label = span_of(rows), next(name for name, key in TASK_LABELS.items() if key == task)
        head = [
            "method",
            "accuracy",
            f"{scale[0]:.1f} to {scale[1]:.1f}",
            "95% interval",
            "positions a problem",
            "McNemar p against power",
        ]
        source, total = found.get("source", "sft"), found.get("total")
        title = f"{label}, {MODEL_LABELS.get(source, source)} model" + (
            "" if is_missing(total) else f", {float(total):.0f} problems"
        )
        title += "".join(
            f", {name} {float(found[name]):g}"
            for name in ("alpha", "num_steps")
            if not is_missing(found.get(name))
        )
        content.append(
            tag("h3", escape(title))
            + _table(
                head,
                [
                    [
                        escape(row["label"]),
                        links.of(step, decimals(4)(row["accuracy"]), row["key"]),
                        interval(row["accuracy"], row["low"], row["high"], scale=scale),
                        escape(_range(row)),
                        links.of(step, or_dash(row["positions_per_problem"], decimals(0)), ""),
                        links.of(step, _p(row.get("p_value")), ""),
                    ]
                    for row in rows
                ],
                (1, 3, 4, 5),
            )
        )
    return "".join(content)


def reinforcement(values: Values, links: Links) -> str:
    """The test problems before and after, with the paired test."""
    found = values["steps"].get("rl", {})
    rows = []
    for way, label in RL_WAYS.items():
        if is_missing(found.get(f"{way}/before")):
            continue
        for moment in ("before", "after"):
            one = {
                "accuracy": found[f"{way}/{moment}"],
                "low": found.get(f"{way}/{moment}_low"),
                "high": found.get(f"{way}/{moment}_high"),
            }
            rows.append(
                [
                    escape(f"{label}, {moment}"),
                    links.of("rl", decimals(4)(one["accuracy"]), f"{way}/{moment}"),
                    interval(one["accuracy"], one["low"], one["high"]),
                    escape(_range(one)),
                    links.of("rl", or_dash(found.get(f"{way}/n"), decimals(0)), f"{way}/n"),
                    links.of("rl", _p(found[f"{way}/p_value"]), f"{way}/p_value")
                    if moment == "after"
                    else "",
                ]
            )
    return (
        _table(
            ["answers", "accuracy", "0 to 1", "95% interval", "problems", "McNemar p"],
            rows,
            (1, 3, 4, 5),
        )
        if rows
        else ""
    )


def cost(values: Values, links: Links) -> str:
    """Each step as planned and as it was: time, speed, memory, dollars."""
    costs = values.get("costs") or {"rows": []}
    rows = costs["rows"]
    if not rows:
        return ""
    planned, paid = (
        any(row["planned_hours"] is not None for row in rows),
        any(row["dollars"] is not None for row in rows),
    )
    peaks = any(row["peak_gib"] is not None for row in rows)
    head = [
        "step",
        *(["planned"] if planned else []),
        "took",
        *(["took / planned", "FLOPs planned"] if planned else []),
        "tokens/s",
        *(["GiB planned"] if planned else []),
        *(["GiB peak"] if peaks else []),
        *(["$ planned", "$"] if paid else []),
    ]

    def line(name: str, row: Values, step: str) -> list[str]:
        ratio = "-" if not row["planned_hours"] else f"{row['hours'] / row['planned_hours']:.2f}"
        return [
            name,
            *([duration(row["planned_hours"])] if planned else []),
            links.of(step, duration(row["hours"]), "duration"),
            *([ratio, f"{row['flops']:.1e}" if row["flops"] else "-"] if planned else []),
            links.of(step, or_dash(row["tokens_per_second"], short), "tokens_per_second"),
            *([or_dash(row["planned_gib"], decimals(2))] if planned else []),
            *(
                [links.of(step, or_dash(row["peak_gib"], decimals(2)), row["memory_of"])]
                if peaks
                else []
            ),
            *(
                [or_dash(row["planned_dollars"], decimals(2)), or_dash(row["dollars"], decimals(2))]
                if paid
                else []
            ),
        ]

    sums = {
        key: [row[key] for row in rows]
        for key in ("planned_hours", "hours", "flops", "planned_dollars", "dollars")
    }
    # no sum of a part of the steps beside a sum of all
    whole = dict.fromkeys(rows[0]) | {
        key: None if None in found else sum(found) for key, found in sums.items()
    }
    lines = [line(escape(row["step"]), row, row["step"]) for row in rows] + [
        [tag("b", cell) for cell in line("all", whole, "")]
    ]
    table = _table(head, lines, tuple(range(1, len(head))))
    told = (
        [
            f"Planned for {costs['machine']} by the table of nanolab/costs.py, whose speeds are {costs['source']}."
        ]
        if planned
        else [
            "No plan stands beside these times: the settings of this execution were not recorded, or its device is not in the table."
        ]
    )
    told.append(
        f"Time inside the steps, earlier attempts and reused steps included: {hours(values.get('wall_clock_seconds'))}; "
        f"this execution from its start to its last step: {hours(values.get('elapsed_seconds'))}."
    )
    if peaks:
        names = {
            MEMORY_NAMES.get(row["memory_of"], row["memory_of"]) for row in rows if row["memory_of"]
        }
        told.append(
            f"Peak memory is that of {', '.join(sorted(names))}, as MLflow's system metrics have it."
        )
    return table + tag("p", escape(" ".join(told)), class_="note")


def provenance(values: Values, links: Links) -> list[tuple[str, str]]:
    """The run behind every step."""
    origins = values.get("origins", {})
    if not origins:
        return []
    rows = []
    for step, origin in origins.items():
        name = "the execution" if step == EXECUTION else escape(step)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(origin["start"] / 1000))
        code = origin["commit"][:7] + (" (dirty)" if origin["dirty"] else "")
        rows.append(
            [
                name,
                links.of(step, origin["name"]),
                tag("code", escape(origin["run_id"])),
                started,
                duration(origin["seconds"] / 3600),
                "reused" if origin["reused"] else "ran here",
                tag("code", escape(origin["fingerprint"] or "-")),
                escape(code or "-"),
                escape(origin["data"] or "-"),
            ]
        )
    note = (
        f"Links open the run in the MLflow UI at {links.server} (start it with: make ui). Where a page may not open another, "
        "as inside MLflow itself, a click shows the run's name and id instead."
    )
    return [
        (
            "Provenance",
            tag("p", escape(note), class_="note")
            + _table(
                [
                    "step",
                    "run",
                    "run id",
                    "started",
                    "took",
                    "here or reused",
                    "fingerprint",
                    "commit",
                    "data",
                ],
                rows,
                (4,),
            ),
        )
    ]
