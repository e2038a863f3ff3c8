"""Power sampling by sequential Monte Carlo: a population of particles that advances with q, is weighted towards p^alpha and resampled.

A particle's log-weight grows by a = alpha log p - log q at every model token (0 at forced ones, and after its end). After each stretch
of tokens, when the effective sample size (sum w)^2 / sum w^2 falls below `ess_threshold` times the particles, they are resampled
systematically and their weights reset to the mean. One particle is drawn by its final weight. The draw is consistent, not exact at a
finite number of particles; the estimate of Z = sum of p^alpha over the completions that q can reach is unbiased at every number.

With `ramp_tokens` the exponent of the intermediate targets rises linearly from 1 to alpha over so many tokens; the last target is
p^alpha in any case. Method: Azizi et al. 2026, "Power-SMC" (arXiv 2602.10273).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from nanolab.generation import (
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
from nanolab.seeds import PICK, RESAMPLE, Noise


@dataclass(frozen=True)
class SmcSettings:
    """Target, proposal and population. Raises UserError for a value out of range."""

    alpha: float = 4.0  # exponent of the target
    particles: int = 16
    temperature: float = 0.7  # of the proposal
    top_k: int | None = 50  # tokens that the proposal keeps; None: all
    max_new_tokens: int = 256  # tokens of a completion at most, forced ones included
    ess_threshold: float = (
        0.5  # resample when the effective sample size is below this share of the particles
    )
    stretch: int = 8  # completion tokens between two looks at the weights
    ramp_tokens: int = 0  # completion tokens over which the exponent rises from 1 to alpha; 0: alpha from the start

    def __post_init__(self) -> None:
        check_target(
            alpha=self.alpha,
            temperature=self.temperature,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
        )
        for name in ("particles", "stretch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 <= self.ess_threshold <= 1:
            raise UserError(
                f"ess_threshold = {self.ess_threshold} must be between 0 (never resample) and 1"
            )
        if self.ramp_tokens < 0:
            raise UserError(f"ramp_tokens = {self.ramp_tokens} must be at least 0")

    def exponent(self, limit: int) -> float:
        """The exponent of the target once completions have `limit` tokens."""
        if limit >= self.max_new_tokens or limit >= self.ramp_tokens:
            return self.alpha
        return 1 + (self.alpha - 1) * limit / self.ramp_tokens


class Particle(NamedTuple):
    """A completion in the making with what was recorded as it was drawn, and the scheduler's name of it."""

    tokens: list[int] = []  # all lists are replaced, never changed
    forced: list[bool] = []
    log_p: list[float] = []  # nats; 0 at forced tokens, as in log_q and a
    log_q: list[float] = []
    a: list[float] = []  # alpha log p - log q
    ended: bool = False
    handle: Any = None

    def done(self, settings: SmcSettings) -> bool:
        """Whether it has ended or reached the limit."""
        return self.ended or len(self.tokens) >= settings.max_new_tokens

    def value(self, exponent: float, alpha: float) -> float:
        """The sum of exponent * log p - log q over the model's tokens (nats)."""
        total = sum(self.a)
        return total if exponent == alpha else total + (exponent - alpha) * sum(self.log_p)


class State(NamedTuple):
    """A population between two stretches."""

    particles: list[Particle]
    log_weights: (
        numpy.ndarray
    )  # (particles,) float64, since the last reset; their mean, exponentiated, estimates Z so far
    values: (
        numpy.ndarray
    )  # (particles,) float64: each particle's value under the exponent of the last look
    population: int = 0
    stretch: int = 0  # stretches done: part of the next one's addresses
    limit: int = 0  # completion tokens that the particles have now at most
    positions: int = 0  # token positions forwarded so far

    def done(self, settings: SmcSettings) -> bool:
        """Whether no particle can grow."""
        return all(particle.done(settings) for particle in self.particles)


class Info(NamedTuple):
    """What one stretch did."""

    limit: int  # completion tokens after it
    exponent: float  # of its target
    effective_sample_size: float  # before resampling
    resampled: bool
    ancestors: list[int]  # of each particle, among those before the resampling
    positions: int  # token positions forwarded in it


def init(settings: SmcSettings, population: int = 0) -> State:
    """A population of empty completions, all of weight 1."""
    zeros = numpy.zeros(settings.particles)
    return State([Particle()] * settings.particles, zeros, zeros, population)


def effective_sample_size(log_weights: numpy.ndarray) -> float:
    """(sum w)^2 / sum w^2 of log-weights (n,)."""
    weights = numpy.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def systematic(log_weights: numpy.ndarray, u: float) -> list[int]:
    """The ancestors (n) that systematic resampling draws with one uniform u: each is taken n w / sum(w) times, rounded up or down."""
    weights = numpy.exp(log_weights - log_weights.max())
    cumulative = numpy.cumsum(weights)
    count = len(weights)
    return (
        numpy.searchsorted(
            cumulative / cumulative[-1], (u + numpy.arange(count)) / count, side="right"
        )
        .clip(max=count - 1)
        .tolist()
    )


