"""Power sampling by Metropolis-Hastings: draws whose law is p(x)^alpha over whole completions, tool calls included.

One step cuts the state at a model-chosen token, draws a new suffix from the proposal q, and accepts it with the exact ratio:

    log ratio = sum of a' over the new suffix - sum of a over the old one + log r_n'(t) - log r_n(t),    a = alpha log p - log q

where r_n(t) = (1 - d)/n + d [t is the first] is the law of the cut among the n model-chosen tokens (d = `restart_prob`); the last two
terms are there because completions differ in length. With top_k the target is p^alpha over the completions that q can reach.
Method: Karan and Du 2025 (arXiv 2510.14901); docs/power_sampling.md states the parts that differ.

The kernels `init`, `extend` and `step` are generators for one chain: they yield `Decode`, receive `Suffix`, and draw every uniform
from `noise(address)`, address = (chain, step, position). So a chain does not depend on its batch, and a test can script it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from nanolab.generation import Completion, Decode, Done, Kernel, LanguageModel, Suffix, check_target
from nanolab.samplers.batch import sample_each
from nanolab.schema import UserError
from nanolab.seeds import ACCEPT, INDEX, Noise


@dataclass(frozen=True)
class PowerSettings:
    """Target, proposal and schedule. Raises UserError for a value out of range."""

    alpha: float = 4.0  # exponent of the target
    num_steps: int = 10  # Metropolis-Hastings steps a block
    temperature: float = 0.7  # of the proposal
    top_k: int | None = 50  # tokens that the proposal keeps; None: all
    max_new_tokens: int = 256  # tokens of a completion at most, forced ones included
    restart_prob: float = 0.0  # share of the cuts that are put at the first token
    num_blocks: int = 1  # blocks of the schedule

    def __post_init__(self) -> None:
        check_target(
            alpha=self.alpha,
            temperature=self.temperature,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
        )
        if self.num_steps < 0:
            raise UserError(f"num_steps = {self.num_steps} must be at least 0")
        if not 0 <= self.restart_prob <= 1:
            raise UserError(f"restart_prob = {self.restart_prob} must be between 0 and 1")
        if not 1 <= self.num_blocks <= self.max_new_tokens:
            raise UserError(
                f"num_blocks = {self.num_blocks} must be between 1 and max_new_tokens = {self.max_new_tokens}"
            )

    @property
    def sums_only_fall(self) -> bool:
        """Whether every a is at most 0, so that a partial sum bounds the whole: what exact early rejection needs."""
        return self.alpha >= 1 / self.temperature >= 1

    def limit(self, block: int) -> int:
        """Completion tokens at which drawing stops in block 0, 1, ..."""
        return min(
            (block + 1) * math.ceil(self.max_new_tokens / self.num_blocks), self.max_new_tokens
        )


class State(NamedTuple):
    """What the next step needs: the completion, what was recorded as it was drawn, and where the chain stands."""

    tokens: list[int] = []  # all lists are replaced, never changed
    forced: list[bool] = []
    log_p: list[float] = []  # nats; 0 at forced tokens, as in log_q and a
    log_q: list[float] = []
    a: list[float] = []  # alpha log p - log q
    ended: bool = False
    handle: Any = None  # the scheduler's name of this state
    chain: int = 0
    step: int = -1  # steps done, initial draw and extensions included: the next one's address
    limit: int = 0  # completion tokens of the current block
    positions: int = 0  # token positions forwarded for this chain so far

    def completion(self) -> Completion:
        """The state as a `Completion`; its positions are all that the chain has forwarded so far."""
        return Completion(
            self.tokens, self.forced, self.log_p, self.log_q, self.ended, self.positions
        )


class Info(NamedTuple):
    """What diagnostics need of one step, a rejected proposal included."""

    log_ratio: float  # log of the acceptance ratio; an upper bound of it where early_rejected
    log_u: float  # the step accepts when log_u <= log_ratio
    accepted: bool
    moved: bool  # accepted, and different from the state before
    cut: int  # completion tokens kept
    proposal: Completion  # whole; its suffix is incomplete where early_rejected
    log_p_old: float  # nats, the state before
    log_p_new: float  # nats, the proposal
    early_rejected: bool
    positions: int  # token positions forwarded in this step


@functools.lru_cache(maxsize=4096)
def log_index_law(first: bool, restart_prob: float, count: int) -> numpy.ndarray:
    """log r_n(t) for n = 0 .. count - 1, (count,) float64: of the first model token, or of any other one. Entry 0 is meaningless."""
    n = numpy.maximum(numpy.arange(count), 1)
    with numpy.errstate(divide="ignore"):
        return numpy.log((1 - restart_prob) / n + (restart_prob if first else 0.0))


def choose_index(u: float, n: int, restart_prob: float) -> int:
    """The index law's draw among n model tokens, from one uniform."""
    if u < restart_prob:
        return 0
    return min(int((u - restart_prob) / (1 - restart_prob) * n), n - 1)


def ordered_sum(values: Sequence[float]) -> float:
    """Left-to-right float64 sum: the order in which the scheduler adds a suffix's terms, so both see the same number."""
    total = 0.0
    for value in values:
        total += value
    return total


def extend(
    state: State, settings: PowerSettings, noise: Noise, limit: int
) -> Generator[Decode, Suffix, State]:
    """The state drawn on with q to `limit` tokens (unless it has ended); the first draw of a chain when the state is empty."""
    state = state._replace(step=state.step + 1, limit=limit)
    cut = len(state.tokens)
    if state.ended or cut >= limit:
        return state
    suffix = yield Decode(
        state.handle,
        cut,
        (state.chain, state.step),
        limit,
        settings.max_new_tokens,
        settings.temperature,
        settings.top_k,
        settings.alpha,
    )
    return _joined(state, cut, suffix)


