"""What publications report of a model on a task, to stand beside what is measured here. No torch.

The figures are data: nanolab/data/published_figures.yaml.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from nanolab.files import ROOT
from nanolab.settings.model_name import model_name

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


def known(model: str, task: str) -> list[Figure]:
    """The figures of a model, named in any way that `model_name` reads, on a task.

    known("hf:Qwen/Qwen2.5-Math-7B", "math500")[0].value  # 0.496
    """
    name = model_name(model)
    return [row for row in rows() if model_name(row.model) == name and row.task == task]


@functools.cache
def rows() -> tuple[Figure, ...]:
    """Every published figure, in the order of the file."""
    groups = yaml.safe_load(PLACE.read_text(encoding="utf-8"))
    return tuple(figure for group in groups for figure in _figures(group))


def _figures(group: dict[str, Any]) -> Iterator[Figure]:
    """The figures of one publication and model."""
    for own in group["figures"]:
        unknown = set(own) - {"task", "method", "settings", "value", "differs"}
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
        )