def step(
    state: State, settings: SmcSettings, noise: Noise
) -> Generator[list[Decode], list[Suffix], tuple[State, Info]]:
    """One stretch: living particles (there is one) grow with q, all are weighted anew, and resampled where the weights are too uneven.

    Particle i of population c draws token n of stretch s with noise((c, s, i, n)); resampling draws noise((c, s, RESAMPLE)).
    """
    limit = min(state.limit + settings.stretch, settings.max_new_tokens)
    particles, positions = list(state.particles), 0
    growing = [i for i, particle in enumerate(particles) if not particle.done(settings)]
    requests = []
    for i in growing:
        cut = len(
            particles[i].tokens
        )  # beyond `limit` where a forced output ended there: at least one token is drawn
        requests.append(
            Decode(
                particles[i].handle,
                cut,
                (state.population, state.stretch, i),
                max(limit, cut + 1),
                settings.max_new_tokens,
                settings.temperature,
                settings.top_k,
                settings.alpha,
                revisit=False,
                keep=False,
            )
        )
    replies = yield requests
    for i, suffix in zip(growing, replies, strict=True):
        old = particles[i]
        particles[i] = Particle(
            old.tokens + suffix.tokens,
            old.forced + suffix.forced,
            old.log_p + suffix.log_p,
            old.log_q + suffix.log_q,
            old.a + suffix.a,
            suffix.ended,
            suffix.handle,
        )
        positions += suffix.positions
    grown = State(
        particles,
        state.log_weights,
        state.values,
        state.population,
        state.stretch + 1,
        limit,
        state.positions + positions,
    )
    done = grown.done(settings)
    exponent = settings.alpha if done else settings.exponent(limit)
    values = numpy.array([p.value(exponent, settings.alpha) for p in particles])
    log_weights = state.log_weights + values - state.values
    size, count = effective_sample_size(log_weights), settings.particles
    ancestors = list(range(count))
    resampled = not done and size < settings.ess_threshold * count
    if resampled:
        ancestors = systematic(log_weights, noise((state.population, state.stretch, RESAMPLE)))
        log_weights = numpy.full(count, log_mean(log_weights))
    grown = grown._replace(
        particles=[particles[i] for i in ancestors],
        log_weights=log_weights,
        values=values[ancestors],
    )
    return grown, Info(limit, exponent, size, resampled, ancestors, positions)


@dataclass
class SmcResult:
    """One population's outcome."""

    problem: int
    population: int
    final: Completion  # the sample: one particle drawn by weight
    particles: list[Completion]
    log_weights: numpy.ndarray  # (particles,) float64
    log_z: (
        float  # log of the estimate of Z, the sum of p^alpha over the completions that q can reach
    )
    infos: list[Info]
    positions: int  # token positions forwarded, the prompt included where this population was the first to use it


def run_population(
    settings: SmcSettings, noise: Noise, problem: int = 0, population: int = 0
) -> Kernel:
    """All stretches of one population; returns its SmcResult."""
    state, infos = init(settings, population), []
    while not state.done(settings):
        state, info = yield from step(state, settings, noise)
        infos.append(info)
    cumulative = numpy.cumsum(numpy.exp(state.log_weights - state.log_weights.max()))
    u = noise((population, state.stretch, PICK))
    chosen = min(int((cumulative <= u * cumulative[-1]).sum()), settings.particles - 1)
    completions = [
        Completion(p.tokens, p.forced, p.log_p, p.log_q, p.ended, 0) for p in state.particles
    ]
    p = state.particles[chosen]
    final = Completion(p.tokens, p.forced, p.log_p, p.log_q, p.ended, state.positions)
    return SmcResult(
        problem,
        population,
        final,
        completions,
        state.log_weights,
        log_mean(state.log_weights),
        infos,
        state.positions,
    )


def sample(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    settings: SmcSettings,
    seed: int,
    stage: str,
    populations: int = 1,
    batch_rows: int = 64,
    on_done: Done | None = None,
    examples: Sequence[int | str] | None = None,
) -> list[SmcResult]:
    """`populations` populations for each prompt, all in one batch; results in the order of the prompts.

    Uniforms are addressed (seed, stage, examples[i], population, stretch, particle, position); `examples` defaults to the prompts'
    numbers. `on_done(problem, result)` is called as each population ends. Raises UserError for lengths beyond the context.
    """
    return sample_each(
        model,
        prompts,
        lambda noise, i, c: run_population(settings, noise, i, c),
        copies=populations,
        called="populations",
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        stage=stage,
        batch_rows=batch_rows,
        on_done=on_done,
        examples=examples,
    )
