"""The interval of a proportion: the one implementation, for evaluations and figures; imports no torch."""

from __future__ import annotations

import math


def wilson(passed: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) for n = 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". z = 1.959964 is 95%.
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
