"""Power sampling with rollouts: exact when the futures are known, close when they are sampled, and
cheap where nothing is open.
"""

import itertools
import math

import numpy
import pytest
from toy import END

from nanolab.errors import UserError
from nanolab.inference.proposal import log_mean
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_rollout import RolloutSettings, token_law
from nanolab.seeds import generator


def settings_of(toy, **changes):
    values = dict(
        alpha=2.0,
        candidates=4,
        candidate_floor=0.0,
        rollouts=2,
        horizon=8,
        temperature=1.0,
        top_k=None,
        max_new_tokens=toy.max_new_tokens,
    )
    return RolloutSettings(**{**values, **changes})


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_with_the_true_futures_the_law_is_the_target(toy, alpha):
    """Theorem: the product of the next-token laws is p^alpha / Z, for every completion."""
    everything = toy.completions(toy.max_new_tokens)
    pi = toy.law(alpha, toy.max_new_tokens)
    for x in everything:
        probability = 1.0
        for t in toy.model_positions(x):
            prefix, log_p, values = x[:t], [], []
            for token in range(toy.vocab_size):
                extended = (*prefix, token, *toy.forced_after(prefix, token))
                futures = [y for y in everything if y[: len(extended)] == extended]
                log_p.append(float(toy.table[toy.number[prefix]].log_softmax(-1)[token]))
                own = toy.log_p(prefix) + log_p[-1]
                values.append(
                    numpy.array(
                        [math.log(sum(math.exp(alpha * (toy.log_p(y) - own)) for y in futures))]
                    )
                )
            probability *= token_law(numpy.array(log_p), values, alpha)[x[t]]
        assert probability == pytest.approx(pi[x], rel=1e-9)


def test_the_jackknife_takes_the_first_order_of_the_bias_away():
    """Two tokens whose futures have two values each; the expectation over all rollouts is summed
    exactly.
    """
    outcomes = [numpy.log([0.2, 1.0]), numpy.log([0.5, 0.9])]
    log_p, alpha, count = numpy.log([0.5, 0.5]), 1.0, 4
    truth = numpy.array([0.6, 0.7]) / 1.3
    plain, corrected = numpy.zeros(2), numpy.zeros(2)
    for first in itertools.product(outcomes[0], repeat=count):
        for second in itertools.product(outcomes[1], repeat=count):
            values = [numpy.array(first), numpy.array(second)]
            corrected += token_law(log_p, values, alpha) / 4**count
            weights = numpy.exp(log_p + [log_mean(v) for v in values])
            plain += weights / weights.sum() / 4**count
    assert abs(plain - truth).max() > 5e-3
    assert abs(corrected - truth).max() < abs(plain - truth).max() / 4


def distance(plain_driver, toy, settings, count):
    """TV of completions (production kernel, plain driver) to pi, and the 99.9% quantile of that of
    as many exact draws.
    """
    law = toy.law(settings.alpha, settings.max_new_tokens, settings.top_k)
    where, pi = {x: i for i, x in enumerate(law)}, numpy.array(list(law.values()))
    seen, driver = numpy.zeros(len(pi)), plain_driver(toy)
    for _ in range(count):
        seen[where[tuple(driver.run(settings.kernel(driver.noise)).final.tokens)]] += 1
    exact = generator(0, "exact draws").multinomial(count, pi, size=2000)
    return numpy.abs(seen / count - pi).sum() / 2, numpy.quantile(
        numpy.abs(exact / count - pi).sum(1) / 2, 0.999
    )


@pytest.mark.slow
def test_many_rollouts_draw_from_the_target_and_no_lookahead_does_not(plain_driver, toy):
    """32 whole futures a token: within the noise of exact draws. Futures of one token, without the
    rest: far from it.
    """
    found, noise_level = distance(plain_driver, toy, settings_of(toy, rollouts=32), 1000)
    assert found < noise_level
    short, noise_level = distance(
        plain_driver, toy, settings_of(toy, rollouts=4, horizon=1, alpha=4.0), 1000
    )
    assert short > noise_level


def test_records_and_rows(toy):
    results = sample(toy, Batch([toy.prompt] * 60, 0, "records", rows=9), settings_of(toy))
    assert not toy.rows
    assert any(any(r.final.forced) for r in results) and any(not r.final.ended for r in results)
    for result in results:
        final = result.final
        tokens = tuple(final.tokens)
        assert tokens in toy.completions(toy.max_new_tokens) and final.ended == (tokens[-1] == END)
        assert [i for i, forced in enumerate(final.forced) if not forced] == toy.model_positions(
            tokens
        )
        assert final.sum_log_p == pytest.approx(toy.log_p(tokens), abs=1e-9)
        assert sum(final.log_q) == pytest.approx(toy.log_p(tokens), abs=1e-9)  # q is p here
        assert len(result.infos) == len(toy.model_positions(tokens))
        for info, t in zip(result.infos, toy.model_positions(tokens), strict=True):
            assert info.ids[info.chosen] == tokens[t] and sum(info.law) == pytest.approx(1)


def test_a_completion_does_not_depend_on_its_batch(toy):
    together = sample(toy, Batch([toy.prompt] * 8, 5, "s", copies=2, rows=3), settings_of(toy))
    alone = sample(toy, Batch([toy.prompt], 5, "s", copies=2, examples=[6]), settings_of(toy))
    assert [r.final.tokens for r in together[12:14]] == [r.final.tokens for r in alone]
    assert [[i.law for i in r.infos] for r in together[12:14]] == [
        [i.law for i in r.infos] for r in alone
    ]


def test_one_candidate_is_greedy_and_looks_at_nothing(toy):
    (result,) = sample(toy, Batch([toy.prompt], 0, "greedy"), settings_of(toy, candidates=1))
    for info, t in zip(result.infos, toy.model_positions(tuple(result.final.tokens)), strict=True):
        assert result.final.tokens[t] == int(
            toy.table[toy.number[tuple(result.final.tokens[:t])]].argmax()
        ) and info.law == [1.0]
    assert result.positions <= len(result.final.tokens) + 1


def test_the_floor_keeps_the_likeliest_token_and_drops_the_unlikely(toy):
    batch = Batch([toy.prompt] * 10, 0, "floor")
    for result in sample(toy, batch, settings_of(toy, candidate_floor=0.3)):
        for info in result.infos:
            assert info.log_p[0] == max(info.log_p)
            assert all(value >= math.log(0.3) for value in info.log_p[1:])
            assert info.chosen < len(info.ids)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(alpha=0.5), "alpha = 0.5"),
        (dict(temperature=0.0), "temperature = 0.0"),
        (dict(candidates=0), "candidates = 0"),
        (dict(rollouts=0), "rollouts = 0"),
        (dict(horizon=0), "horizon = 0"),
        (dict(candidate_floor=1.0), "candidate_floor = 1.0"),
        (dict(top_k=0), "top_k = 0"),
        (dict(max_new_tokens=0), "max_new_tokens = 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        RolloutSettings(**changes)


def test_too_long_a_completion_is_refused(toy):
    with pytest.raises(UserError, match="more than the context"):
        sample(toy, Batch([toy.prompt], 0, "s"), RolloutSettings(max_new_tokens=50))
    with pytest.raises(UserError, match="copies = 0"):
        sample(toy, Batch([toy.prompt], 0, "s", copies=0), settings_of(toy))
