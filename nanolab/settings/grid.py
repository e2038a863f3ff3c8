"""The grid of a power-sampling ablation: which settings each sampler has, and every point.

An entry is a product of value lists, {sampler: [power], alpha: [1, 4], temperature: [0.7]}; a
setting that it leaves out has the stage's own value. Entries are joined.
"""

import itertools
from typing import Any, get_args, get_type_hints

from nanolab.errors import UserError
from nanolab.settings.kinds import Alpha, Temperature, range_of, written

# the kinds of those settings of a point that are no fields of the stage
KINDS = {"alpha": Alpha, "temperature": Temperature}
SAMPLERS = {  # settings that a point of each sampler has
    "power": ("alpha", "temperature", "restart_prob", "num_blocks"),
    "smc": ("alpha", "temperature", "particles", "ess_threshold", "ramp_tokens"),
    "rollout": ("alpha", "temperature", "candidates", "rollouts", "horizon"),
}
SETTINGS = {name for names in SAMPLERS.values() for name in names}


def expand(grid: list[dict[str, Any]], config: Any) -> list[dict[str, Any]]:
    """Every point of `grid` once, in its order: {"sampler": name, setting: value, ...}; `config`,
    of class PowerAblationConfig, supplies what entries leave out.
    """
    kinds = {**KINDS, **get_type_hints(type(config), include_extras=True)}
    points: list[dict[str, Any]] = []
    for i, entry in enumerate(grid):
        where = f"grid[{i}]"
        for key, values in entry.items():
            if not isinstance(values, list) or not values:
                raise UserError(
                    f"{where}.{key} = {written(values)} must be a list of at least one value"
                )
        for sampler in entry.get("sampler", ["power"]):
            if not isinstance(sampler, str) or sampler not in SAMPLERS:
                raise UserError(
                    f"{where}.sampler = {written(sampler)} must be one of {', '.join(SAMPLERS)}"
                )
            names = SAMPLERS[sampler]
            for key in entry:
                if key not in ("sampler", *names):
                    raise UserError(
                        f"{where}: {sampler!r} has no setting {key!r}; its settings are"
                        f" {', '.join(names)}"
                    )
            lists = []
            for name in names:
                values = entry.get(name, [getattr(config, name, None)])
                if values == [None]:
                    raise UserError(f"{where} must have a list of {name} values")
                lists.append([_number(value, kinds[name], f"{where}.{name}") for value in values])
            for values in itertools.product(*lists):
                point = {"sampler": sampler, **dict(zip(names, values))}
                if point not in points:
                    points.append(point)
    return points


def _number(value: Any, kind: Any, where: str) -> float | int:
    """`value` as a number of its kind."""
    number, limits = get_args(kind)[0], range_of(kind)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and value in limits
    if not fits or number(value) != value:
        noun = "whole number" if number is int else "number"
        raise UserError(f"{where} = {written(value)} must be a {noun} {limits}")
    return number(value)
