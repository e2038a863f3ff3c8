"""Diagnostics on chains whose answer is known."""

import math

import numpy
import pytest

from nanolab.samplers.diagnostics import (
    acceptance,
    acceptance_by_step,
    autocorrelation,
    early_rejections,
    effective_moves,
    effective_sample_size,
    r_hat,
)
from nanolab.samplers.power_mh import Info
from nanolab.seeds import generator


def info(accepted, moved=False, early=False):
    return Info(0.0, -1.0, accepted, moved, 0, None, 0.0, 0.0, early, 1)


def autoregressive(n, rho, *address):
    random = generator("chain", *address)
    x = [random.normal()]
    for _ in range(n - 1):
        x.append(rho * x[-1] + math.sqrt(1 - rho * rho) * random.normal())
    return numpy.array(x)


def test_shares_over_chains_and_steps():
    chains = [[info(True, True), info(False, early=True)], [info(True), info(True, True)]]
    assert acceptance(chains) == 0.75 and effective_moves(chains) == 0.5 and early_rejections(chains) == 0.25
    assert acceptance_by_step(chains) == [1.0, 0.5]
    assert math.isnan(acceptance([])) and acceptance_by_step([[], []]) == []


def test_autocorrelation_of_an_autoregressive_chain():
    rho = autocorrelation(autoregressive(40_000, 0.6, 0))
    assert rho[0] == 1 and rho[1] == pytest.approx(0.6, abs=0.02) and rho[3] == pytest.approx(0.216, abs=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_matches_theory(rho):
    n = 40_000
    assert effective_sample_size(autoregressive(n, rho, 1)) == pytest.approx(n * (1 - rho) / (1 + rho), rel=0.15)


def test_degenerate_chains():
    assert effective_sample_size([2.0] * 50) == 0
    assert effective_sample_size([1.0]) == 0
    assert math.isnan(effective_sample_size([1.0, math.nan, 2.0]))
    assert numpy.isnan(autocorrelation([3.0, 3.0])).all()
    assert math.isnan(r_hat([[1.0] * 8, [1.0] * 8])) and math.isnan(r_hat([[1.0, math.nan, 2.0, 1.0]] * 2)) and math.isnan(r_hat([[1, 2]]))


def test_r_hat_tells_agreeing_chains_from_stuck_ones():
    good = [autoregressive(2000, 0.3, 2, c) for c in range(4)]
    assert r_hat(good) == pytest.approx(1, abs=0.01)
    assert r_hat([chain + 3 * c for c, chain in enumerate(good)]) > 2
