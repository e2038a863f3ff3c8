"""Power sampling token by token: an autoregressive approximation that looks ahead with rollouts.

The law of the next token under p^alpha is, exactly,

    pi(v | x) proportional to p(v | x)^alpha * zeta(v),
    zeta(v) = sum of p^alpha over the futures of x v

Here zeta is estimated for the likeliest `candidates` tokens from `rollouts` futures drawn from q,
at most `horizon` tokens long, as the mean of exp(sum of a) (a = alpha log p - log q), and the bias
of the normalised weights is reduced by the jackknife. It becomes exact as rollouts, horizon and
candidates grow; at a finite size it is an approximation, and its error is not estimated. Source: Ji
et al. 2026, "Scalable Power Sampling" (arXiv 2601.21590; Theorem 3.1, equations 3 to 6).

    settings = RolloutSettings(alpha=4.0, rollouts=4, max_new_tokens=64)
    results = batch.sample(model, batch.Batch(prompts, seed=0, stage="example"), settings)
    results[0].final.tokens  # of prompt 0

A rollout of the chosen token goes on as the next prefix. Every rollout forwards its candidate (and
a tool's output) itself.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy

from nanolab.inference.proposal import Target, log_mean
from nanolab.inference.protocol import Choices, Decode, Draws, Kernel, Suffix
from nanolab.samplers.batch import Result
from nanolab.seeds import PICK, Noise
from nanolab.settings.kinds import Count, Range


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(Target):
    """Target, proposal of the rollouts, their number. Raises UserError for values out of range."""

    alpha: float = 4.0
    candidates: Count = 4  # tokens weighed at each position
    # tokens below this probability are not weighed (the likeliest always is)
    candidate_floor: Annotated[float, Range(maximum=0.99, minimum=0)] = 0.01
    rollouts: Count = 4  # futures drawn for each
    horizon: Count = 16  # tokens of a future, after the forced ones that begin it
    temperature: float = 1.0
    top_k: int | None = 50
    max_new_tokens: int = 256

    def kernel(self, noise: Noise, problem: int = 0, chain: int = 0) -> Kernel:
        """One completion from its first token to its last; returns its Result."""
        state = yield from init(self, chain)
        infos = []
        while not state.draws.done(self):
            state, info = yield from step(state, self, noise)
            infos.append(info)
        return Result(problem, chain, state.draws, infos)


class State(NamedTuple):
    """A prefix, and what the next token can be."""

    draws: Draws = Draws()  # its positions are all that were forwarded so far
    handle: Any = None
    choices: Choices | None = None
    chain: int = 0


class Info(NamedTuple):
    """How one token was chosen."""

    ids: list[int]  # the candidates
    log_p: list[float]  # nats
    log_zeta: list[float]  # estimated log sum of p^alpha over each candidate's futures
    law: list[float]  # the weights that the token was drawn by; they sum to 1
    chosen: int  # index among the candidates
    positions: int  # token positions forwarded


def token_law(log_p: numpy.ndarray, values: list[numpy.ndarray], alpha: float) -> numpy.ndarray:
    """The estimated law of the next token (k,) from log p (k,) and each candidate's rollout sums of
    a (nats; one value: known exactly).

    Weights p^alpha * mean(exp(values)), normalised, and with two or more rollouts corrected by the
    jackknife (leave-one-out over the rollouts); what the correction makes negative is set to 0.
    """

    def normalised(values: Sequence[numpy.ndarray]) -> numpy.ndarray:
        weights = alpha * log_p + numpy.array([log_mean(v) for v in values])
        weights = numpy.exp(weights - weights.max())
        return weights / weights.sum()

    plain = normalised(values)
    count = max(len(v) for v in values)
    if count == 1:
        return plain
    without = [
        normalised([numpy.delete(v, m) if len(v) > 1 else v for v in values]) for m in range(count)
    ]
    corrected = numpy.clip(count * plain - (count - 1) * numpy.mean(without, 0), 0, None)
    return corrected / corrected.sum()


def init(settings: RolloutSettings, chain: int = 0) -> Generator[Decode, Suffix, State]:
    """The empty prefix with what its first token can be (one draw, which is not used)."""
    suffix = yield Decode(sampling=settings, address=(chain, 0, 0), limit=1)
    return State(Draws(positions=suffix.positions), suffix.handle, suffix.choices[0], chain)


def weighed(choices: Choices, settings: RolloutSettings) -> list[int]:
    """The candidate tokens, likeliest first."""
    order = numpy.argsort(-choices.log_p, kind="stable")[: settings.candidates]
    least = numpy.log(max(settings.candidate_floor, 1e-300))
    kept = [order[0], *(i for i in order[1:] if choices.log_p[i] >= least)]
    return [int(choices.ids[i]) for i in kept]


def step(
    state: State, settings: RolloutSettings, noise: Noise
) -> Generator[list[Decode], list[Suffix], tuple[State, Info]]:
    """One token of the model's, with the forced ones after it.

    First every candidate is appended (its forced output too; nothing is forwarded), then each that
    is not finished gets its rollouts. Rollout m of candidate j at completion length n draws with
    noise((chain, n + 1, j * rollouts + m, position)), the token itself with noise((chain, n + 1,
    PICK)).
    """
    cut = len(state.draws.tokens)
    address = (state.chain, cut + 1)
    ids = weighed(state.choices, settings)
    first = dict(sampling=settings, parent=state.handle, cut=cut, limit=cut + 1, keep=False)
    begun: list[Suffix] = yield [
        Decode(address=(*address, j * settings.rollouts), first=token, **first)
        for j, token in enumerate(ids)
    ]
    rollouts, horizon = settings.rollouts, settings.horizon
    if len(ids) == 1:  # no choice: only what comes next is needed
        rollouts = horizon = 1
    requests, owners = [], []
    for j, suffix in enumerate(begun):
        start = cut + len(suffix.tokens)
        if suffix.ended or start >= settings.max_new_tokens:
            continue
        limit = min(start + horizon, settings.max_new_tokens)
        more = dict(sampling=settings, parent=suffix.handle, cut=start, limit=limit, keep=False)
        numbers = range(j * settings.rollouts, j * settings.rollouts + rollouts)
        requests += [Decode(address=(*address, number), **more) for number in numbers]
        owners += [j] * rollouts
    futures: list[list[Suffix]] = [[] for _ in begun]
    replies = (yield requests) if requests else []
    for j, reply in zip(owners, replies, strict=True):
        futures[j].append(reply)

    log_p = numpy.array([suffix.log_p[0] for suffix in begun])
    # a finished candidate's one future is empty
    values = [numpy.array([sum(reply.a) for reply in found] or [0.0]) for found in futures]
    law = token_law(log_p, values, settings.alpha)
    passed = int((numpy.cumsum(law) <= noise((*address, PICK))).sum())
    chosen = min(passed, len(law) - 1)
    while law[chosen] == 0:
        chosen -= 1  # u fell beyond the last weight by rounding
    draws = state.draws + begun[chosen]
    positions = sum(suffix.positions for suffix in [*begun, *replies])
    draws.positions = state.draws.positions + positions
    grown = State(draws, None, None, state.chain)
    if futures[chosen]:
        future = futures[chosen][0]
        grown = grown._replace(handle=future.handle, choices=future.choices[0])
    zeta = [log_mean(v) for v in values]
    return grown, Info(ids, log_p.tolist(), zeta, law.tolist(), chosen, positions)
