"""The tables of a report."""

from dataclasses import replace
from typing import Any

from nanolab import wording
from nanolab.report import outside
from nanolab.report.blocks import Grid, grid, to_markdown
from nanolab.report.sections import SUMMARY_LABELS
from nanolab.results import Score
from nanolab.tracking import comparable
from nanolab.wording import (
    METHOD_LABELS,
    METRICS,
    TASK_LABELS,
    TASKS,
    is_missing,
    or_dash,
    plain_float,
    share,
    whole,
)

Values = dict[str, Any]
POSITIONS = METRICS["positions_per_problem"].report


def _counts(row: Values) -> list[str]:
    """The cells "passed of total" and "low to high"."""
    score = Score("accuracy", 0.0, n=row.get("total"))
    for key in ("passed", "low", "high"):
        score = replace(score, **{key: row.get(key)})
    return [
        "-" if is_missing(score.passed) else wording.passed_of(score),
        "-" if is_missing(score.low) else wording.interval(score),
    ]


def sharpening(lines: list[Values]) -> Grid:
    """Power sampling on one model beside training the next; positions of different engines, which
    do not count alike, stand in a column each.
    """
    engines = list(dict.fromkeys(row.get("engine", "nanolab") for row in lines))
    positions = ["positions per problem"]
    if len(engines) > 1:
        positions = [f"positions per problem, {engine}" for engine in engines]

    def cost(row: Values) -> list[str]:
        own = or_dash(row["positions_per_problem"], POSITIONS)
        return [own if row.get("engine", "nanolab") == engine else "-" for engine in engines]

    header = [
        "model",
        "task",
        "method",
        "accuracy",
        "passed",
        "95% interval",
        *positions,
        "McNemar p, power against greedy",
    ]
    rows = [
        [
            wording.model_label(row["model"]),
            TASKS[row["task"]],
            METHOD_LABELS.get(row["method"], row["method"]),
            share(row["accuracy"]),
            *_counts(row),
            *cost(row),
            or_dash(row["p_value"], wording.p_value),
        ]
        for row in lines
    ]
    return grid(header, rows, runs=[row.get("run_id", "") for row in lines])


def points(found: list[Values], baselines: list[Values]) -> Grid:
    """The ablation grid, one row a point, and the other methods on the same problems."""
    every = [*found, *baselines]
    varied = {  # what the grid may vary besides alpha and temperature
        "restart": ("restart_prob", plain_float),
        "blocks": ("num_blocks", whole),
        "ESS below": ("ess_threshold", plain_float),
        "ramp": ("ramp_tokens", whole),
        "candidates": ("candidates", whole),
        "horizon": ("horizon", whole),
    }

    def values(key: str) -> set[str]:
        return {plain_float(point[key]) for point in every if not is_missing(point.get(key))}

    settings = {
        "alpha": ("alpha", plain_float),
        "T": ("temperature", plain_float),
        **{label: column for label, column in varied.items() if len(values(column[0])) > 1},
        "steps": ("num_steps", whole),
        "n": ("n", whole),
    }
    rows = []
    for point in every:
        method = point.get("method", "power")
        cells = {**settings, "accuracy": ("accuracy", share)}.values()
        rows.append(
            [
                METHOD_LABELS.get(method, method),
                *(or_dash(point.get(key), form) for key, form in cells),
                *_counts(point),
                or_dash(point.get("acceptance"), METRICS["acceptance"].report),
                or_dash(point.get("positions_per_problem"), POSITIONS),
            ]
        )
    more = ["accuracy", "passed", "95% interval", "acceptance", "positions per problem"]
    runs = [point.get("run_id", "") for point in every]
    return grid(["method", *settings, *more], rows, "power_ablation", runs)


def summary_table(steps: dict[str, Values]) -> str:
    """`summary` in Markdown, and below it what is comparable."""
    return "\n\n".join([to_markdown(summary(steps)), *summary_notes(steps)])


def summary_notes(steps: dict[str, Values]) -> list[str]:
    """How many problems the rows of the summary are of, and which numbers in a row are not of the
    same ones.
    """
    columns = {column: steps.get(step, {}) for column, step in outside.columns(steps).items()}
    return comparable.notes(columns, {label: TASK_LABELS[label] for label in sorted(TASK_LABELS)})


def summary(steps: dict[str, Values]) -> Grid:
    """The table of task metrics by model: rows sorted by code point, a row only where some model
    has a value.
    """
    rows, columns = [], outside.columns(steps)
    for label in sorted(SUMMARY_LABELS):
        cells = [
            or_dash(steps.get(step, {}).get(SUMMARY_LABELS[label]), share)
            for step in columns.values()
        ]
        if any(cell != "-" for cell in cells):
            rows.append((label, *cells))
    return Grid(
        ("Metric", *columns),
        tuple(rows),
        columns=("", *columns.values()),
        widths=(15, *(max(8, len(heading)) for heading in columns)),
    )
