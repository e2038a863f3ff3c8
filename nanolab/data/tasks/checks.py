"""What one value of a row must be, and the words that refuse it."""

from numbers import Integral
from typing import Any, NoReturn

SHOWN = 80  # characters of a value that a message quotes


class Fault(Exception):
    """What is wrong with a row, without its file and number."""


def quoted(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(repr(value).splitlines())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def refuse(name: str, value: Any, expected: str) -> NoReturn:
    """Raises the Fault that the field `name` is not as `expected`."""
    said = "is null" if value is None else f"= {quoted(value)} ({type(value).__name__})"
    raise Fault(f"{name} {said}, it must be {expected}")


def fields(row: Any, names: tuple[str, ...]) -> None:
    """A mapping that has all of `names`."""
    if not isinstance(row, dict):
        raise Fault(f"{quoted(row)} must be a mapping with {', '.join(names)}")
    for name in names:
        if name not in row:
            raise Fault(f"{name} is missing, a row has {', '.join(names)}")


def text(name: str, value: Any, blank: bool = False) -> None:
    """Valid Unicode, which may be `blank`."""
    if not isinstance(value, str):
        refuse(name, value, "text")
    if not blank and (not value or value.isspace()):
        refuse(name, value, "text that is not blank")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            refuse(name, value, "valid Unicode, without half a surrogate pair")


def texts(name: str, value: Any, most: int | None = None, blank: bool = False) -> None:
    """A list of 2 to `most` texts."""
    if not isinstance(value, list):
        refuse(name, value, "a list of texts")
    if len(value) < 2 or (most is not None and len(value) > most):
        limit = "at least 2" if most is None else f"2 to {most}"
        raise Fault(f"{name} = {quoted(value)} has {len(value)} entries, it must have {limit}")
    for place, one in enumerate(value):
        text(f"{name}[{place}]", one, blank)


def place(name: str, value: Any, choices: list, what: str) -> None:
    """The place of one of `choices`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 0 <= value < len(choices):
        last = len(choices) - 1
        refuse(
            name, value, f"a whole number from 0 to {last}, the place of the right one of {what}"
        )
