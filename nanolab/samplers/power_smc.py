"""Power sampling by sequential Monte Carlo: a population of particles that advances with q, is
weighted towards p^alpha and resampled.

A particle's log-weight grows by a = alpha log p - log q at every model token. After each stretch of
tokens, when the effective sample size (sum w)^2 / sum w^2 falls below `ess_threshold` times the
particles, they are resampled systematically and their weights reset to the mean. One particle is
drawn by its final weight. The draw is consistent, not exact at a finite number of particles; the
estimate of Z = sum of p^alpha over the completions that q can reach is unbiased at every number.

With `ramp_tokens` the exponent of the intermediate targets rises linearly from 1 to alpha over so
many tokens; the last target is p^alpha in any case: a population that ends early, by its draws or
because resampling dropped every living particle, moves its weights to alpha first.
Source: Azizi et al. 2026, "Power-SMC" (arXiv 2602.10273).

    settings = SmcSettings(alpha=4.0, particles=16, max_new_tokens=64)
    results = batch.sample(model, batch.Batch(prompts, seed=0, stage="example"), settings)
    results[0].final.tokens, results[0].log_z  # of prompt 0
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy

from nanolab.inference.proposal import Target, log_mean
from nanolab.inference.protocol import Decode, Draws, Kernel, Suffix
from nanolab.samplers.batch import Result
from nanolab.seeds import PICK, RESAMPLE, Noise
from nanolab.settings.kinds import Count, Natural, Share


@dataclass(frozen=True, kw_only=True)
class SmcSettings(Target):
    """Target, proposal and population. Raises UserError for a value out of range."""

    alpha: float = 4.0
    particles: Count = 16
    temperature: float = 0.7
    top_k: int | None = 50
    max_new_tokens: int = 256
    # resample below this share of the particles in effective size; 0: never
    ess_threshold: Share = 0.5
    stretch: Count = 8  # completion tokens between two looks at the weights
    # completion tokens over which the exponent rises from 1 to alpha; 0: alpha from the start
    ramp_tokens: Natural = 0

    def exponent(self, limit: int) -> float:
        """The exponent of the target once completions have `limit` tokens."""
        if limit >= min(self.max_new_tokens, self.ramp_tokens):
            return self.alpha
        return 1 + (self.alpha - 1) * limit / self.ramp_tokens

    def kernel(self, noise: Noise, problem: int = 0, population: int = 0) -> Kernel:
        """All stretches of one population; returns its SmcResult."""
        state = init(self, population)
        infos = []
        while not state.done(self):
            state, info = yield from step(state, self, noise)
            infos.append(info)
        cumulative = numpy.cumsum(numpy.exp(state.log_weights - state.log_weights.max()))
        u = noise((population, state.stretch, PICK))
        chosen = min(int((cumulative <= u * cumulative[-1]).sum()), self.particles - 1)
        particles = [particle.draws for particle in state.particles]
        final = replace(particles[chosen], positions=state.positions)
        return SmcResult(problem, population, final, infos, particles, state.log_weights)


class Particle(NamedTuple):
    """A completion in the making, and the scheduler's name of it."""

    draws: Draws = Draws()
    handle: Any = None

    def value(self, exponent: float, alpha: float) -> float:
        """The sum of exponent * log p - log q over the model's tokens (nats)."""
        total = sum(self.draws.a)
        return total if exponent == alpha else total + (exponent - alpha) * sum(self.draws.log_p)


