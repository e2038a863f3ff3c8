"""The grid of a power-sampling ablation: which settings each sampler has, and every point that a study's YAML asks for.

An entry is a product of value lists, {sampler: [power], alpha: [1, 4], temperature: [0.7]}; entries are joined. A setting that an
entry leaves out has the stage's own value. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from nanolab.schema import UserError

LIMITS: dict[
    str, tuple[str, float, float | None]
] = {  # setting: kind of its lower end, that end, and its upper end
    "alpha": ("at least", 1, None),
    "temperature": ("above", 0, None),
    "restart_prob": ("at least", 0, 1),
    "num_blocks": ("at least", 1, None),
    "particles": ("at least", 1, None),
    "ess_threshold": ("at least", 0, 1),
    "ramp_tokens": ("at least", 0, None),
    "rollouts": ("at least", 1, None),
    "candidates": ("at least", 1, None),
    "horizon": ("at least", 1, None),
}
WHOLE = ("num_blocks", "particles", "ramp_tokens", "rollouts", "candidates", "horizon")
SAMPLERS = {  # settings that a point of each sampler has
    "power": ("alpha", "temperature", "restart_prob", "num_blocks"),
    "smc": ("alpha", "temperature", "particles", "ess_threshold", "ramp_tokens"),
    "rollout": ("alpha", "temperature", "candidates", "rollouts", "horizon"),
}


def expand(grid: list[dict[str, Any]], config: Any) -> list[dict[str, Any]]:
    """Every point of `grid` once, in its order: {"sampler": name, setting: value, ...}; `config` supplies what entries leave out.

    Raises UserError naming the entry for an unknown sampler or setting, an empty list, and a value out of range.
    """
    points: list[dict[str, Any]] = []
    for i, entry in enumerate(grid):
        where = f"power_ablation.grid[{i}]"
        for key, values in entry.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}.{key} = {values!r} must be a list of at least one value")
        for sampler in entry.get("sampler", ["power"]):
            if not isinstance(sampler, str) or sampler not in SAMPLERS:
                raise UserError(
                    f"{where}.sampler = {sampler!r} must be one of {', '.join(SAMPLERS)}"
                )
            known = SAMPLERS[sampler]
            for key in entry:
                if key != "sampler" and key not in known:
                    raise UserError(
                        f"{where}: {sampler!r} has no setting {key!r}; its settings are {', '.join(known)}"
                    )
            lists = [
                [
                    _checked(value, key, where)
                    for value in entry.get(key, [getattr(config, key, None)])
                ]
                for key in known
            ]
            points += [
                {"sampler": sampler, **dict(zip(known, values))}
                for values in itertools.product(*lists)
            ]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def _checked(value: Any, key: str, where: str) -> float | int:
    kind, low, high = LIMITS[key]
    if value is None:
        raise UserError(f"{where} must have a list of {key} values")
    number = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )
    if (
        not number
        or value < low
        or (kind == "above" and value == low)
        or (high is not None and value > high)
        or (key in WHOLE and value != int(value))
    ):
        raise UserError(
            f"{where}.{key} = {value!r} must be a {'whole ' if key in WHOLE else ''}number {kind} {low}"
            + (f" and at most {high}" if high is not None else "")
        )
    return int(value) if key in WHOLE else float(value)
