"""Claims: intervals of differences agree with published examples and cover as they should; the
exact test is the binomial one.
"""

import itertools
import math

import pytest
from scipy.stats import binomtest

from nanolab.statistics import mcnemar_exact, newcombe, newcombe_paired, wilson


@pytest.mark.parametrize(
    "counts, low, high",
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_unpaired_intervals_are_those_of_newcombe_1998(counts, low, high):
    """The first three examples of his table II, method 10."""
    assert newcombe(*counts) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_paired_interval_is_the_published_one():
    """Airway hyper-responsiveness before and after a transplantation: 1, 1, 7 and 12 children
    (Fagerland, Lydersen and Laake 2014).
    """
    assert newcombe_paired(1, 1, 7, 12) == (
        pytest.approx(-0.507, abs=5e-4),
        pytest.approx(-0.026, abs=5e-4),
    )


def test_turning_the_two_round_turns_the_interval_round():
    for counts in ((40, 9, 4, 47), (0, 5, 0, 5), (10, 0, 0, 0), (3, 30, 2, 1)):
        both, first, second, neither = counts
        low, high = newcombe_paired(*counts)
        assert newcombe_paired(both, second, first, neither) == (
            pytest.approx(-high),
            pytest.approx(-low),
        )
        assert -1 <= low <= (first - second) / sum(counts) <= high <= 1


def test_pairing_narrows_the_interval_where_results_agree_and_not_where_they_do_not():
    wide = newcombe(50, 100, 45, 100)
    agree, apart = newcombe_paired(40, 10, 5, 45), newcombe_paired(0, 50, 45, 5)
    assert (
        agree[1] - agree[0] < 0.6 * (wide[1] - wide[0]) and apart[1] - apart[0] > wide[1] - wide[0]
    )


def test_no_problems_say_nothing():
    assert (
        newcombe(0, 0, 1, 2) == (-1.0, 1.0) == newcombe_paired(0, 0, 0, 0)
        and mcnemar_exact(0, 0) == 1.0
    )


@pytest.mark.parametrize(
    "shares, most",
    [((0.4, 0.2, 0.1, 0.3), 0.985), ((0.1, 0.3, 0.1, 0.5), 0.985), ((0.7, 0.05, 0.05, 0.2), 0.999)],
)
def test_a_paired_interval_covers_the_truth_about_19_times_in_20(shares, most):
    """Every table of 24 problems, with its exact probability; where hardly any problem is told
    apart it errs on the wide side.
    """
    n, covered = 24, 0.0
    truth = shares[1] - shares[2]
    for both, first, second in itertools.product(range(n + 1), repeat=3):
        neither = n - both - first - second
        if neither < 0:
            continue
        low, high = newcombe_paired(both, first, second, neither)
        if low <= truth <= high:
            counts = (both, first, second, neither)
            ways = math.factorial(n) / math.prod(map(math.factorial, counts))
            covered += ways * math.prod(share**count for share, count in zip(shares, counts))
    assert 0.93 <= covered <= most


@pytest.mark.parametrize(
    "gained, lost", [(7, 1), (0, 6), (6, 16), (3, 3), (1, 0), (139, 0), (250, 300)]
)
def test_the_exact_test_is_the_two_sided_binomial_one(gained, lost):
    assert mcnemar_exact(gained, lost) == pytest.approx(
        binomtest(gained, gained + lost, 0.5).pvalue
    )


def test_the_hybrid_of_one_share_with_a_certain_zero_is_wilsons_own():
    """With so many problems that the second share is known to be 0, the difference's upper end is
    the first one's.
    """
    assert newcombe(30, 100, 0, 10**9)[1] == pytest.approx(wilson(30, 100)[1], abs=1e-6)
