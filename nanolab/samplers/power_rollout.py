"""Power sampling token by token: an autoregressive approximation that looks ahead with rollouts.

The law of the next token under p^alpha is, exactly,

    pi(v | x) proportional to p(v | x)^alpha * zeta(v),    zeta(v) = sum of p^alpha over the futures of x v

Here zeta is estimated for the likeliest `candidates` tokens from `rollouts` futures drawn from q, at most `horizon` tokens long, as
the mean of exp(sum of a) (a = alpha log p - log q), and the bias of the normalised weights is reduced by the jackknife. It becomes
exact as rollouts, horizon and candidates grow; at a finite size it is an approximation, and its error is not estimated.
Method: Ji et al. 2026, "Scalable Power Sampling" (arXiv 2601.21590; Theorem 3.1, equations 3 to 6).

A rollout of the chosen token goes on as the next prefix. Every rollout forwards its candidate (and a tool's output) itself.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from nanolab.generation import (
    Choices,
    Completion,
    Decode,
    Done,
    Kernel,
    LanguageModel,
    Suffix,
    check_target,
    log_mean,
)
from nanolab.samplers.batch import sample_each
from nanolab.schema import UserError
from nanolab.seeds import PICK, Noise


@dataclass(frozen=True)
class RolloutSettings:
    """Target, proposal of the rollouts, and their number. Raises UserError for a value out of range."""

    alpha: float = 4.0  # exponent of the target
    candidates: int = 4  # tokens weighed at each position
    candidate_floor: float = (
        0.01  # tokens below this probability are not weighed (the likeliest always is)
    )
    rollouts: int = 4  # futures drawn for each
    horizon: int = 16  # tokens of a future, after the forced ones that begin it
    temperature: float = 1.0  # of the rollouts' proposal
    top_k: int | None = 50  # tokens that the proposal keeps; None: all
    max_new_tokens: int = 256  # tokens of a completion at most, forced ones included

    def __post_init__(self) -> None:
        check_target(
            alpha=self.alpha,
            temperature=self.temperature,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
        )
        for name in ("candidates", "rollouts", "horizon"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 <= self.candidate_floor < 1:
            raise UserError(
                f"candidate_floor = {self.candidate_floor} must be at least 0 and below 1"
            )


class State(NamedTuple):
    """A prefix, what was recorded as it was drawn, and what the next token can be."""

    tokens: list[int] = []  # all lists are replaced, never changed
    forced: list[bool] = []
    log_p: list[float] = []  # nats; 0 at forced tokens, as in log_q
    log_q: list[float] = []
    ended: bool = False
    handle: Any = None
    choices: Choices | None = None
    chain: int = 0
    positions: int = 0  # token positions forwarded so far


class Info(NamedTuple):
    """How one token was chosen."""

    ids: list[int]  # the candidates
    log_p: list[float]  # nats
    log_zeta: list[float]  # estimated log sum of p^alpha over each candidate's futures
    law: list[float]  # the weights that the token was drawn by; they sum to 1
    chosen: int  # index among the candidates
    positions: int  # token positions forwarded


def token_law(log_p: numpy.ndarray, values: list[numpy.ndarray], alpha: float) -> numpy.ndarray:
    """The estimated law of the next token (k,) from log p (k,) and each candidate's rollout sums of a (nats; one value: known exactly).

    Weights p^alpha * mean(exp(values)), normalised, and with two or more rollouts corrected by the jackknife (leave-one-out over the
    rollouts); what the correction makes negative is set to 0.
    """
    plain = _normalised(log_p, values, alpha)
    count = max(len(v) for v in values)
    if count == 1:
        return plain
    without = [
        _normalised(log_p, [numpy.delete(v, m) if len(v) > 1 else v for v in values], alpha)
        for m in range(count)
    ]
    corrected = numpy.clip(count * plain - (count - 1) * numpy.mean(without, 0), 0, None)
    return corrected / corrected.sum()


def _normalised(log_p: numpy.ndarray, values: list[numpy.ndarray], alpha: float) -> numpy.ndarray:
    weights = alpha * log_p + numpy.array([log_mean(v) for v in values])
    weights = numpy.exp(weights - weights.max())
    return weights / weights.sum()


def init(settings: RolloutSettings, chain: int = 0) -> Generator[Decode, Suffix, State]:
    """The empty prefix with what its first token can be (one draw, which is not used)."""
    suffix = yield Decode(
        None,
        0,
        (chain, 0, 0),
        1,
        settings.max_new_tokens,
        settings.temperature,
        settings.top_k,
        settings.alpha,
    )
    return State(
        handle=suffix.handle, choices=suffix.choices[0], chain=chain, positions=suffix.positions
    )


def step(
    state: State, settings: RolloutSettings, noise: Noise
) -> Generator[list[Decode], list[Suffix], tuple[State, Info]]:
    """One token of the model's, with the forced ones after it.

    First every candidate is appended (its forced output too; nothing is forwarded), then each that is not finished gets its rollouts.
    Rollout m of candidate j at completion length n draws with noise((chain, n + 1, j * rollouts + m, position)), the token itself
    with noise((chain, n + 1, PICK)).
    """
    cut, choices = len(state.tokens), state.choices
    order = numpy.argsort(-choices.log_p, kind="stable")[: settings.candidates]
    order = [
        i
        for place, i in enumerate(order)
        if place == 0 or choices.log_p[i] >= numpy.log(max(settings.candidate_floor, 1e-300))
    ]

    def request(
        parent: Any, start: int, limit: int, number: int, first: int | None = None
    ) -> Decode:
        return Decode(
            parent,
            start,
            (state.chain, cut + 1, number),
            limit,
            settings.max_new_tokens,
            settings.temperature,
            settings.top_k,
            settings.alpha,
            first=first,
            keep=False,
        )

    begun = yield [
        request(state.handle, cut, cut + 1, j * settings.rollouts, int(choices.ids[i]))
        for j, i in enumerate(order)
    ]
    rollouts, horizon = (
        (settings.rollouts, settings.horizon) if len(order) > 1 else (1, 1)
    )  # no choice: only what comes next is needed
    owners = [
        j
        for j, suffix in enumerate(begun)
        if not suffix.ended and cut + len(suffix.tokens) < settings.max_new_tokens
        for _ in range(rollouts)
    ]
    futures: list[list[Suffix]] = [[] for _ in begun]
    if owners:
        starts = [cut + len(suffix.tokens) for suffix in begun]
        replies = yield [
            request(
                begun[j].handle,
                starts[j],
                min(starts[j] + horizon, settings.max_new_tokens),
                j * settings.rollouts + place % rollouts,
            )
            for place, j in enumerate(owners)
        ]
        for j, reply in zip(owners, replies, strict=True):
            futures[j].append(reply)
    log_p = numpy.array([suffix.log_p[0] for suffix in begun])
    values = [
        numpy.array([sum(reply.a) for reply in found] or [0.0]) for found in futures
    ]  # finished: its one future is empty
    law = token_law(log_p, values, settings.alpha)
    chosen = min(
        int((numpy.cumsum(law) <= noise((state.chain, cut + 1, PICK))).sum()), len(law) - 1
    )
    while law[chosen] == 0:
        chosen -= 1  # u fell beyond the last weight by rounding
    positions = sum(suffix.positions for found in [begun, *futures] for suffix in found)
    taken, future = begun[chosen], futures[chosen][0] if futures[chosen] else None
    grown = state._replace(
        tokens=state.tokens + taken.tokens,
        forced=state.forced + taken.forced,
        log_p=state.log_p + taken.log_p,
        log_q=state.log_q + taken.log_q,
        ended=taken.ended,
        handle=future.handle if future else None,
        choices=future.choices[0] if future else None,
        positions=state.positions + positions,
    )
    ids = [suffix.tokens[0] for suffix in begun]
    return grown, Info(
        ids, log_p.tolist(), [log_mean(v) for v in values], law.tolist(), chosen, positions
    )


@dataclass
class RolloutResult:
    """One completion with how each of its tokens was chosen."""

    problem: int
    chain: int
    final: Completion
    infos: list[Info]
    positions: int  # token positions forwarded, the prompt included where this completion was the first to use it


def run_completion(
    settings: RolloutSettings, noise: Noise, problem: int = 0, chain: int = 0
) -> Kernel:
    """One completion from its first token to its last; returns its RolloutResult."""
    state, infos = (yield from init(settings, chain)), []
    while not state.ended and len(state.tokens) < settings.max_new_tokens:
        state, info = yield from step(state, settings, noise)
        infos.append(info)
    final = Completion(
        state.tokens, state.forced, state.log_p, state.log_q, state.ended, state.positions
    )
    return RolloutResult(problem, chain, final, infos, state.positions)


def sample(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    settings: RolloutSettings,
    seed: int,
    stage: str,
    chains: int = 1,
    batch_rows: int = 64,
    on_done: Done | None = None,
    examples: Sequence[int | str] | None = None,
) -> list[RolloutResult]:
    """`chains` completions of each prompt, all in one batch; results in the order of the prompts.

    Uniforms are addressed (seed, stage, examples[i], chain, position, rollout, position); `examples` defaults to the prompts' numbers.
    `on_done(problem, result)` is called as each completion ends. Raises UserError for lengths beyond the context.
    """
    return sample_each(
        model,
        prompts,
        lambda noise, i, c: run_completion(settings, noise, i, c),
        copies=chains,
        called="chains",
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        stage=stage,
        batch_rows=batch_rows,
        on_done=on_done,
        examples=examples,
    )
