"""Sequential Monte Carlo: its estimate of Z is unbiased, its draws approach p^alpha with the
particles, and no row is lost.
"""

import itertools
import math

import numpy
import pytest
import scipy.stats
from small_models import Work
from toy import ToyModel

from nanolab.errors import UserError
from nanolab.inference.protocol import Draws, Program, Suffix
from nanolab.inference.scheduler import serve
from nanolab.samplers import power_smc
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_smc import (
    Particle,
    SmcSettings,
    effective_sample_size,
    systematic,
)
from nanolab.seeds import generator, noise, uniform


def settings_of(toy, **changes):
    values = dict(
        alpha=2.0,
        particles=8,
        temperature=0.7,
        top_k=None,
        max_new_tokens=toy.max_new_tokens,
        stretch=1,
    )
    return SmcSettings(**{**values, **changes})


def exact_z(toy, settings):
    return sum(
        math.exp(settings.alpha * toy.log_p(x))
        for x in toy.completions(settings.max_new_tokens, settings.top_k)
    )


def populations(toy, settings, count, stage, lot=500):
    """Results of `count` populations, in lots so that only one lot's states are held."""
    for first in range(0, count, lot):
        copies = min(lot, count - first)
        yield from sample(toy, Batch([toy.prompt], 0, stage, copies, 1000, [first]), settings)


def z_error(found, toy, settings):
    """(mean of the Z estimates - exact Z) in standard errors."""
    found = numpy.array(found)
    return abs(found.mean() - exact_z(toy, settings)) / (found.std(ddof=1) / math.sqrt(len(found)))


