"""What publications report of a model on a task, and which score of ours stands beside it.

The figures are data: nanolab/data/published_figures.yaml.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import yaml

from nanolab.files import ROOT
from nanolab.results import Score, select
from nanolab.settings.model_name import model_name
from nanolab.wording import TASKS

MEANS = {"arc": ("arc_easy", "arc_challenge")}  # published as one figure
CORE_NAMES = {"hellaswag": "hellaswag_zeroshot"}  # a task that we ask as CORE's
TASK_LABELS = {**TASKS, "hellaswag": "HellaSwag", "arc": "ARC, mean of both"}
PLACE = ROOT / "nanolab" / "data" / "published_figures.yaml"


@dataclass(frozen=True)
class Figure:
    """One published number."""

    model: str  # as its makers call it
    task: str  # ours, hellaswag of CORE, or arc: the mean of its two sets
    method: str  # one of ours, or training: grpo, rloo; "" where the model is just asked
    settings: dict[str, float]  # of the method, those that are known
    value: float  # share of the problems, 0 to 1
    n: int | None  # problems, where the publication says it
    source: str
    url: str  # "" where none is known
    differs: str  # what is known to be different here
    metric: str = "accuracy"  # ours that stands beside it


def known(model: str, task: str = "") -> list[Figure]:
    """The figures of a model, named in any way that `model_name` reads, on a task ("": on any).

    known("hf:Qwen/Qwen2.5-Math-7B", "math500")[0].value  # 0.496
    """
    name = model_name(model)
    own = [row for row in rows() if model_name(row.model) == name]
    return [row for row in own if task in ("", row.task)]


@functools.cache
def rows() -> tuple[Figure, ...]:
    """Every published figure, in the order of the file."""
    groups = yaml.safe_load(PLACE.read_text(encoding="utf-8"))
    return tuple(figure for group in groups for figure in _figures(group))


def _figures(group: dict[str, Any]) -> Iterator[Figure]:
    """The figures of one publication and model."""
    for own in group["figures"]:
        unknown = set(own) - {"task", "method", "settings", "value", "differs", "metric"}
        assert not unknown, f"{PLACE.name}: a figure has no {unknown}"
        remarks = [each["differs"] for each in (own, group) if "differs" in each]
        yield Figure(
            group["model"],
            own.get("task") or group["task"],
            own.get("method", ""),
            own.get("settings", {}),
            own["value"],
            group.get("n"),
            group["publication"],
            group.get("url", ""),
            "; ".join(remarks),
            own.get("metric", "accuracy"),
        )


def asked(figure: Figure, found: Sequence[Score]) -> list[Score]:
    """Of a step's rows those of the figure's task, by any method: asked as CORE asks it first,
    which has the continuation form.
    """
    scores = select(found, metric=figure.metric, part="", moment="", chosen="")
    if figure.task in MEANS:
        pairs = [
            [row for row in scores if row.task == one and row.method == ""]
            for one in MEANS[figure.task]
        ]
        by_suite = [{row.suite: row for row in pair} for pair in pairs]
        both = sorted(by_suite[0].keys() & by_suite[1].keys(), reverse=True)
        return [_mean(figure.task, [own[suite] for own in by_suite]) for suite in both]
    names = (figure.task, CORE_NAMES.get(figure.task))
    return sorted((row for row in scores if row.task in names), key=lambda row: row.suite == "")


def ours(figure: Figure, found: Sequence[Score], settings: Mapping[str, Any]) -> Score | None:
    """Of a step's rows the one by the figure's method at the settings that the figure states;
    `settings` are the step's.

    A model that is just asked at a temperature above 0 has drawn a plain sample.
    """
    given = {key: float(settings.get(key) or 0) for key in ("alpha", "temperature")}
    if figure.method == "low_temperature":
        given["temperature"] = float(settings.get("low_temperature") or 0)
    if any(given[key] != value for key, value in figure.settings.items()):
        return None
    plain = "plain" if given["temperature"] > 0 else ""
    scores = asked(figure, found)
    return next((row for row in scores if (row.method or plain) == figure.method), None)


def _mean(task: str, both: list[Score]) -> Score:
    """The mean of two accuracies of different problems, with the interval of a normal law."""
    value = sum(row.value for row in both) / 2
    variance = sum(row.value * (1 - row.value) / row.n for row in both) / 4
    wide = 1.96 * sqrt(variance)
    low, high = max(0.0, value - wide), min(1.0, value + wide)
    known = {"low": low, "high": high, "n": sum(row.n for row in both)}
    return replace(both[0], task=task, value=value, passed=None, **known)
