"""log p, log q and the draw: the one place where both samplers and the engine get them."""

import math

import numpy
import pytest
import torch
from small_models import log_p_log_q
from toy import ToyModel

from nanolab.errors import UserError
from nanolab.inference.proposal import Sampling, candidates, draw, power_term
from nanolab.inference.protocol import Draws, check_lengths
from nanolab.seeds import generator


def logits(rows, vocab, dtype=torch.float32, scale=3.0):
    return torch.tensor(
        generator("logits", rows, vocab).normal(size=(rows, vocab)) * scale, dtype=dtype
    )


@pytest.mark.parametrize("top_k", [None, 1, 5, 40, 100])
@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 1.5])
def test_log_p_and_log_q_match_the_definition(temperature, top_k):
    x = logits(6, 40)
    tokens = [0, 7, 13, 21, 39, 5]
    log_p, log_q, log_z = log_p_log_q(x, tokens, temperature, top_k)
    p = torch.softmax(x.double(), -1).numpy()
    for i, token in enumerate(tokens):
        kept = numpy.argsort(-p[i])[: top_k or 40]
        z = (p[i, kept] ** (1 / temperature)).sum()
        assert log_p[i] == pytest.approx(math.log(p[i, token]), abs=1e-5)
        assert log_z[i] == pytest.approx(math.log(z), abs=1e-5)
        expected = math.log(p[i, token] ** (1 / temperature) / z) if token in kept else -math.inf
        assert log_q[i] == pytest.approx(expected, abs=1e-5)
    assert log_p.dtype == log_q.dtype == log_z.dtype == numpy.float64


def test_float64_logits_stay_float64():
    x = logits(3, 9, torch.float64)
    log_p = log_p_log_q(x, [1, 2, 3], 0.7, None)[0]
    assert numpy.abs(log_p - torch.log_softmax(x, -1)[[0, 1, 2], [1, 2, 3]].numpy()).max() < 1e-15


@pytest.mark.parametrize(
    "alpha, temperature", [(1.0, 1.0), (4.0, 0.25), (4.0, 0.7), (8.0, 1.0), (1.5, 0.7)]
)
def test_a_never_leaks_above_zero(alpha, temperature):
    """Where alpha >= 1/T >= 1, also for a token of probability nearly 1 in float32: early rejection
    stands on it.
    """
    x = logits(2000, 30, scale=8.0)
    best = x.argmax(-1).tolist()
    log_p, log_q, log_z = log_p_log_q(x, best, temperature, None)
    a = power_term(log_p, log_z, temperature, alpha)
    assert a.max() <= 0
    assert a == pytest.approx(alpha * log_p - log_q, abs=1e-9)


def test_draws_follow_q():
    x = logits(1, 12)
    kept = candidates(x, 6)
    n = 60_000
    u = (numpy.arange(n) + 0.5) / n
    index, _ = draw(numpy.repeat(kept.log_p, n, 0), 0.7, u)
    _, log_q, _ = log_p_log_q(x.expand(6, -1), kept.ids[0].tolist(), 0.7, 6)
    assert numpy.abs(numpy.bincount(index, minlength=6) / n - numpy.exp(log_q)).max() < 2 / n
    assert (numpy.diff(index) >= 0).all() and (
        numpy.diff(kept.ids[0]) > 0
    ).all()  # by id, not by probability


def test_a_token_of_probability_zero_is_never_drawn():
    x = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    for u in (1e-300, 0.3, 1 - 2**-53):
        index, _ = draw(candidates(x, None).log_p, 1.0, numpy.array([u]))
        assert index[0] in (0, 2)


def test_a_row_draws_the_same_alone_and_among_others():
    x = logits(64, 500)
    u = generator("u").uniform(size=64)
    for top_k in (None, 50):
        together = candidates(x, top_k)
        for i in (0, 17, 63):
            alone = candidates(x[i : i + 1], top_k)
            assert (alone.ids[0] == together.ids[i]).all() and (
                alone.log_p[0] == together.log_p[i]
            ).all()
            a, b = draw(alone.log_p, 0.7, u[i : i + 1]), draw(together.log_p, 0.7, u)
            assert a[0][0] == b[0][i] and a[1][0] == b[1][i]


def test_greedy_takes_the_most_likely_token_with_log_q_zero():
    x = logits(5, 20)
    log_p, log_q, _ = log_p_log_q(x, x.argmax(-1).tolist(), 0.0, None)
    assert abs(log_q).max() < 1e-6 and (log_p < 0).all()


def test_logits_that_are_not_numbers_stop_with_one_line():
    x = logits(3, 5)
    x[1, 2] = math.nan
    with pytest.raises(UserError, match="not finite at 1 of 3 positions"):
        candidates(x, 2)


@pytest.mark.parametrize(
    "values, words",
    [
        (dict(temperature=-0.1, top_k=None, max_new_tokens=1), "temperature = -0.1"),
        (dict(temperature=math.nan, top_k=None, max_new_tokens=1), "temperature = nan"),
        (dict(temperature=1, top_k=0, max_new_tokens=1), "top_k = 0"),
        (dict(temperature=1, top_k=None, max_new_tokens=0), "max_new_tokens = 0"),
    ],
)
def test_settings_out_of_range(values, words):
    with pytest.raises(UserError, match=words):
        Sampling(**values)


def test_lengths_beyond_the_context():
    toy = ToyModel(4)  # a context of 5
    with pytest.raises(UserError, match=r"prompt 1 has 6 tokens, more than the context of 5"):
        check_lengths(toy, [[2], [2] * 6], 1)
    with pytest.raises(
        UserError,
        match=r"3 tokens and max_new_tokens = 4.*context of 5; max_new_tokens can be at most 2",
    ):
        check_lengths(toy, [[2, 2, 2]], 4)
    with pytest.raises(UserError, match="prompt 0 is empty"):
        check_lengths(toy, [[]], 1)


def test_draws_are_cut_and_joined_as_lists_are():
    draws = Draws(positions=2)
    draws.append(5, -1.0, -0.5, -3.5)
    draws.append_forced([7, 8])
    draws.append(0, -2.0, -1.0, -7.0)
    draws.ended = True
    assert draws.forced == [False, True, True, False] and draws.a == [-3.5, 0.0, 0.0, -7.0]
    assert draws.sum_log_p == -3.0 and draws[:].ended and draws[1:].ended
    kept = draws[:2]
    assert kept.tokens == [5, 7] and kept.log_q == [-0.5, 0.0] and not kept.ended
    assert kept + draws[2:] == Draws(*draws.columns, ended=True, positions=4)
    assert len(draws.tokens) == 4  # neither changes what it is made of