def driven(plain_driver, toy, settings, count, seed=0):
    """Results of `count` populations from the production kernel, answered by the plain driver."""
    driver = plain_driver(toy, seed)
    return (driver.run(settings.kernel(driver.noise)) for _ in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("particles", [2, 8, 32])
def test_the_estimate_of_z_is_unbiased_at_every_number_of_particles(plain_driver, toy, particles):
    settings = settings_of(toy, particles=particles)
    assert (
        z_error(
            [math.exp(result.log_z) for result in driven(plain_driver, toy, settings, 10_000)],
            toy,
            settings,
        )
        < 4
    )


@pytest.mark.parametrize(
    "changes",
    [
        dict(ramp_tokens=3),
        dict(stretch=2),
        dict(top_k=3, temperature=1.0),
        dict(ess_threshold=1.0),
        dict(alpha=4.0, temperature=1.0),
    ],
)
def test_the_estimate_of_z_is_unbiased_whatever_the_schedule(plain_driver, toy, changes):
    settings = settings_of(toy, **changes)
    assert (
        z_error(
            [math.exp(result.log_z) for result in driven(plain_driver, toy, settings, 3000)],
            toy,
            settings,
        )
        < 4
    )


class ShortToy(ToyModel):
    """A toy that mostly ends at once: resampling often leaves no particle that can grow."""

    def _weights(self, seed, main, rest):
        plain = super()._weights(seed, main, rest)
        return {x: weight * 0.3 ** len(x) for x, weight in plain.items()}


@pytest.mark.parametrize("particles", [4, 8, 16])
def test_a_ramp_that_resampling_cuts_short_ends_at_alpha(plain_driver, particles):
    """The mean of Z is exact, and so is that of Z where the draw has one token: the draw's law."""
    toy, far = ShortToy(), {}
    short = [x for x in toy.completions(toy.max_new_tokens) if len(x) == 1]
    grid = itertools.product((2.0, 4.0, 8.0), (3, 4, 5, 6), (0.5, 0.9, 1.0))
    for number, (alpha, ramp, threshold) in enumerate(grid):
        settings = settings_of(
            toy,
            particles=particles,
            alpha=alpha,
            temperature=1.0,
            ramp_tokens=ramp,
            ess_threshold=threshold,
        )
        results = list(driven(plain_driver, toy, settings, 150, number))
        assert {result.infos[-1].exponent for result in results} == {alpha}
        found = numpy.array([math.exp(result.log_z) for result in results])
        drawn = found * [len(result.final.tokens) == 1 for result in results]
        exact = exact_z(toy, settings), sum(math.exp(alpha * toy.log_p(x)) for x in short)
        for name, values, mean in zip(("Z", "law"), (found, drawn), exact, strict=True):
            errors = (values.mean() - mean) / (values.std(ddof=1) / math.sqrt(len(values)))
            if abs(errors) >= 4:
                far[name, alpha, ramp, threshold] = float(errors)
    assert not far


def test_a_population_of_ended_particles_moves_its_weights_to_alpha():
    """One stretch by hand: the living particle is dropped at exponent 2 of 4; the target is p^4."""
    settings = SmcSettings(
        alpha=4.0,
        particles=3,
        temperature=1.0,
        top_k=None,
        max_new_tokens=9,
        ess_threshold=1.0,
        stretch=3,
        ramp_tokens=9,
    )
    kernel = settings.kernel(lambda address: 0.5)
    assert len(next(kernel)) == 3
    likely = Suffix(tokens=[0], forced=[False], log_p=[-0.1], log_q=[-0.1], a=[-0.3], ended=True)
    lucky = Suffix(
        tokens=[2, 0],
        forced=[False] * 2,
        log_p=[-1.0] * 2,
        log_q=[-2.0] * 2,
        a=[-2.0] * 2,
        ended=True,
    )
    alive = Suffix(
        tokens=[2] * 3, forced=[False] * 3, log_p=[-3.0] * 3, log_q=[-3.0] * 3, a=[-9.0] * 3
    )
    with pytest.raises(StopIteration) as stopped:
        kernel.send([likely, lucky, alive])
    result = stopped.value.value
    (info,) = result.infos
    assert info.resampled and info.ancestors == [0, 1, 1] and info.exponent == 4.0
    assert [particle.tokens for particle in result.particles] == [[0], [2, 0], [2, 0]]
    at_2, moved = numpy.exp([-0.1, 0.0, -9.0]).mean(), numpy.exp([2 * -0.1, 2 * -2.0, 2 * -2.0])
    weights = at_2 * moved
    assert numpy.exp(result.log_weights) == pytest.approx(weights)
    assert result.log_z == pytest.approx(math.log(weights.mean()))
    assert result.least_effective_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert result.least_effective_size < info.effective_sample_size


def test_the_estimate_of_z_is_unbiased_through_the_scheduler(toy):
    settings = settings_of(toy, particles=4, ess_threshold=1.0)
    assert (
        z_error(
            [math.exp(result.log_z) for result in populations(toy, settings, 1000, "scheduler")],
            toy,
            settings,
        )
        < 4
    )


def test_the_estimate_of_z_is_biased_when_resampling_forgets_the_evidence(
    plain_driver, toy, monkeypatch
):
    """Negative control: weights reset to 1 instead of to their mean."""
    monkeypatch.setattr(power_smc, "log_mean", lambda log_weights: 0.0)
    settings = settings_of(toy, ess_threshold=1.0)
    found = [
        float(numpy.exp(result.log_weights).mean())
        for result in driven(plain_driver, toy, settings, 1000)
    ]
    assert z_error(found, toy, settings) > 4


def distance(results, toy, settings):
    """TV of the draws to pi, and the 99.9% quantile of that of as many exact draws."""
    law = toy.law(settings.alpha, settings.max_new_tokens, settings.top_k)
    where, pi = {x: i for i, x in enumerate(law)}, numpy.array(list(law.values()))
    seen = numpy.zeros(len(pi))
    for result in results:
        seen[where[tuple(result.final.tokens)]] += 1
    count = int(seen.sum())
    exact = generator(0, "exact draws").multinomial(count, pi, size=2000)
    return numpy.abs(seen / count - pi).sum() / 2, numpy.quantile(
        numpy.abs(exact / count - pi).sum(1) / 2, 0.999
    )


@pytest.mark.slow
def test_the_draws_approach_the_target_with_the_particles(plain_driver, toy):
    """TV falls with N; at N = 256 it is within the noise of exact draws, at N = 1 (plain sampling
    from q) far outside.
    """
    found = {}
    for particles in (1, 4, 256):
        settings = settings_of(toy, particles=particles, alpha=4.0, temperature=1.0)
        found[particles] = distance(driven(plain_driver, toy, settings, 500), toy, settings)
    assert found[1][0] > found[4][0] > found[256][0]
    assert found[256][0] < found[256][1] < found[1][0]


def test_one_particle_is_plain_sampling(toy):
    """N = 1 never resamples, and its Z estimate is p^alpha / q of its completion."""
    for result in populations(toy, settings_of(toy, particles=1), 50, "one"):
        final = result.final
        assert not any(info.resampled for info in result.infos)
        assert result.log_z == pytest.approx(2.0 * final.sum_log_p - sum(final.log_q), abs=1e-9)
        assert final.sum_log_p == pytest.approx(toy.log_p(tuple(final.tokens)), abs=1e-12)


def test_recorded_weights_are_alpha_log_p_minus_log_q_without_resampling(toy):
    for result in populations(
        toy, settings_of(toy, ess_threshold=0.0, ramp_tokens=3, alpha=3.0), 30, "weights"
    ):
        for particle, log_weight in zip(result.particles, result.log_weights, strict=True):
            assert log_weight == pytest.approx(
                3.0 * particle.sum_log_p - sum(particle.log_q), abs=1e-9
            )


def test_systematic_resampling_takes_each_its_share_rounded_up_or_down():
    random = generator("systematic")
    for trial in range(200):
        log_weights = random.normal(size=7) * 3
        shares = 7 * numpy.exp(log_weights) / numpy.exp(log_weights).sum()
        counts = numpy.bincount(systematic(log_weights, uniform("u", trial)), minlength=7)
        assert (
            counts.sum() == 7
            and (counts >= numpy.floor(shares)).all()
            and (counts <= numpy.ceil(shares)).all()
        )
    draws = numpy.mean(
        [
            numpy.bincount(systematic(log_weights, (i + 0.5) / 5000), minlength=7)
            for i in range(5000)
        ],
        0,
    )
    assert numpy.allclose(draws, shares, atol=0.003)  # unbiased: the mean over u is the share


def test_effective_sample_size():
    assert effective_sample_size(numpy.zeros(8)) == pytest.approx(8)
    assert effective_sample_size(numpy.array([0.0, -1000.0])) == pytest.approx(1)
    assert effective_sample_size(numpy.log([2.0, 1.0, 1.0])) == pytest.approx(16 / 6)


def test_a_population_does_not_depend_on_its_batch_and_gives_its_rows_back(toy):
    settings = settings_of(toy, particles=5, ess_threshold=0.9)
    together = sample(toy, Batch([toy.prompt] * 12, 3, "s", copies=2, rows=7), settings)
    assert not toy.rows
    alone = sample(toy, Batch([toy.prompt], 3, "s", copies=2, examples=[9]), settings)
    for a, b in zip(together[18:20], alone, strict=True):
        assert [p.tokens for p in a.particles] == [p.tokens for p in b.particles]
        assert a.final.tokens == b.final.tokens and (a.log_weights == b.log_weights).all()
        assert [i.ancestors for i in a.infos] == [i.ancestors for i in b.infos]
    assert any(i.resampled for r in together for i in r.infos)
    assert not toy.rows


def test_a_particle_is_forwarded_once(toy):
    """Positions: the prompt once, and every token but a completion's last once, however often
    particles are resampled.
    """
    settings = settings_of(toy, particles=6, ess_threshold=0.0)
    for result in sample(toy, Batch([toy.prompt], 1, "positions"), settings):
        assert result.positions == 1 + sum(
            len(p.tokens) - 1 - _forced_at_the_end(p) for p in result.particles
        )
    uniforms = noise(0, "s", 0)
    work = Work(toy)
    (result,) = serve(
        toy,
        [Program(toy.prompt, settings_of(toy, ess_threshold=1.0).kernel(uniforms), uniforms)],
        64,
    )
    assert work.positions == result.positions == sum(info.positions for info in result.infos)
    assert 0 < work.rows <= work.decodes * 64


def _forced_at_the_end(completion):
    """Forced tokens that end a completion at the limit: the token that called the tool was never
    forwarded, nor they.
    """
    count = 0
    while completion.forced[len(completion.forced) - 1 - count]:
        count += 1
    return count


def test_ramped_exponents_end_at_alpha(toy):
    settings = settings_of(toy, alpha=4.0, ramp_tokens=3)
    assert [settings.exponent(n) for n in (0, 1, 2, 3, 4)] == [1, 2, 3, 4, 4]
    assert settings_of(toy, alpha=4.0, ramp_tokens=100).exponent(toy.max_new_tokens) == 4
    particle = Particle(Draws(log_p=[-1.0, -2.0], a=[4 * -1.0 + 0.5, 4 * -2.0 + 1.0]))
    assert particle.value(2.0, 4.0) == pytest.approx(2 * -3.0 + 1.5)
    for result in populations(toy, settings, 20, "ramp"):
        assert result.infos[-1].exponent == 4


def test_chosen_particles_follow_the_weights(toy):
    """The final particle is drawn by weight: over many populations the picks' mean rank probability
    is uniform.
    """
    settings = settings_of(toy, particles=3, ess_threshold=0.0, alpha=1.0, temperature=1.0)
    picked = []
    for result in populations(toy, settings, 1500, "pick"):
        assert numpy.allclose(result.log_weights, 0, atol=1e-9)  # alpha 1 at T 1: all weights are 1
        if len({tuple(p.tokens) for p in result.particles}) == 3:
            picked.append([p.tokens for p in result.particles].index(result.final.tokens))
    counts = numpy.bincount(picked, minlength=3)
    assert counts.sum() > 500
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(alpha=0.5), "alpha = 0.5"),
        (dict(temperature=0.0), "temperature = 0.0"),
        (dict(particles=0), "particles = 0"),
        (dict(stretch=0), "stretch = 0"),
        (dict(ess_threshold=1.5), "ess_threshold = 1.5"),
        (dict(ramp_tokens=-1), "ramp_tokens = -1"),
        (dict(top_k=0), "top_k = 0"),
        (dict(max_new_tokens=0), "max_new_tokens = 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SmcSettings(**changes)


def test_too_long_a_completion_is_refused(toy):
    with pytest.raises(UserError, match="more than the context"):
        sample(toy, Batch([toy.prompt], 0, "s"), SmcSettings(max_new_tokens=50))
    with pytest.raises(UserError, match="copies = 0"):
        sample(toy, Batch([toy.prompt], 0, "s", copies=0), settings_of(toy))
