"""Power sampling by Metropolis-Hastings: draws whose law is p(x)^alpha over whole completions, tool
calls included.

One step cuts the state at a model-chosen token, draws a new suffix from the proposal q, and accepts
it with the exact ratio:

    log ratio = sum of a' over the new suffix - sum of a over the old one
                + log r_n'(t) - log r_n(t),    a = alpha log p - log q

where r_n(t) = (1 - d)/n + d [t is the first] is the law of the cut among the n model-chosen tokens
(d = `restart_prob`); the last two terms are there because completions differ in length. With top_k
the target is p^alpha over the completions that q can reach. Source: Karan and Du 2025 (arXiv
2510.14901); docs/power_sampling.md states the parts that differ.

    settings = PowerSettings(alpha=4.0, num_steps=10, max_new_tokens=64)
    results = batch.sample(model, batch.Batch(prompts, seed=0, stage="example", copies=2), settings)
    results[0].final.tokens  # of prompt 0, chain 0

Every uniform is `noise(address)`, address = (chain, step, position): a chain does not depend on its
batch, and a test can script it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy

from nanolab.inference.proposal import Target
from nanolab.inference.protocol import Decode, Draws, Kernel, Suffix
from nanolab.samplers.batch import Result
from nanolab.seeds import ACCEPT, INDEX, Noise
from nanolab.settings.kinds import Count, Natural, Share, check_blocks


@dataclass(frozen=True, kw_only=True)
class PowerSettings(Target):
    """Target, proposal and schedule. Raises UserError for a value out of range."""

    alpha: float = 4.0
    num_steps: Natural = 10  # Metropolis-Hastings steps a block
    temperature: float = 0.7
    top_k: int | None = 50
    max_new_tokens: int = 256
    restart_prob: Share = 0.0  # share of the cuts that are put at the first token
    num_blocks: Count = 1  # blocks of the schedule
    early_rejection: bool = True  # give up proposals once they are certain to be rejected

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self.num_blocks, self.max_new_tokens)

    @property
    def rejects_early(self) -> bool:
        """Early rejection is exact where every a is at most 0: a partial sum bounds the whole."""
        return self.early_rejection and self.alpha >= 1 / self.temperature >= 1

    def limit(self, block: int) -> int:
        """Completion tokens at which drawing stops in block 0, 1, ..."""
        size = math.ceil(self.max_new_tokens / self.num_blocks)
        return min((block + 1) * size, self.max_new_tokens)

    def kernel(
        self,
        noise: Noise,
        problem: int = 0,
        chain: int = 0,
        watch: Callable[[State, Info | None], None] | None = None,
    ) -> Kernel:
        """The whole schedule of one chain: blocks of an extension and `num_steps` steps; returns
        its ChainResult. `watch` is called after each extension (with None) and each step.
        """
        state = State(chain=chain)
        infos, lengths = [], []
        for block in range(self.num_blocks):
            state = yield from extend(state, self, self.limit(block))
            states = [state.draws]
            if watch:
                watch(state, None)
            for _ in range(self.num_steps):
                lengths.append(len(state.draws.tokens))
                state, info = yield from step(state, self, noise)
                infos.append(info)
                states.append(state.draws)
                if watch:
                    watch(state, info)
        return ChainResult(problem, chain, state.draws, infos, states, lengths)


class State(NamedTuple):
    """What the next step needs: the completion, and where the chain stands."""

    draws: Draws = Draws()  # its positions are all that the chain has forwarded so far
    handle: Any = None  # the scheduler's name of this state
    chain: int = 0
    step: int = -1  # steps done, initial draw and extensions included: the next one's address
    limit: int = 0  # completion tokens of the current block

    def request(self, cut: int, settings: PowerSettings, floor: Any = None) -> Decode:
        """A new suffix from `cut` on."""
        return Decode(
            sampling=settings,
            parent=self.handle,
            cut=cut,
            address=(self.chain, self.step),
            limit=self.limit,
            floor=floor,
        )

    def with_suffix(self, cut: int, suffix: Suffix) -> State:
        """The state whose tokens from `cut` on are the suffix."""
        return self._replace(draws=self.draws[:cut] + suffix, handle=suffix.handle)


class Info(NamedTuple):
    """What diagnostics need of one step, a rejected proposal included."""

    log_ratio: float  # log of the acceptance ratio; an upper bound of it where early_rejected
    log_u: float  # the step accepts when log_u <= log_ratio
    accepted: bool
    moved: bool  # accepted, and different from the state before
    cut: int  # completion tokens kept
    proposal: Draws  # whole; its suffix is incomplete where early_rejected
    log_p_old: float  # nats, the state before
    log_p_new: float  # nats, the proposal
    early_rejected: bool
    positions: int  # token positions forwarded in this step


@dataclass
class ChainResult(Result):
    """One chain's trajectory; its target in the last block is p^alpha itself."""

    states: list[Draws]  # after 0 .. num_steps steps of the last block
    lengths: list[int]  # completion tokens of the state before each step, of all blocks

    @property
    def most_likely(self) -> Draws:
        """Another estimator: the state of highest log p among `states` (the first of equals). Not a
        sample of p^alpha.
        """
        return max(self.states, key=lambda state: state.sum_log_p)


