"""Published figures beside ours: what publications report of a model on a task, and what was
measured here, with what differs.
"""

from collections.abc import Mapping
from typing import Any

from nanolab import wording
from nanolab.evals import published
from nanolab.evals.published import TASK_LABELS, Figure
from nanolab.report import outside
from nanolab.report.blocks import Block, Part, grid
from nanolab.results import Score
from nanolab.wording import METHODS, or_dash, share, whole

Values = dict[str, Any]
CONTINUATION = "continuation"
EMBEDDED = "embedded"  # what such a step says of its data


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
        for figure in published.known(source):
            if any(published.asked(figure, rows.get(step, [])) for step in own):
                found.append(_row(figure, source, own, steps, rows))
    return found


def _row(
    figure: Figure,
    source: str,
    own: list[str],
    steps: Mapping[str, Values],
    rows: Mapping[str, list[Score]],
) -> Values:
    """A figure with the first score of these steps that is by its method at its settings."""
    pairs = ((step, published.ours(figure, rows.get(step, []), steps[step])) for step in own)
    step, row = next((pair for pair in pairs if pair[1]), ("", None))
    ours = {key: getattr(row, key, None) for key in ("value", "low", "high", "n")}
    unlike = _unlike(row, steps[step]) if row else []
    return (
        {"model": source, "task": figure.task, "method": figure.method}
        | ours
        | {"published": figure.value, "of_n": figure.n, "source": figure.source}
        | {"differs": "; ".join([*filter(None, [figure.differs]), *unlike])}
    )


def _unlike(row: Score, values: Values) -> list[str]:
    """Our step's form of choices, where that is not the one of most published figures."""
    form = outside.facts_of(values).get("choice_form", CONTINUATION)
    asked_in_form = row.chance and not row.suite and form != CONTINUATION
    return [f"a choice by its {form} here"] if asked_in_form else []


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
                TASK_LABELS[row["task"]],
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
