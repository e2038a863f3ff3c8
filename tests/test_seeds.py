"""Addressed random numbers: stable, independent of each other, never 0 or 1."""

import re
import subprocess
import sys

import numpy
import pytest

from nanolab import seeds
from nanolab.errors import UserError

PINNED_UNIFORM = 0.704155530996479
PINNED_SEED = 7633569839900735363


def test_values_are_pinned():
    """A changed encoding would silently change every recorded run: these values may never move."""
    assert seeds.uniform(0, "power_eval", 3, 0, 1, 7) == PINNED_UNIFORM
    assert seeds.derive("world", 5) == PINNED_SEED


def test_same_in_another_process_with_another_hash_seed():
    command = "from nanolab import seeds; print(repr(seeds.uniform(1, 'a', 2)), seeds.derive('b'))"
    environment = {"PYTHONHASHSEED": "77", "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert answer == [repr(seeds.uniform(1, "a", 2)), str(seeds.derive("b"))]


def test_noise_is_uniform_at_the_joined_address():
    assert seeds.noise(4, "rl", 9)((1, 2, -1)) == seeds.uniform(4, "rl", 9, 1, 2, -1)
    assert seeds.noise(4, "rl", "x")((0,)) == seeds.uniform(4, "rl", "x", 0)


def test_neighbouring_addresses_do_not_collide():
    """Seeds are derived, never added: (seed 0, example 1) and (seed 1, example 0) differ, and so do
    (12, 3) and (1, 23).
    """
    assert seeds.uniform(0, 1) != seeds.uniform(1, 0)
    assert seeds.uniform(12, 3) != seeds.uniform(1, 23)
    assert seeds.uniform("1") != seeds.uniform(1)
    assert seeds.uniform("a", "b") != seeds.uniform("ab")


@pytest.mark.parametrize(
    "part", [1.7, 1.0, True, None, b"a", (1, 2), numpy.float32(1), numpy.bool_(True)]
)
def test_an_address_is_of_whole_numbers_and_texts(part):
    """1.7 is not cut to 1, and True is not taken for it."""
    said = rf"{re.escape(repr(part))} in the address .* must be a whole number or a text"
    for call in (seeds.uniform, seeds.derive, seeds.generator):
        with pytest.raises(UserError, match=said):
            call(3, part)
    with pytest.raises(UserError, match=said):
        seeds.noise(0, "s", 0)((3, part))
    with pytest.raises(UserError, match="whole number or a text"):
        seeds.noise(0, "s", part)


def test_a_whole_number_of_numpy_is_the_same_address():
    for kind in (numpy.int8, numpy.uint16, numpy.int32, numpy.int64):
        assert seeds.uniform(kind(0), "a", kind(7)) == seeds.uniform(0, "a", 7)
    assert seeds.uniform(numpy.int64(-1)) == seeds.uniform(-1)


def test_draws_are_uniform_and_open():
    draws = numpy.array([seeds.uniform(0, "t", i) for i in range(20_000)])
    assert draws.min() > 0 and draws.max() < 1
    counts = numpy.histogram(draws, 20, (0, 1))[0]
    assert (
        (counts - 1000) ** 2 / 1000
    ).sum() < 43.8  # the 99.9% quantile of chi-squared with 19 degrees of freedom


def test_generator_repeats():
    assert (seeds.generator(3, "x").normal(size=4) == seeds.generator(3, "x").normal(size=4)).all()
