"""How well chains mix, from plain values: fresh records, or those read back from disk.

Degenerate input gets a plain answer: no step gives NaN, a constant chain has an effective sample
size of 0, a NaN draw gives NaN; `mixing` leaves out what is NaN.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from nanolab.statistics import INFINITE

# of one step: "accepted", "moved", "early_rejected" (bool), and what else a record keeps
Step = Mapping[str, Any]

R_HAT_LIMIT = 1.1  # above it chains disagree (Gelman and Rubin 1992)
ROUNDING = 1e-12  # relative: hundreds of float64 roundings, far below those of a float32 log p


def constant(values: numpy.ndarray) -> bool:
    """Whether values (n,), n >= 1, differ by no more than rounding: less their mean, only noise is
    left. False with a NaN among them.
    """
    low, high = values.min(), values.max()
    return bool(low == high or high - low <= ROUNDING * max(abs(low), abs(high)))


def step_share(chains: Sequence[Sequence[Step]], key: str) -> float:
    """Share of the steps of all chains that are "accepted", "moved" (an accepted proposal may equal
    the state) or "early_rejected"; NaN without a step.
    """
    flags = [step[key] for steps in chains for step in steps]
    return sum(flags) / len(flags) if flags else math.nan


def acceptance_by_step(chains: Sequence[Sequence[Step]]) -> list[float]:
    """Share of chains that accepted step 1, 2, ...; all chains have the same number of steps."""
    return [step_share([steps], "accepted") for steps in zip(*chains, strict=True)]


def autocorrelation(values: Sequence[float]) -> numpy.ndarray:
    """Autocorrelation of one chain (n >= 1) at lags 0 .. n-1, (n,) float64, biased; NaN for a
    constant chain or a NaN draw.
    """
    x = numpy.asarray(values, dtype=numpy.float64)
    if numpy.isnan(x).any() or constant(x):
        return numpy.full(len(x), math.nan)
    centred = x - x.mean()
    products = numpy.correlate(centred, centred, "full")[len(x) - 1 :]
    return products / products[0] if products[0] > 0 else numpy.full(len(x), math.nan)


def effective_sample_size(values: Sequence[float]) -> float:
    """Independent draws that one chain is worth (Geyer 1992, initial monotone sequence): 0 if
    constant, NaN for a NaN draw.
    """
    x = numpy.asarray(values, dtype=numpy.float64)
    if numpy.isnan(x).any():
        return math.nan
    if len(x) < 2 or constant(x):
        return 0.0
    rho = autocorrelation(x)
    time, smallest = -1.0, math.inf
    for lag in range(0, len(rho) - 1, 2):
        smallest = min(smallest, rho[lag] + rho[lag + 1])
        if smallest <= 0:
            break
        time += 2 * smallest
    most = len(x) * math.log10(len(x))
    return float(min(len(x) / time, most)) if time > 0 else most


def _halves(chains: Sequence[Sequence[float]]) -> numpy.ndarray:
    """First and last half of chains (m, n) as (2m, n // 2) float64; the middle draw of an odd n
    belongs to neither.
    """
    x = numpy.asarray(chains, dtype=numpy.float64)
    half = x.shape[1] // 2
    return numpy.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def r_hat(chains: Sequence[Sequence[float]]) -> float:
    """Split R-hat (Gelman and Rubin 1992) of chains (m, n): near 1 when they agree; NaN for a NaN
    draw, n < 4, or no variance within.
    """
    split = _halves(chains)
    half = split.shape[1]
    if half < 2 or numpy.isnan(split).any() or all(map(constant, split)):
        return math.nan
    within = split.var(1, ddof=1).mean()
    between = split.mean(1).var(ddof=1)  # of the means of `half` draws
    return float(math.sqrt((half - 1) / half + between / within)) if within > 0 else math.nan


def clustered_mean(values: Sequence[float], clusters: Sequence[Any]) -> tuple[float, float]:
    """Mean of values (n,) and its standard error where those of one cluster may depend on another.

    NaN without a value; the error is NaN with fewer than two clusters.
    """
    x = numpy.asarray(values, dtype=numpy.float64)
    if not len(x):
        return math.nan, math.nan
    mean = x[0] if constant(x) else x.mean()  # of equal values exactly theirs
    sums: dict[Any, float] = {}
    for cluster, deviation in zip(clusters, x - mean, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + deviation
    groups = len(sums)
    if groups < 2:
        return float(mean), math.nan
    squares = sum(value * value for value in sums.values())
    return float(mean), math.sqrt(groups / (groups - 1) * squares) / len(x)


def _mean(values: Sequence[float]) -> float:
    return float(numpy.mean(values)) if len(values) else math.nan


def _problem_r_hat(paths: Sequence[numpy.ndarray]) -> float:
    """Split R-hat of one problem's chains, at least two; chains that all sit still agree (1) or
    never will (infinite).
    """
    if len(paths) < 2 or len({len(path) for path in paths}) > 1 or len(paths[0]) < 4:
        return math.nan
    split = _halves(paths)
    if all(map(constant, split)):
        return 1.0 if constant(split) else math.inf
    return r_hat(paths)


def mixing(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How well the chains of power records mix; what cannot be computed is left out.

    A record is a problem with "chains", each {"steps": [Step], "log_p_by_step": [nats, after 0 .. S
    steps of the last block]}. acceptance, effective_moves and early_rejected are shares of the
    steps; autocorrelation_1 is the mean over the chains that moved (short ones make it too low);
    log_p_drift (nats) the mean over chains of log p after all steps minus after half of them, its
    error clustered by problem; r_hat the median over the problems with two chains and four states.
    converged is 1.0 only where a chain moved, |drift| <= 2 standard errors, and r_hat < 1.1.
    """
    steps = [chain["steps"] for record in records for chain in record["chains"]]
    problems = [
        [numpy.asarray(chain["log_p_by_step"], dtype=numpy.float64) for chain in record["chains"]]
        for record in records
    ]
    paths = [path for own in problems for path in own]
    clusters = [i for i, own in enumerate(problems) for path in own if len(path) >= 3]
    long = [path for path in paths if len(path) >= 3]
    moved = [path for path in long if not constant(path)]
    ends = [path[-1] - path[(len(path) - 1) // 2] for path in long]
    drift, error = clustered_mean(ends, clusters)
    ratios = [ratio for ratio in map(_problem_r_hat, problems) if not math.isnan(ratio)]
    # JSON has no infinity
    ratio = min(float(numpy.median(ratios)), 10 * INFINITE) if ratios else math.nan
    sizes = [effective_sample_size(path) for path in paths if len(path) >= 2]
    found = {
        "acceptance": step_share(steps, "accepted"),
        "effective_moves": step_share(steps, "moved"),
        "early_rejected": step_share(steps, "early_rejected"),
        "autocorrelation_1": _mean([autocorrelation(path)[1] for path in moved]),
        "effective_sample_size": _mean(sizes),
        "log_p_drift": drift,
        "log_p_drift_se": error,
        "r_hat": ratio,
        "chains": float(max(map(len, problems), default=0)) or math.nan,
    }
    if not math.isnan(drift + error):
        mixed = bool(moved) and (not ratios or ratio < R_HAT_LIMIT)
        found["converged"] = float(abs(drift) <= 2 * error and mixed)
    return {key: value for key, value in found.items() if not math.isnan(value)}


def convergence(values: Mapping[str, Any]) -> str:
    """One sentence on what `mixing` found. Numbers may be text, as MLflow gives parameters."""
    keys = ("log_p_drift", "log_p_drift_se", "converged", "r_hat", "chains")
    drift, error, converged, ratio, chains = (
        None if values.get(key) is None else float(values[key]) for key in keys
    )
    if None in (drift, error, converged):
        return "not judged: that needs at least two steps and two problems"
    drifts = abs(drift) > 2 * error
    verb = "rises" if drift > 0 else "falls"
    change = f"still {verb} by {abs(drift):.3f}" if drifts else f"changes by {drift:+.3f}"
    more = "" if converged or drifts else "; no chain moved"
    if ratio is not None:
        more = f"; R-hat {ratio:.2f}" if ratio < INFINITE else "; R-hat infinite"
        more += "" if chains is None else f" over {chains:.0f} chains"
    verdict = "no sign against convergence" if converged else "not converged"
    return (
        f"{verdict}: log p {change} +- {error:.3f} nats (standard error) over the second half of"
        f" the steps{more}"
    )