class State(NamedTuple):
    """A population between two stretches."""

    particles: list[Particle]
    # (particles,) float64, since the last reset; their mean, exponentiated, estimates Z so far
    log_weights: numpy.ndarray
    # (particles,) float64: each particle's value under the exponent of the last look
    values: numpy.ndarray
    population: int = 0
    stretch: int = 0  # stretches done: part of the next one's addresses
    limit: int = 0  # completion tokens that the particles have now at most
    positions: int = 0  # token positions forwarded so far

    def done(self, settings: SmcSettings) -> bool:
        """Whether no particle can grow."""
        return all(particle.draws.done(settings) for particle in self.particles)

    def weighted(self, exponent: float, alpha: float) -> State:
        """The same particles, their weights moved from the last look's exponent to another one."""
        values = numpy.array([particle.value(exponent, alpha) for particle in self.particles])
        return self._replace(log_weights=self.log_weights + values - self.values, values=values)

    def resampled(self, ancestors: list[int]) -> State:
        """The population of the ancestors, all of the mean weight."""
        return self._replace(
            particles=[self.particles[i] for i in ancestors],
            log_weights=numpy.full(len(ancestors), log_mean(self.log_weights)),
            values=self.values[ancestors],
        )


class Info(NamedTuple):
    """What one stretch did."""

    limit: int  # completion tokens after it
    exponent: float  # of the target that the weights after it stand for
    effective_sample_size: float  # of the weights that resampling was decided by
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
    """The ancestors (n) that systematic resampling draws with one uniform u: each is taken n w /
    sum(w) times, rounded up or down.
    """
    cumulative = numpy.cumsum(numpy.exp(log_weights - log_weights.max()))
    count = len(cumulative)
    points = (u + numpy.arange(count)) / count
    found = numpy.searchsorted(cumulative / cumulative[-1], points, side="right")
    return found.clip(max=count - 1).tolist()


def step(
    state: State, settings: SmcSettings, noise: Noise
) -> Generator[list[Decode], list[Suffix], tuple[State, Info]]:
    """One stretch: living particles grow with q, all are weighted anew, and resampled where the
    weights are too uneven.

    Particle i of population c draws token n of stretch s with noise((c, s, i, n)); resampling draws
    noise((c, s, RESAMPLE)).
    """
    address = (state.population, state.stretch)
    limit = min(state.limit + settings.stretch, settings.max_new_tokens)
    particles = list(state.particles)
    growing = [i for i, particle in enumerate(particles) if not particle.draws.done(settings)]
    requests = []
    for i in growing:
        # beyond `limit` where a forced output ended there: at least one token is drawn
        cut = len(particles[i].draws.tokens)
        where = dict(parent=particles[i].handle, cut=cut, limit=max(limit, cut + 1))
        more = dict(address=(*address, i), revisit=False, keep=False)
        requests.append(Decode(sampling=settings, **where, **more))
    replies = yield requests
    for i, suffix in zip(growing, replies, strict=True):
        particles[i] = Particle(particles[i].draws + suffix, suffix.handle)
    positions = sum(suffix.positions for suffix in replies)
    grown = state._replace(
        particles=particles,
        stretch=state.stretch + 1,
        limit=limit,
        positions=state.positions + positions,
    )
    exponent = settings.alpha if grown.done(settings) else settings.exponent(limit)
    grown = grown.weighted(exponent, settings.alpha)
    size = effective_sample_size(grown.log_weights)
    ancestors = list(range(settings.particles))
    resampled = not grown.done(settings) and size < settings.ess_threshold * settings.particles
    if resampled:
        ancestors = systematic(grown.log_weights, noise((*address, RESAMPLE)))
        grown = grown.resampled(ancestors)
    if grown.done(settings) and exponent != settings.alpha:  # no living particle was drawn
        exponent = settings.alpha
        grown = grown.weighted(exponent, settings.alpha)
    return grown, Info(limit, exponent, size, resampled, ancestors, positions)


@dataclass
class SmcResult(Result):
    """One population's outcome; `final` is one particle drawn by weight."""

    particles: list[Draws]
    log_weights: numpy.ndarray  # (particles,) float64

    @property
    def log_z(self) -> float:
        """log of the estimate of Z, the sum of p^alpha over the completions that q can reach."""
        return log_mean(self.log_weights)

    @property
    def least_effective_size(self) -> float:
        """The smallest effective number of particles met: at a look, or of the final weights."""
        looks = [info.effective_sample_size for info in self.infos]
        return min([*looks, effective_sample_size(self.log_weights)])
