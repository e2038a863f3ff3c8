"""Diagnostics on chains whose answer is known."""

import math

import numpy
import pytest

from nanolab.samplers.diagnostics import (
    acceptance_by_step,
    autocorrelation,
    clustered_mean,
    convergence,
    effective_sample_size,
    mixing,
    r_hat,
    step_share,
)
from nanolab.seeds import generator


def info(accepted, moved=False, early=False):
    return {
        "cut": 0,
        "of": 3,
        "log_ratio": None,
        "accepted": accepted,
        "moved": moved,
        "early_rejected": early,
    }


def autoregressive(n, rho, *address):
    random = generator("chain", *address)
    x = [random.normal()]
    for _ in range(n - 1):
        x.append(rho * x[-1] + math.sqrt(1 - rho * rho) * random.normal())
    return numpy.array(x)


def test_shares_over_chains_and_steps():
    chains = [[info(True, True), info(False, early=True)], [info(True), info(True, True)]]
    assert (
        step_share(chains, "accepted") == 0.75
        and step_share(chains, "moved") == 0.5
        and step_share(chains, "early_rejected") == 0.25
    )
    assert acceptance_by_step(chains) == [1.0, 0.5]
    assert math.isnan(step_share([], "accepted")) and acceptance_by_step([[], []]) == []


def test_autocorrelation_of_an_autoregressive_chain():
    rho = autocorrelation(autoregressive(40_000, 0.6, 0))
    assert (
        rho[0] == 1
        and rho[1] == pytest.approx(0.6, abs=0.02)
        and rho[3] == pytest.approx(0.216, abs=0.03)
    )


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_matches_theory(rho):
    n = 40_000
    assert effective_sample_size(autoregressive(n, rho, 1)) == pytest.approx(
        n * (1 - rho) / (1 + rho), rel=0.15
    )


def test_degenerate_chains():
    assert effective_sample_size([2.0] * 50) == 0
    assert effective_sample_size([1.0]) == 0
    assert math.isnan(effective_sample_size([1.0, math.nan, 2.0]))
    assert numpy.isnan(autocorrelation([3.0, 3.0])).all()
    assert (
        math.isnan(r_hat([[1.0] * 8, [1.0] * 8]))
        and math.isnan(r_hat([[1.0, math.nan, 2.0, 1.0]] * 2))
        and math.isnan(r_hat([[1, 2]]))
    )


@pytest.mark.parametrize("value", [0.1, -1.1, 1e9 / 3, 1e-9 / 7, 0.0, -math.inf])
@pytest.mark.parametrize("length", [7, 10, 12, 30])
def test_a_constant_chain_is_one_whatever_its_mean_is_rounded_to(value, length):
    chain = [value] * length
    assert numpy.isnan(autocorrelation(chain)).all()
    assert effective_sample_size(chain) == 0
    assert math.isnan(r_hat([chain, chain])) and math.isnan(r_hat([chain, [value - 1] * length]))
    if math.isfinite(value):
        assert clustered_mean(chain, range(length)) == (value, 0.0)


def test_rounding_is_no_movement():
    """The same sum added up in another order: no chain moved, and the chains agree."""
    one, other = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    chain = [one, other, other, one, one, other, one, other]
    assert one != other and effective_sample_size(chain) == 0
    assert numpy.isnan(autocorrelation(chain)).all()
    values = mixing([record(chain, chain[::-1]) for _ in range(5)])
    assert values["r_hat"] == 1 and "autocorrelation_1" not in values and values["converged"] == 0
    moving = [-3.0, -3.0 + 1e-6, -3.0, -3.0 + 1e-6, -3.0, -3.0 + 1e-6, -3.0, -3.0 + 1e-6]
    assert effective_sample_size(moving) > 0 and autocorrelation(moving)[1] == pytest.approx(-7 / 8)


def test_r_hat_tells_agreeing_chains_from_stuck_ones():
    good = [autoregressive(2000, 0.3, 2, c) for c in range(4)]
    assert r_hat(good) == pytest.approx(1, abs=0.01)
    assert r_hat([chain + 3 * c for c, chain in enumerate(good)]) > 2


def record(*paths, steps=()):
    return {"chains": [{"log_p_by_step": list(path), "steps": list(steps)} for path in paths]}


def study(number, trend=0.0, problems=30, chains=4, n=64):
    """A study whose chains are stationary, each problem at its own level of log p, plus a straight
    trend over all steps.
    """
    rise = trend * numpy.arange(n) / (n - 1)
    return [
        record(*(autoregressive(n, 0.3, number, i, c) + 10 * i + rise for c in range(chains)))
        for i in range(problems)
    ]


def test_stationary_chains_nearly_always_count_as_converged():
    found = [mixing(study(number)) for number in range(60)]
    converged = sum(values["converged"] for values in found)
    assert 53 <= converged <= 60  # two standard errors: 95% of the studies
    assert numpy.mean(
        [values["log_p_drift"] / values["log_p_drift_se"] for values in found]
    ) == pytest.approx(0, abs=0.4)
    assert numpy.std(
        [values["log_p_drift"] / values["log_p_drift_se"] for values in found]
    ) == pytest.approx(1, abs=0.25)
    assert (
        found[0]["r_hat"] < 1.05
        and found[0]["chains"] == 4
        and 0.2 < found[0]["autocorrelation_1"] < 0.35
    )


