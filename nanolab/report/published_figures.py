"""Published figures beside ours: what publications report of a model on a task, and what was
measured here, with what differs.
"""

from collections.abc import Mapping
from typing import Any

from nanolab import wording
from nanolab.evals import published
from nanolab.report import outside
from nanolab.report.blocks import Block, Part, grid
from nanolab.results import Score, select
from nanolab.wording import METHODS, TASKS, is_missing, or_dash, share, whole

Values = dict[str, Any]
Ours = tuple[Score, str]  # with the step that measured it
MEAN_OF = {"arc": ("arc_easy", "arc_challenge")}  # a published mean -> our tasks
CONTINUATION = "continuation"
EMBEDDED = "embedded"  # what such a step says of its data
LABELS = {"arc": "ARC (mean)", **TASKS}
# our method -> its setting in the step, for a published one by its name there
OURS = {"low_temperature": {"temperature": "low_temperature"}}


def beside(steps: Mapping[str, Values], rows: Mapping[str, list[Score]]) -> list[Values]:
    """Rows (model, task, method, value, low, high, n of ours or None; published, of_n, source,
    differs) of every published figure of a model from outside on a task that it was asked; the
    embedded world's tasks have no more than the names of published ones.
    """
    found = []
    for source in outside.names(steps):
        own = [step for step in (*outside.ASKED, *steps) if step in steps]
        own = [
            step
            for step in own
            if outside.source_of(steps[step]) == source and steps[step].get("data") != EMBEDDED
        ]
        for task, methods in _measured({step: rows.get(step, []) for step in own}).items():
            for figure in published.known(source, task):
                row, step = _ours(methods, figure.method)
                ours = {key: getattr(row, key, None) for key in ("value", "low", "high", "n")}
                unlike = _unlike(figure, row, steps[step]) if row else []
                found.append(
                    {"model": source, "task": task, "method": figure.method}
                    | ours
                    | {"published": figure.value, "of_n": figure.n, "source": figure.source}
                    | {"differs": "; ".join([*filter(None, [figure.differs]), *unlike])}
                )
    return found


def _measured(rows: Mapping[str, list[Score]]) -> dict[str, dict[str, Ours]]:
    """Task -> method -> our accuracy with its step, of the first step that has it; a mean of tasks
    that were all asked has no interval.
    """
    found: dict[str, dict[str, Ours]] = {}
    for step, measured in rows.items():
        for row in select(measured, metric="accuracy", part="", moment="", chosen=""):
            found.setdefault(row.task, {}).setdefault(row.method, (row, step))
    for mean, parts in MEAN_OF.items():
        each = [found[part][""] for part in parts if "" in found.get(part, {})]
        if len(each) == len(parts):
            value = sum(row.value for row, _ in each) / len(each)
            row, step = each[0]
            found[mean] = {"": (Score("accuracy", value, mean, chance=row.chance), step)}
    return found


def _ours(own: dict[str, Ours], method: str) -> Ours | tuple[None, str]:
    """Our row of a published method; of a model that is just asked the greedy answers, where there
    is nothing else.
    """
    return own.get(method) or (own.get("greedy") if not method else None) or (None, "")


def _unlike(figure: Any, row: Score, values: Values) -> list[str]:
    """Settings of the published method that our step had otherwise, and its form of choices, where
    that is not the one of most published figures.
    """
    names = OURS.get(figure.method, {})
    form = outside.facts_of(values).get("choice_form", CONTINUATION)
    said = [f"a choice by its {form} here"] if row.chance and form != CONTINUATION else []
    for key, theirs in figure.settings.items():
        ours = values.get(names.get(key, key))
        if not is_missing(ours) and float(ours) != float(theirs):
            said.append(f"{key} {float(theirs):g} there, {float(ours):g} here")
    return said


def section(found: list[Values]) -> list[Block]:
    """The section of what `beside` found; nothing without."""
    if not found:
        return []
    header = ["model", "task", "method", "here", "95% interval", "n", "published", "n published"]
    rows = []
    for row in found:
        low, high = row["low"], row["high"]
        interval = (
            None if low is None else wording.interval(Score("accuracy", 0, low=low, high=high))
        )
        rows.append(
            [
                wording.model_label(row["model"]),
                LABELS.get(row["task"], row["task"]),
                METHODS.get(row["method"], row["method"]) or "asked",
                "not run" if row["value"] is None else share(row["value"]),
                or_dash(interval),
                or_dash(row["n"], whole),
                share(row["published"]),
                or_dash(row["of_n"], whole),
                row["source"],
                or_dash(row["differs"]),
            ]
        )
    return [
        Part("Published figures beside ours"),
        grid([*header, "source", "what differs"], rows),
    ]
