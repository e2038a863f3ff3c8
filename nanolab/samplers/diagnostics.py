"""How well chains mix: acceptance, effective moves, autocorrelation, effective sample size, R-hat.

Degenerate input gets a plain answer: no step gives NaN, a constant chain has an effective sample size of 0, a NaN draw gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from nanolab.samplers.power_mh import Info


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan


def acceptance(chains: Sequence[Sequence[Info]]) -> float:
    """Share of accepted steps over all chains; NaN without a step."""
    return _share([info.accepted for infos in chains for info in infos])


def effective_moves(chains: Sequence[Sequence[Info]]) -> float:
    """Share of steps that changed the state: an accepted proposal may equal it. NaN without a step."""
    return _share([info.moved for infos in chains for info in infos])


def early_rejections(chains: Sequence[Sequence[Info]]) -> float:
    """Share of steps whose proposal was given up before its end; NaN without a step."""
    return _share([info.early_rejected for infos in chains for info in infos])


def acceptance_by_step(chains: Sequence[Sequence[Info]]) -> list[float]:
    """Share of chains that accepted step 1, 2, ...; all chains have the same number of steps."""
    return [_share([info.accepted for info in infos]) for infos in zip(*chains, strict=True)]


def autocorrelation(values: Sequence[float]) -> numpy.ndarray:
    """Autocorrelation of one chain at lags 0 .. n-1, (n,) float64, biased normalisation; NaN for a constant chain or a NaN draw."""
    x = numpy.asarray(values, dtype=numpy.float64)
    centred = x - x.mean()
    products = numpy.correlate(centred, centred, "full")[len(x) - 1:]
    return products / products[0] if products[0] > 0 else numpy.full(len(x), math.nan)


def effective_sample_size(values: Sequence[float]) -> float:
    """Independent draws that one chain is worth (Geyer 1992, initial monotone sequence): 0 if constant, NaN for a NaN draw."""
    x = numpy.asarray(values, dtype=numpy.float64)
    if numpy.isnan(x).any():
        return math.nan
    if len(x) < 2 or (x == x[0]).all():
        return 0.0
    rho = autocorrelation(x)
    time, smallest = -1.0, math.inf
    for lag in range(0, len(rho) - 1, 2):
        smallest = min(smallest, rho[lag] + rho[lag + 1])
        if smallest <= 0:
            break
        time += 2 * smallest
    return float(min(len(x) / time, len(x) * math.log10(len(x)))) if time > 0 else len(x) * math.log10(len(x))


def r_hat(chains: Sequence[Sequence[float]]) -> float:
    """Split R-hat (Gelman and Rubin 1992) of chains (m, n): near 1 when they agree; NaN for a NaN draw, n < 4, or no variance within."""
    x = numpy.asarray(chains, dtype=numpy.float64)
    half = x.shape[1] // 2
    if half < 2 or numpy.isnan(x).any():
        return math.nan
    split = numpy.concatenate([x[:, :half], x[:, -half:]])
    within = split.var(1, ddof=1).mean()
    between = split.mean(1).var(ddof=1)  # of the means of `half` draws
    return float(math.sqrt((half - 1) / half + between / within)) if within > 0 else math.nan
