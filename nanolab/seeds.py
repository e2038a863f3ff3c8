"""Addressed random numbers: every draw is a function of where it is used, never of what was drawn
before it.

An address is a sequence of whole numbers (NumPy's too) and texts, such as (seed, stage, example,
chain, step, position). Its number is a hash (BLAKE2b), the same on every machine.
"""

import hashlib
from collections.abc import Callable

import numpy

from nanolab.errors import UserError

Address = tuple[int | str, ...]
Noise = Callable[[Address], float]

# positions of an address that stand for other draws
INDEX = -1  # a step's choice of the cut
ACCEPT = -2  # a step's accept draw
RESAMPLE = -3  # the resampling of a population
PICK = -4  # the choice among particles or candidates


def _encode(address: Address) -> bytes:
    parts = []
    for part in address:
        if isinstance(part, str):
            text = part.encode()
            parts.append(b"s%d:%b" % (len(text), text))
        elif isinstance(part, (int, numpy.integer)) and not isinstance(part, bool):
            parts.append(b"i%d;" % part)
        else:  # %d would cut 1.7 to 1, and take True for it
            raise UserError(
                f"{part!r} in the address {address!r} is of type {type(part).__name__}, "
                "and must be a whole number or a text: round it, or write it as text"
            )
    return b"".join(parts)


def _digest(address: Address) -> hashlib.blake2b:
    return hashlib.blake2b(_encode(address), digest_size=8)


def _unit(digest: bytes) -> float:
    # 53 bits in all: exact, so never rounded up to 1
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52


def uniform(*address: int | str) -> float:
    """The uniform number of an address, strictly between 0 and 1."""
    return _unit(_digest(address).digest())


def derive(*address: int | str) -> int:
    """A seed for another generator: a whole number of 63 bits."""
    return int.from_bytes(_digest(address).digest(), "little") >> 1


def generator(*address: int | str) -> numpy.random.Generator:
    """A NumPy generator of its own for an address."""
    return numpy.random.Generator(numpy.random.PCG64(derive(*address)))


class AddressedNoise:
    """From an address to the uniform number of `start` followed by it. Pickled as its start, so
    that another process draws the same.
    """

    def __init__(self, *start: int | str) -> None:
        self.start = start
        self._digest = _digest(start)

    def __call__(self, address: Address) -> float:
        state = self._digest.copy()
        state.update(_encode(address))
        return _unit(state.digest())

    def __reduce__(self) -> tuple[type, Address]:
        return type(self), self.start


def noise(seed: int, stage: str, example: int | str) -> Noise:
    """From (chain, step, position) to `uniform(seed, stage, example, chain, step, position)`."""
    return AddressedNoise(seed, stage, example)