def init(settings: PowerSettings, noise: Noise, chain: int = 0) -> Generator[Decode, Suffix, State]:
    """The first state: one draw from q to the first block's limit."""
    return (yield from extend(State(chain=chain), settings, noise, settings.limit(0)))


def _joined(state: State, cut: int, suffix: Suffix) -> State:
    return state._replace(
        tokens=state.tokens[:cut] + suffix.tokens,
        forced=state.forced[:cut] + suffix.forced,
        log_p=state.log_p[:cut] + suffix.log_p,
        log_q=state.log_q[:cut] + suffix.log_q,
        a=state.a[:cut] + suffix.a,
        ended=suffix.ended,
        handle=suffix.handle,
        positions=state.positions + suffix.positions,
    )


def step(
    state: State, settings: PowerSettings, noise: Noise, early_rejection: bool = True
) -> Generator[Decode, Suffix, tuple[State, Info]]:
    """One Metropolis-Hastings step against p^alpha over completions limited to the state's block."""
    state = state._replace(step=state.step + 1)
    address = (state.chain, state.step)
    chosen = [i for i, forced in enumerate(state.forced) if not forced]
    n = len(chosen)
    log_u = math.log(noise((*address, ACCEPT)))
    before = choose_index(noise((*address, INDEX)), n, settings.restart_prob)  # model tokens kept
    cut = chosen[before]

    old = ordered_sum(state.a[cut:])
    law = log_index_law(before == 0, settings.restart_prob, settings.max_new_tokens + 1)
    floor = (
        log_u + old + law[n] - law[before : before + state.limit - cut + 1]
    )  # accepted: the sum of the new a is at least floor[m]
    bound = floor if early_rejection and settings.sums_only_fall else None
    suffix = yield Decode(
        state.handle,
        cut,
        address,
        state.limit,
        settings.max_new_tokens,
        settings.temperature,
        settings.top_k,
        settings.alpha,
        bound,
    )
    drawn = len(suffix.tokens) - sum(suffix.forced)
    new = ordered_sum(suffix.a)
    accepted = not suffix.given_up and bool(new >= floor[drawn])
    proposed = _joined(state, cut, suffix)
    info = Info(
        log_ratio=float(new - old + law[before + drawn] - law[n]),
        log_u=log_u,
        accepted=accepted,
        moved=accepted and suffix.tokens != state.tokens[cut:],
        cut=cut,
        proposal=proposed.completion(),
        log_p_old=ordered_sum(state.log_p),
        log_p_new=ordered_sum(proposed.log_p),
        early_rejected=suffix.given_up,
        positions=suffix.positions,
    )
    return (proposed if accepted else state._replace(positions=proposed.positions)), info


@dataclass
class ChainResult:
    """One chain's trajectory in the last block, whose target is p^alpha itself."""

    problem: int
    chain: int
    states: list[Completion]  # after 0 .. num_steps steps of the last block
    infos: list[Info]  # of every step, earlier blocks first
    lengths: list[int]  # completion tokens of the state before each step

    @property
    def final(self) -> Completion:
        """The sample: the chain's last state."""
        return self.states[-1]

    @property
    def positions(self) -> int:
        """Token positions forwarded for this chain, its prompt included where it was the first to use it."""
        return self.states[-1].positions

    @property
    def positions_by_step(self) -> list[int]:
        """Positions forwarded until each of `states` was there."""
        return [state.positions for state in self.states]

    @property
    def most_likely(self) -> Completion:
        """Another estimator: the state of highest log p among `states` (the first of equals). Not a sample of p^alpha."""
        return max(self.states, key=lambda state: state.sum_log_p)


def run_chain(
    settings: PowerSettings,
    noise: Noise,
    problem: int = 0,
    chain: int = 0,
    early_rejection: bool = True,
    watch: Callable[[State, Info | None], None] | None = None,
) -> Kernel:
    """The whole schedule of one chain: blocks of an extension and `num_steps` steps; returns its ChainResult.

    `watch` is called after each extension (with None) and each step, for whoever follows the chain as it goes.
    """
    state = State(chain=chain)
    infos: list[Info] = []
    lengths: list[int] = []
    states: list[Completion] = []
    for block in range(settings.num_blocks):
        state = yield from extend(state, settings, noise, settings.limit(block))
        states = [state.completion()]
        if watch:
            watch(state, None)
        for _ in range(settings.num_steps):
            lengths.append(len(state.tokens))
            state, info = yield from step(state, settings, noise, early_rejection)
            infos.append(info)
            states.append(state.completion())
            if watch:
                watch(state, info)
    return ChainResult(problem, chain, states, infos, lengths)


def sample(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    settings: PowerSettings,
    seed: int,
    stage: str,
    chains: int = 1,
    batch_rows: int = 64,
    early_rejection: bool = True,
    on_done: Done | None = None,
    examples: Sequence[int | str] | None = None,
) -> list[ChainResult]:
    """`chains` chains for each prompt, all in one batch; results in the order of the prompts, chains of a prompt together.

    Uniforms are addressed (seed, stage, examples[i], chain, step, position); `examples` defaults to the prompts' numbers.
    `on_done(problem, result)` is called as each chain ends. Raises UserError for lengths beyond the context.
    """
    return sample_each(
        model,
        prompts,
        lambda noise, i, c: run_chain(settings, noise, i, c, early_rejection),
        copies=chains,
        called="chains",
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        stage=stage,
        batch_rows=batch_rows,
        on_done=on_done,
        examples=examples,
    )
