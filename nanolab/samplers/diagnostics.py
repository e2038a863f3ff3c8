"""How well chains mix: acceptance, effective moves, autocorrelation, effective sample size, drift, R-hat.

Works on plain values, so that it judges records read back from disk as well as fresh ones. Degenerate input gets a plain answer:
no step gives NaN, a constant chain has an effective sample size of 0, a NaN draw gives NaN; `mixing` leaves out what is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

Step = Mapping[
    str, Any
]  # of one step: "accepted", "moved", "early_rejected" (bool), and what else a record keeps

R_HAT_LIMIT = 1.1  # above it chains disagree (Gelman and Rubin 1992)
INFINITE = (
    1e6  # an R-hat above it is printed as infinite: MLflow gives inf back as the largest float
)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan


def acceptance(chains: Sequence[Sequence[Step]]) -> float:
    """Share of accepted steps over all chains; NaN without a step."""
    return _share([step["accepted"] for steps in chains for step in steps])


def effective_moves(chains: Sequence[Sequence[Step]]) -> float:
    """Share of steps that changed the state: an accepted proposal may equal it. NaN without a step."""
    return _share([step["moved"] for steps in chains for step in steps])


def early_rejections(chains: Sequence[Sequence[Step]]) -> float:
    """Share of steps whose proposal was given up before its end; NaN without a step."""
    return _share([step["early_rejected"] for steps in chains for step in steps])


def acceptance_by_step(chains: Sequence[Sequence[Step]]) -> list[float]:
    """Share of chains that accepted step 1, 2, ...; all chains have the same number of steps."""
    return [_share([step["accepted"] for step in steps]) for steps in zip(*chains, strict=True)]


def autocorrelation(values: Sequence[float]) -> numpy.ndarray:
    """Autocorrelation of one chain at lags 0 .. n-1, (n,) float64, biased normalisation; NaN for a constant chain or a NaN draw."""
    x = numpy.asarray(values, dtype=numpy.float64)
    centred = x - x.mean()
    products = numpy.correlate(centred, centred, "full")[len(x) - 1 :]
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
    return (
        float(min(len(x) / time, len(x) * math.log10(len(x))))
        if time > 0
        else len(x) * math.log10(len(x))
    )


def _halves(chains: Sequence[Sequence[float]]) -> numpy.ndarray:
    """First and last half of chains (m, n) as (2m, n // 2) float64; the middle draw of an odd n belongs to neither."""
    x = numpy.asarray(chains, dtype=numpy.float64)
    half = x.shape[1] // 2
    return numpy.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def r_hat(chains: Sequence[Sequence[float]]) -> float:
    """Split R-hat (Gelman and Rubin 1992) of chains (m, n): near 1 when they agree; NaN for a NaN draw, n < 4, or no variance within."""
    split = _halves(chains)
    half = split.shape[1]
    if half < 2 or numpy.isnan(split).any():
        return math.nan
    within = split.var(1, ddof=1).mean()
    between = split.mean(1).var(ddof=1)  # of the means of `half` draws
    return float(math.sqrt((half - 1) / half + between / within)) if within > 0 else math.nan


def clustered_mean(values: Sequence[float], clusters: Sequence[Any]) -> tuple[float, float]:
    """Mean of values (n,) and its standard error when values of one cluster may depend on each other.

    `clusters` names each value's cluster. NaN without a value; the error is NaN with fewer than two clusters.
    """
    x = numpy.asarray(values, dtype=numpy.float64)
    assert len(x) == len(clusters), f"{len(x)} values with {len(clusters)} clusters"
    if not len(x):
        return math.nan, math.nan
    mean = x.mean()
    sums: dict[Any, float] = {}
    for cluster, deviation in zip(clusters, x - mean):
        sums[cluster] = sums.get(cluster, 0.0) + deviation
    groups = len(sums)
    if groups < 2:
        return float(mean), math.nan
    return float(mean), math.sqrt(
        groups / (groups - 1) * sum(value * value for value in sums.values())
    ) / len(x)


def _mean(values: Sequence[float]) -> float:
    return float(numpy.mean(values)) if len(values) else math.nan


def _problem_r_hat(paths: Sequence[numpy.ndarray]) -> float:
    """Split R-hat of one problem's chains; chains that all sit still agree (1) or never will (infinite). NaN with under 2 chains."""
    if len(paths) < 2 or len({len(path) for path in paths}) > 1 or len(paths[0]) < 4:
        return math.nan
    split = _halves(paths)
    if (split == split[:, :1]).all():  # numbers that are NaN are not equal to themselves
        return 1.0 if (split == split[0, 0]).all() else math.inf
    return r_hat(paths)


def mixing(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How well the chains of power records mix; what cannot be computed is left out.

    A record is a problem with "chains", each {"steps": [Step], "log_p_by_step": [nats, after 0 .. S steps of the last block]}.
    Gives acceptance, effective_moves and early_rejected (shares of the steps); autocorrelation_1 of log p (mean over the chains
    that moved; short chains make it too low); effective_sample_size (mean over chains); log_p_drift (nats: mean over chains of log p after
    all steps minus log p after half of them) with log_p_drift_se, clustered by problem; r_hat (median over the problems with two
    chains and four states) with chains (a problem, the most); converged, 1.0 only where nothing speaks against it:
    a chain moved, |drift| <= 2 standard errors, and r_hat < 1.1 where there is one.
    """
    steps = [chain["steps"] for record in records for chain in record["chains"]]
    paths = [
        [numpy.asarray(chain["log_p_by_step"], dtype=numpy.float64) for chain in record["chains"]]
        for record in records
    ]
    flat = [(problem, path) for problem, own in enumerate(paths) for path in own]
    moved = [path for _, path in flat if len(path) >= 3 and not (path == path[0]).all()]
    ends = [
        (path[-1] - path[(len(path) - 1) // 2], problem) for problem, path in flat if len(path) >= 3
    ]
    drift, error = clustered_mean([end for end, _ in ends], [problem for _, problem in ends])
    ratios = [ratio for ratio in map(_problem_r_hat, paths) if not math.isnan(ratio)]
    found = {
        "acceptance": acceptance(steps),
        "effective_moves": effective_moves(steps),
        "early_rejected": early_rejections(steps),
        "autocorrelation_1": _mean([autocorrelation(path)[1] for path in moved]),
        "effective_sample_size": _mean(
            [effective_sample_size(path) for _, path in flat if len(path) >= 2]
        ),
        "log_p_drift": drift,
        "log_p_drift_se": error,
        "r_hat": min(float(numpy.median(ratios)), 10 * INFINITE)
        if ratios
        else math.nan,  # JSON has no infinity
        "chains": float(max(map(len, paths), default=0)) or math.nan,
    }
    if not math.isnan(drift + error):
        mixed = bool(moved) and (not ratios or found["r_hat"] < R_HAT_LIMIT)
        found["converged"] = float(abs(drift) <= 2 * error and mixed)
    return {key: value for key, value in found.items() if not math.isnan(value)}


def convergence(values: Mapping[str, Any]) -> str:
    """One sentence on what `mixing` found, for the report. Numbers may be text, as MLflow gives parameters."""
    if any(values.get(key) is None for key in ("log_p_drift", "log_p_drift_se", "converged")):
        return "not judged: that needs at least two steps and two problems"
    drift, error = float(values["log_p_drift"]), float(values["log_p_drift_se"])
    change = (
        f"still {'rises' if drift > 0 else 'falls'} by {abs(drift):.3f}"
        if abs(drift) > 2 * error
        else f"changes by {drift:+.3f}"
    )
    sentence = (
        f"log p {change} +- {error:.3f} nats (standard error) over the second half of the steps"
    )
    ratio = values.get("r_hat")
    if ratio is not None:
        sentence += f"; R-hat {float(ratio):.2f}" if float(ratio) < INFINITE else "; R-hat infinite"
        sentence += (
            f" over {float(values['chains']):.0f} chains"
            if values.get("chains") is not None
            else ""
        )
    elif not float(values["converged"]) and abs(drift) <= 2 * error:
        sentence += "; no chain moved"
    return (
        "no sign against convergence: " if float(values["converged"]) else "not converged: "
    ) + sentence