def test_chains_that_still_rise_or_fall_are_not_converged():
    rising, falling = mixing(study(0, trend=2.0)), mixing(study(0, trend=-2.0))
    assert rising["converged"] == falling["converged"] == 0
    assert rising["log_p_drift"] == pytest.approx(1, abs=0.4) and falling[
        "log_p_drift"
    ] == pytest.approx(-1, abs=0.4)
    assert convergence(rising).startswith(
        "not converged: log p still rises by"
    ) and "still falls by" in convergence(falling)


def test_chains_without_drift_that_disagree_are_not_converged():
    apart = [
        record(*(autoregressive(64, 0.3, 5, i, c) + 5 * c for c in range(2))) for i in range(30)
    ]
    values = mixing(apart)
    assert (
        abs(values["log_p_drift"]) <= 2 * values["log_p_drift_se"]
        and values["r_hat"] > 2
        and values["converged"] == 0
    )
    assert convergence(values).startswith("not converged: log p changes by")


def test_stuck_chains_agree_at_one_value_and_never_at_two():
    same, apart = record([-3.0] * 8, [-3.0] * 8), record([-3.0] * 8, [-4.0] * 8)
    assert (
        mixing([same, same])["r_hat"] == 1 and mixing([same, same])["converged"] == 0
    )  # agreed, but no chain has moved
    stuck = mixing([apart, apart, same])
    assert stuck["r_hat"] > 1e6 and stuck["converged"] == 0 and stuck["effective_sample_size"] == 0
    assert "autocorrelation_1" not in stuck
    assert "R-hat infinite over 2 chains" in convergence(stuck)
    assert "R-hat infinite" in convergence(
        stuck | {"r_hat": 1.7976931348623157e308}
    )  # as MLflow gives infinity back
    stepped = record(
        [-3.0] * 4 + [-2.0] * 4, [-3.0] * 4 + [-2.0] * 4
    )  # each half sits still, but not at one value
    assert mixing([stepped, stepped])["r_hat"] > 1e6


def test_one_chain_a_problem_that_never_moved_shows_nothing():
    values = mixing([record([-3.0] * 8), record([-4.0] * 8)])
    assert (
        values["log_p_drift"] == values["log_p_drift_se"] == values["converged"] == 0
        and "r_hat" not in values
    )
    assert (
        convergence(values)
        == "not converged: log p changes by +0.000 +- 0.000 nats (standard error) over the second"
        " half of the steps; no chain moved"
    )


def test_drift_is_the_end_minus_the_state_after_half_of_the_steps():
    values = mixing(
        [record([0, 5, 1, 9, 2]), record([0, 0, 1, 0, 5])]
    )  # 4 steps: state 4 minus state 2
    assert values["log_p_drift"] == pytest.approx(2.5)
    assert values["log_p_drift_se"] == pytest.approx(1.5)


def test_what_cannot_be_computed_is_left_out():
    assert mixing([]) == {} and mixing([record()]) == {}
    assert mixing([record([-1.0])]) == {"chains": 1}
    one_problem = mixing(
        [record([-1.0, -2.0, -1.5], steps=[info(True, True), info(False, early=True)])]
    )
    assert (
        one_problem["acceptance"]
        == one_problem["effective_moves"]
        == one_problem["early_rejected"]
        == 0.5
    )
    assert {"log_p_drift_se", "converged", "r_hat"}.isdisjoint(one_problem)
    assert (
        convergence(one_problem)
        == convergence({})
        == "not judged: that needs at least two steps and two problems"
    )
    broken = mixing([record([-1.0, None, -2.0, None, -3.0]), record([-1.0] * 5)])
    assert not any(math.isnan(value) for value in broken.values())


def test_the_sentence_reads_the_text_that_a_store_gives_back():
    values = {
        "log_p_drift": "1.234",
        "log_p_drift_se": "0.1",
        "r_hat": "1.42",
        "chains": "4",
        "converged": "0.0",
    }
    assert (
        convergence(values)
        == "not converged: log p still rises by 1.234 +- 0.100 nats (standard error) over the"
        " second half of the steps; R-hat 1.42 over 4 chains"
    )
    assert (
        convergence(values | {"log_p_drift": "0.1", "r_hat": "1.02", "converged": "1.0"})
        == "no sign against convergence: log p changes by +0.100 +- 0.100 nats (standard error)"
        " over the second half of the steps; R-hat 1.02 over 4 chains"
    )


def test_values_of_one_cluster_count_as_one_observation():
    random = generator("clusters")
    values = random.normal(size=50)
    mean, error = clustered_mean(values, range(50))
    assert [mean, error] == pytest.approx([values.mean(), values.std(ddof=1) / math.sqrt(50)])
    assert clustered_mean(numpy.repeat(values, 4), numpy.repeat(range(50), 4)) == pytest.approx(
        (mean, error)
    )
    assert math.isnan(clustered_mean([1.0, 2.0], ["a", "a"])[1]) and math.isnan(
        clustered_mean([], [])[0]
    )
