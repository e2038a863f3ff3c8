"""Addressed random numbers: every draw is a function of where it is used, never of what was drawn before it.

An address is a sequence of whole numbers and texts, such as (seed, stage, example, chain, step, position). Its number is a
hash (BLAKE2b) of an unambiguous encoding, so it is the same in every process, on every machine and in every Python version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy

Address = tuple[int | str, ...]
Noise = Callable[[Address], float]

INDEX = -1  # the position of an address that stands for a step's choice of the cut
ACCEPT = -2  # the position of an address that stands for a step's accept draw
RESAMPLE = -3  # stands for the resampling of a population
PICK = -4  # stands for the choice among particles or candidates


def _encode(address: Address) -> bytes:
    parts = []
    for part in address:
        if isinstance(part, str):
            text = part.encode()
            parts.append(b"s%d:%b" % (len(text), text))
        else:
            parts.append(b"i%d;" % part)
    return b"".join(parts)


def _unit(digest: bytes) -> float:
    return (
        (int.from_bytes(digest, "little") >> 12) + 0.5
    ) * 2.0**-52  # 53 bits in all: exact, so never rounded up to 1


def uniform(*address: int | str) -> float:
    """The uniform number of an address, strictly between 0 and 1."""
    return _unit(hashlib.blake2b(_encode(address), digest_size=8).digest())


def derive(*address: int | str) -> int:
    """A seed for another generator: a whole number of 63 bits."""
    return int.from_bytes(hashlib.blake2b(_encode(address), digest_size=8).digest(), "little") >> 1


def generator(*address: int | str) -> numpy.random.Generator:
    """A NumPy generator of its own for an address."""
    return numpy.random.Generator(numpy.random.PCG64(derive(*address)))


def noise(seed: int, stage: str, example: int | str) -> Noise:
    """The function from (chain, step, position) to `uniform(seed, stage, example, chain, step, position)`."""
    start = hashlib.blake2b(_encode((seed, stage, example)), digest_size=8)

    def draw(address: Address) -> float:
        state = start.copy()
        state.update(_encode(address))
        return _unit(state.digest())

    return draw
