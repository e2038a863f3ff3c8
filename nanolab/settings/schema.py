"""From plain values to a checked instance of a config class, by pydantic, which is imported when
the first one is built. What it finds wrong is a `UserError` that names the key and the fix.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from nanolab.errors import UserError
from nanolab.settings.kinds import written

UNKNOWN = ("unexpected_keyword_argument", "invalid_key")  # pydantic's names of its errors
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
}


class Settings:
    """Base of the config classes: frozen dataclasses that pydantic reads strictly.

    A class checks its own fields together in `__post_init__`: a UserError whose line begins with
    the name of a field.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: Callable[[type], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        schema = handler(source)
        schema["strict"] = False  # the fields are strict; the class itself is made from a mapping
        # YAML reads a group without a line in it as null
        return no_info_before_validator_function(
            lambda values: {} if values is None else values, schema
        )


def setting(default: Any, description: str) -> Any:
    """A config field: its default, and one sentence with the unit. Its kind has its range."""
    metadata = {"description": description}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def own_first(cls: type) -> list[dataclasses.Field]:
    """The fields of a config class as people read them: its own, then those that it shares."""
    own = inspect.get_annotations(cls)
    return sorted(dataclasses.fields(cls), key=lambda field: field.name not in own)


def build(cls: type, values: dict[str, Any] | None, where: str = "") -> Any:
    """An instance of config class `cls` from plain values; `where` is the name of its group.

    Raises UserError naming the key (`where.key`) that pydantic or a check refuses.
    """
    from pydantic import ValidationError

    try:
        return _reader(cls).validate_python(values)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        first = min(mistakes, key=lambda mistake: mistake["type"] not in UNKNOWN)
        raise UserError(_line(cls, where, first)) from error


@functools.cache
def _reader(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _line(cls: type, where: str, mistake: dict[str, Any]) -> str:
    """One of pydantic's errors as a line that names the key."""
    kind, path, value = mistake["type"], mistake["loc"], mistake["input"]
    key = _dotted(where, *path)
    if kind in UNKNOWN:
        group = functools.reduce(getattr, path[:-1], cls())
        names = [field.name for field in dataclasses.fields(group)]
        near = difflib.get_close_matches(str(path[-1]), names, 1, 0.0)[0]
        return f"unknown key {key}; the nearest valid key is {_dotted(where, *path[:-1], near)}"
    if kind == "dataclass_type":
        what = f"{type(value).__name__} {written(value)}"
        return f"{key or 'the study'} must be a mapping of settings, got {what}"
    if key.endswith(".[key]"):  # of a mapping
        key = f"a key of {_dotted(where, *path[:-2])}"
    if kind == "value_error":  # of a check of ours: of one value, or of fields together
        words = str(mistake["ctx"]["error"])
        return f"{key} {words}" if words.startswith("=") else _dotted(key, words)
    if kind == "literal_error":
        allowed = mistake["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{key} = {written(value)} must be one of {allowed}"
    return f"{key} = {written(value)} must be {EXPECTED[kind]}, got {type(value).__name__}"


def _dotted(*parts: str | int) -> str:
    """The path of a setting: power_ablation.grid[0].alpha."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a config, ready for YAML or JSON."""
    return dataclasses.asdict(config)
