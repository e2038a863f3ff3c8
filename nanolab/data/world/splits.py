"""Which combinations belong to which split, and the random streams of the world.

A combination (an operation sequence, a pair of animals, an ordered program, a pair of operands) belongs to exactly
one split by a keyed hash, so that no generator has to know what another one drew.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

SPLITS = ("train", "validation", "test")


def split_of(
    seed: int, *combination: str | int, test: float = 0.25, validation: float = 0.15
) -> str:
    """The split of a combination: "test" and "validation" with the given shares, else "train"."""
    point = _hash(f"split {seed} {combination}") / 2**64
    return "test" if point < test else "validation" if point < test + validation else "train"


def unordered(*parts: str | int) -> tuple[str | int, ...]:
    """The parts in a fixed order: the same combination whichever comes first."""
    return tuple(sorted(parts))


def stream(seed: int, *purpose: str | int) -> random.Random:
    """A random stream of its own for each purpose; the same in every process (text seeds are hashed, never `hash()`)."""
    return random.Random(f"nanolab world {seed} {purpose}")


def weighted(rng: random.Random, weights: dict) -> object:
    """A key of `weights` with probability in proportion to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


def held_out_text(seed: int, text: str, share: float) -> bool:
    """Whether this very text is kept for validation: the same answer wherever the text is made."""
    return _hash(f"text {seed} {text}") / 2**64 < share


def distinct(rows: Iterable[dict], key: str, count: int, attempts: int) -> list[dict]:
    """The first `count` rows that differ in `key`, looking at no more than `attempts` rows."""
    seen: dict[str, dict] = {}
    for _, row in zip(range(attempts), rows):
        seen.setdefault(row[key], row)
        if len(seen) == count:
            break
    assert len(seen) == count, f"only {len(seen)} of {count} distinct rows after {attempts} draws"
    return list(seen.values())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
