"""Which combinations (of operations, animals, operands) belong to which split, by a keyed hash so
that no generator has to know what another one drew, and the random streams of the world.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Any

SPLITS = ("train", "validation", "test")


def split_of(
    seed: int, *combination: str | int, test: float = 0.25, validation: float = 0.15
) -> str:
    """The split of a combination: "test" and "validation" with the given shares, else "train"."""
    point = _share(f"split {seed} {combination}")
    if point < test:
        return "test"
    return "validation" if point < test + validation else "train"


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """The items in their order by their key."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def stream(seed: int, *purpose: str | int) -> random.Random:
    """A random stream of its own for each purpose; the same in every process."""
    return random.Random(f"nanolab world {seed} {purpose}")


def weighted(rng: random.Random, weights: dict) -> Any:
    """A key of `weights` with probability in proportion to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


def held_out_text(seed: int, text: str, share: float) -> bool:
    """Whether this very text is kept for validation."""
    return _share(f"text {seed} {text}") < share


def distinct(rows: Iterable[dict], key: Callable[[dict], str], count: int) -> list[dict]:
    """The first `count` rows that differ in `key`."""
    kept: dict[str, dict] = {}
    for tried, row in enumerate(rows):
        kept.setdefault(key(row), row)
        if len(kept) == count:
            return list(kept.values())
        assert tried < 1000 * count, f"only {len(kept)} of {count} distinct rows"
    raise AssertionError("rows are endless")


def _share(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
