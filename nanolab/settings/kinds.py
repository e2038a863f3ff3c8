"""What a setting may hold: the kinds of number, text and list, each a type with a check, which
pydantic calls when values are read (schema.py). Imports neither torch nor pydantic.
"""

import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from nanolab.errors import UserError

SCIENTIFIC = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # of a study: of its folder, experiment and model
LARGEST = 2**63 - 1  # whole numbers of arrays, of random generators and of the store have 64 bits
LONGEST = 160  # characters of a value in a message


@dataclass(frozen=True)
class Check:
    """A function that a value must pass: it raises ValueError with words that begin with "="."""

    function: Callable[[Any], None]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        def passed(value: Any) -> Any:
            self.function(value)
            return value

        return no_info_after_validator_function(passed, handler(source))


@dataclass(frozen=True)
class Range:
    """The finite numbers from `minimum`, or above `above`, to `maximum`; whole ones of 64 bits."""

    minimum: float = -math.inf
    above: float = -math.inf
    maximum: float = math.inf

    def __contains__(self, value: float) -> bool:
        finite = abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)
        return finite and self.minimum <= value <= self.maximum and value > self.above

    def words(self, minimum: str, above: str, maximum: str, between: str) -> str:
        """Its ends in words, each after the one given for it."""
        ends = {minimum: self.minimum, above: self.above, maximum: self.maximum}
        return between.join(f"{word} {end}" for word, end in ends.items() if math.isfinite(end))

    def __str__(self) -> str:
        return self.words("at least", "above", "at most", " and ")

    def check(self, value: float) -> None:
        """Raises ValueError, "= VALUE is out of range: ...", for a number that is not in it."""
        if value not in self:
            wanted = str(self)
            if not isinstance(value, int) and not math.isfinite(value):
                wanted = f"a finite number {wanted}"
            elif LARGEST < value <= self.maximum:
                wanted = f"{wanted} and at most {LARGEST}"
            raise ValueError(f"= {written(value)} is out of range: it must be {wanted}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        schema = Check(self.check).__get_pydantic_core_schema__(source, handler)
        return no_info_before_validator_function(_as_float, schema) if source is float else schema


def _as_float(value: Any) -> Any:
    """What YAML 1.1 reads otherwise: 1e-3, without a point, as text; and what no float can hold."""
    if isinstance(value, str) and SCIENTIFIC.fullmatch(value):
        return float(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        return math.inf if value > 0 else -math.inf
    return value


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValueError(f"= {text!r} must not be empty")


def _named_like_a_folder(name: str) -> None:
    if not re.fullmatch(NAME, name):
        shortened = repr(name if len(name) <= 110 else f"{name[:107]}...")
        raise ValueError(
            f"= {shortened} names a folder: use at most 100 letters, digits, '.', '_' and '-', of"
            " which the first is a letter or a digit"
        )


def _not_empty(values: list) -> None:
    if not values:
        raise ValueError("= [] must have at least one value")


def _without_repeats(values: list) -> None:
    for place, value in enumerate(values):
        if value in values[:place] and not isinstance(value, (dict, list)):
            raise ValueError(f"= {written(values)} has {value!r} twice: leave one out")


T = TypeVar("T")
Distinct = Annotated[list[T], Check(_without_repeats)]
Several = Annotated[list[T], Check(_not_empty), Check(_without_repeats)]
Text = Annotated[str, Check(_not_blank)]
Name = Annotated[str, Check(_named_like_a_folder)]

Natural = Annotated[int, Range(minimum=0)]
Count = Annotated[int, Range(minimum=1)]
Share = Annotated[float, Range(minimum=0, maximum=1)]
NotNegative = Annotated[float, Range(minimum=0)]
Positive = Annotated[float, Range(above=0)]
Seconds = Annotated[float, Range(above=0, maximum=86_400)]
Temperature = Annotated[float, Range(above=0.0001)]
Alpha = Annotated[float, Range(minimum=1, maximum=1_000_000)]


def range_of(kind: Any) -> Range | None:
    """The range of a kind of number, or of the numbers in a list, a mapping or a union."""
    if isinstance(kind, Range):
        return kind
    found = map(range_of, typing.get_args(kind))
    return next((limits for limits in found if limits), None)


def check_blocks(num_blocks: int, max_new_tokens: int) -> None:
    """Raises UserError for a schedule of more blocks than tokens."""
    if num_blocks > max_new_tokens:
        raise UserError(
            f"num_blocks = {num_blocks} must be at most max_new_tokens = {max_new_tokens}"
        )


def written(value: Any) -> str:
    """A value as a message shows it, in one line: long ones are cut."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses thousands of digits
        return f"{'-' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    if isinstance(value, list):
        text = f"[{', '.join(map(written, value))}]"
    elif isinstance(value, dict):
        pairs = (f"{written(key)}: {written(inner)}" for key, inner in value.items())
        text = f"{{{', '.join(pairs)}}}"
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