@functools.lru_cache(maxsize=4096)
def log_index_law(first: bool, restart_prob: float, count: int) -> numpy.ndarray:
    """log r_n(t) for n = 0 .. count - 1, (count,) float64: of the first model token, or of any
    other one. Entry 0 is meaningless.
    """
    n = numpy.maximum(numpy.arange(count), 1)
    with numpy.errstate(divide="ignore"):
        return numpy.log((1 - restart_prob) / n + (restart_prob if first else 0.0))


def choose_index(u: float, n: int, restart_prob: float) -> int:
    """The index law's draw among n model tokens, from one uniform."""
    if u < restart_prob:
        return 0
    return min(int((u - restart_prob) / (1 - restart_prob) * n), n - 1)


def ordered_sum(values: Sequence[float]) -> float:
    """Left-to-right float64 sum: the order in which the scheduler adds a suffix's terms, so both
    see the same number.
    """
    total = 0.0
    for value in values:
        total += value
    return total


def extend(state: State, settings: PowerSettings, limit: int) -> Generator[Decode, Suffix, State]:
    """The state drawn on with q to `limit` tokens (unless it has ended); the first draw of a chain
    when the state is empty.
    """
    state = state._replace(step=state.step + 1, limit=limit)
    cut = len(state.draws.tokens)
    if state.draws.ended or cut >= limit:
        return state
    suffix = yield state.request(cut, settings)
    return state.with_suffix(cut, suffix)


def step(
    state: State, settings: PowerSettings, noise: Noise
) -> Generator[Decode, Suffix, tuple[State, Info]]:
    """One step against p^alpha over completions limited to the state's block."""
    state = state._replace(step=state.step + 1)
    address = (state.chain, state.step)
    chosen = [i for i, forced in enumerate(state.draws.forced) if not forced]
    n = len(chosen)
    log_u = math.log(noise((*address, ACCEPT)))
    before = choose_index(noise((*address, INDEX)), n, settings.restart_prob)  # model tokens kept
    cut = chosen[before]

    old = ordered_sum(state.draws.a[cut:])
    law = log_index_law(before == 0, settings.restart_prob, settings.max_new_tokens + 1)
    # accepted: the sum of the new a is at least floor[number of model tokens drawn]
    floor = log_u + old + law[n] - law[before : before + state.limit - cut + 1]
    suffix = yield state.request(cut, settings, floor if settings.rejects_early else None)
    drawn = len(suffix.tokens) - sum(suffix.forced)
    new = ordered_sum(suffix.a)
    accepted = not suffix.given_up and bool(new >= floor[drawn])
    proposed = state.with_suffix(cut, suffix)
    info = Info(
        log_ratio=float(new - old + law[before + drawn] - law[n]),
        log_u=log_u,
        accepted=accepted,
        moved=accepted and suffix.tokens != state.draws.tokens[cut:],
        cut=cut,
        proposal=proposed.draws,
        log_p_old=ordered_sum(state.draws.log_p),
        log_p_new=ordered_sum(proposed.draws.log_p),
        early_rejected=suffix.given_up,
        positions=suffix.positions,
    )
    if accepted:
        return proposed, info
    return state._replace(draws=replace(state.draws, positions=proposed.draws.positions)), info
