"""The proposal q that tokens are drawn from, and the power law p^alpha that they are weighed for.

p is the model's full softmax at temperature 1; q is p at `temperature` T restricted to the `top_k`
most likely tokens: q(v) = p(v)^(1/T) / Z_T. All log-probabilities are natural logarithms (nats).
Temperature 0 is greedy decoding: log q = 0.
"""

import functools
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
import torch

from nanolab.errors import UserError
from nanolab.inference import kernels
from nanolab.settings.kinds import Alpha, Count, NotNegative, Range, range_of

Law = tuple[float, int | None, float]  # temperature, tokens kept, alpha


@functools.cache
def _ranges(settings: type) -> dict[str, Range]:
    """Of each field; one that names no range has that of the class above."""
    found = {}
    for base in reversed(settings.__mro__):
        for name, kind in typing.get_type_hints(base, include_extras=True).items():
            found[name] = range_of(kind) or found.get(name)
    return {name: limits for name, limits in found.items() if limits}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The proposal q, and the exponent of the target. Raises UserError for a value out of the range
    that its kind names (nanolab/settings/kinds.py), in a subclass too.
    """

    temperature: NotNegative  # of q; 0: greedy
    top_k: Count | None = None  # tokens that q keeps; None: all
    max_new_tokens: Count  # tokens of a completion at most, forced ones included
    alpha: Alpha = 1.0  # exponent of the target p^alpha

    def __post_init__(self) -> None:
        for name, limits in _ranges(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                try:
                    limits.check(value)
                except ValueError as error:
                    raise UserError(f"{name} {error}") from None

    @property
    def law(self) -> Law:
        """What requests must share to be drawn together."""
        return self.temperature, kept_tokens(self.temperature, self.top_k), self.alpha


@dataclass(frozen=True, kw_only=True)
class Target(Sampling):
    """What power samplers need beside: a proposal that can be corrected towards p^alpha."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0:
            raise UserError(
                f"temperature = {self.temperature} must be above 0: a greedy proposal cannot be"
                " corrected"
            )


class Candidates(NamedTuple):
    """The tokens that q can draw at n positions, by rising id (so that ties are stable)."""

    ids: numpy.ndarray  # (n, k) int64
    # (n, k) nats of the full softmax, at most 0; float32, or float64 for float64 logits
    log_p: numpy.ndarray


def candidates(logits: torch.Tensor, top_k: int | None, name: str = "the model") -> Candidates:
    """The `top_k` most likely tokens (None: all) of logits (n, vocab), float32 or float64.

    Raises UserError naming the model when a logit is not a number.
    """
    count, vocab_size = logits.shape
    everything = top_k is None or top_k >= vocab_size
    if not everything and kernels.usable(logits.dtype, logits.device, top_k):
        ids, log_p, bad = kernels.top_candidates(logits, top_k)
    else:
        total = torch.logsumexp(logits, -1, keepdim=True)
        bad = int((~torch.isfinite(total)).sum())
        if everything:
            ids = numpy.broadcast_to(numpy.arange(vocab_size), (count, vocab_size))
        else:
            chosen = torch.topk(logits, top_k, dim=-1, sorted=False).indices.sort(-1).values
            ids = chosen.cpu().numpy()
            logits = logits.gather(-1, chosen)
        log_p = (logits - total).clamp(max=0).cpu().numpy()
    if bad:
        raise UserError(
            f"the logits of {name} are not finite at {bad} of {count} positions: the checkpoint is"
            " damaged or diverged; train that step again with a lower learning rate, or choose an"
            " earlier checkpoint"
        )
    return Candidates(ids, log_p)


def draw(
    log_p: numpy.ndarray, temperature: float, u: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Which candidate q draws for each uniform u (n,), by inverse CDF over log p (n, k), and log
    Z_T (n,): at most 0 where 1/T >= 1, as in exact arithmetic.
    """
    scaled = log_p.astype(numpy.float64) / (temperature or 1.0)
    top = scaled.max(-1, keepdims=True)
    cumulative = numpy.cumsum(numpy.exp(scaled - top), -1)
    total = cumulative[:, -1:]
    log_z = top[:, 0] + numpy.log(total[:, 0])
    if temperature <= 1:
        log_z = numpy.minimum(log_z, 0.0)
    passed = (cumulative <= u[:, None] * total) & (cumulative < total)
    return passed.sum(-1), log_z  # never a candidate of weight 0


def kept_tokens(temperature: float, top_k: int | None) -> int | None:
    """Greedy decoding is q over the single most likely token."""
    return 1 if temperature == 0 else top_k


def power_term(
    log_p: numpy.ndarray, log_z: numpy.ndarray, temperature: float, alpha: float
) -> numpy.ndarray:
    """a = alpha log p - log q, as (alpha - 1/T) log p + log Z_T: at most 0 wherever alpha >= 1/T >=
    1, in floating point too.
    """
    return (alpha - 1 / (temperature or 1.0)) * log_p + log_z


def draw_tokens(
    kept: Candidates, law: Law, uniforms: Sequence[float], firsts: Sequence[int | None]
) -> list[tuple[int, float, float, float]]:
    """Token, log p, log q and a for each of n positions, drawn with its uniform, or the token that
    `firsts` names, which q must reach.
    """
    temperature, _, alpha = law
    index, log_z = draw(kept.log_p, temperature, numpy.array(uniforms))
    for i, first in enumerate(firsts):
        if first is not None:
            place = numpy.flatnonzero(kept.ids[i] == first)
            assert len(place) == 1, f"q cannot reach token {first}"
            index[i] = place[0]
    rows = numpy.arange(len(index))
    log_p = kept.log_p[rows, index].astype(numpy.float64)
    log_q = log_p / (temperature or 1.0) - log_z
    a = power_term(log_p, log_z, temperature, alpha)
    columns = kept.ids[rows, index], log_p, log_q, a
    return list(zip(*(column.tolist() for column in columns)))


def log_mean(logarithms: numpy.ndarray) -> float:
    """log of the mean of exp(logarithms)."""
    top = logarithms.max()
    return float(top + numpy.log(numpy.exp(logarithms - top).mean()))
