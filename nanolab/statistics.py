"""Intervals of proportions and of their differences, and the paired test."""

import math
from fractions import Fraction

# an R-hat above it is printed as infinite: MLflow gives inf back as the largest float
INFINITE = 1e6


def wilson(passed: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) for n = 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". z =
    1.959964 is 95%.
    """
    assert 0 <= passed <= n, f"{passed} passed of {n}"
    if n == 0:
        return 0.0, 1.0
    share, width = passed / n, z * z / n
    middle = share + width / 2
    half = z * math.sqrt(share * (1 - share) / n + width / (4 * n))
    low = 0.0 if passed == 0 else max(0.0, (middle - half) / (1 + width))
    high = 1.0 if passed == n else min(1.0, (middle + half) / (1 + width))
    return low, high


def newcombe(passed: int, n: int, other_passed: int, other_n: int) -> tuple[float, float]:
    """95% interval of the difference of two independent proportions, first - second.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods" (Statistics in Medicine 17, 873-890), method 10.
    """
    return _hybrid(passed, n, other_passed, other_n, 0.0)


def newcombe_paired(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95% interval of the difference of two proportions of the same problems, first - second.

    `both` were passed by the two, `first` and `second` by one of them only. Source: Newcombe 1998,
    "Improved confidence intervals for the difference between binomial proportions based on paired
    data" (Statistics in Medicine 17, 2635-2650), method 10, which takes the correlation of the two
    from the table, its numerator brought towards 0 by n/2 where it is positive.
    """
    n = both + first + second + neither
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    if product > 0:
        product = max(0.0, product - n / 2)
    correlation = product / math.sqrt(margins) if margins else 0.0
    return _hybrid(both + first, n, both + second, n, correlation)


def _hybrid(
    passed: int, n: int, other_passed: int, other_n: int, correlation: float
) -> tuple[float, float]:
    """(-1, 1) without problems."""
    if not n or not other_n:
        return -1.0, 1.0
    share, other = passed / n, other_passed / other_n
    (low, high), (other_low, other_high) = wilson(passed, n), wilson(other_passed, other_n)

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * two + two * two))

    difference = share - other
    down, up = reach(share - low, other_high - other), reach(high - share, other - other_low)
    return difference - down, difference + up


def mcnemar_exact(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p-value: `gained` problems are passed by the second alone, `lost` by
    the first alone; 1 without any.

    Their split is binomial(1/2) when the two are equally good. Source: McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages", with the exact
    distribution in place of the normal one.
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))
