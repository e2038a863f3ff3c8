"""Strict config classes: a field with its unit and range, and the checked way from plain values to an instance.

An unknown key, a wrong type or a value out of range is a `UserError` that names the key, what was expected and the
nearest valid name. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import field
from typing import Any, Literal

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class UserError(ValueError):
    """A person's mistake: the command line prints its one line and exits with status 2, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it in a notebook: the same line."""
        return [f"UserError: {self}"]


def setting(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A config field: its default, one sentence (with the unit), and its range."""
    metadata = {"description": description, "minimum": minimum, "above": above, "maximum": maximum}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def build(cls: type, values: dict[str, Any] | None, where: str = "") -> Any:
    """An instance of config class `cls` from plain values.

    Raises UserError naming the key (`where.key`) for an unknown key, a wrong type or a value out of range.
    """
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(
            f"{where or 'the study'} must be a mapping of settings, got {type(values).__name__} {values!r}"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1, 0.0)
            raise UserError(
                f"unknown key {_dotted(where, key)}; the nearest valid key is {_dotted(where, near[0])}"
            )
    hints = typing.get_type_hints(cls)
    made = {
        key: _convert(value, hints[key], fields[key], _dotted(where, key))
        for key, value in values.items()
    }
    return cls(**made)


def _dotted(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(value: Any, hint: Any, spec: dataclasses.Field, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    value = _typed(value, hint, where)
    limits = spec.metadata
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, above, high = limits.get("minimum"), limits.get("above"), limits.get("maximum")
        too_low = (low is not None and value < low) or (above is not None and value <= above)
        if too_low or (high is not None and value > high) or not math.isfinite(value):
            parts = [
                f"at least {low}" if low is not None else "",
                f"above {above}" if above is not None else "",
                f"at most {high}" if high is not None else "",
            ]
            raise UserError(
                f"{where} = {value} is out of range: it must be {' and '.join(p for p in parts if p)}"
            )
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint` (int, float, str, bool, None, Literal, list, dict, unions of them)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _typed(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} = {value!r} must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is list and isinstance(value, (list, tuple)):
        return [_typed(v, arguments[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {
            _typed(k, arguments[0], where): _typed(v, arguments[1], f"{where}.{k}")
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and SCIENTIFIC.fullmatch(value):
        return float(value)  # YAML 1.1 reads 1e-3, without a point, as text
    expected = origin or hint
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        names = {
            int: "a whole number",
            float: "a number",
            str: "text",
            bool: "true or false",
            list: "a list",
            dict: "a mapping",
        }
        raise UserError(
            f"{where} = {value!r} must be {names.get(expected, expected)}, got {type(value).__name__}"
        )
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a config, ready for YAML or JSON."""
    return dataclasses.asdict(config)
