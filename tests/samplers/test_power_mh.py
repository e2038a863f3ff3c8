"""Power sampling is exact: the kernel's own transition matrix, the chains of the driver, early
rejection, and what a wrong kernel does.

A wrong kernel here is the production kernel fed with wrong numbers: `a` without log q, or an index
law of 1 for every length.
"""

import functools
import math
from dataclasses import replace

import numpy
import pytest
import scipy.stats
from small_models import log_p_log_q
from toy import END, ToyModel

from nanolab.errors import UserError
from nanolab.inference.proposal import power_term
from nanolab.inference.protocol import Decode, Draws, Suffix
from nanolab.samplers import power_mh
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings, State
from nanolab.seeds import ACCEPT, INDEX, generator

RIGHT, NO_LOG_Q, NO_INDEX = "right", "without log q", "without the index term"


def settings_of(toy, **changes):
    values = dict(
        alpha=2.0,
        num_steps=1,
        temperature=0.7,
        top_k=None,
        max_new_tokens=toy.max_new_tokens,
        restart_prob=0.5,
    )
    return PowerSettings(**{**values, **changes})


@functools.lru_cache(maxsize=64)
def recorded(toy, alpha, temperature, top_k, kernel):
    """log p, log q and a of every choice (prefix, token), by the plain function that the scheduler
    is held to.
    """
    found = {}
    for prefix, number in toy.number.items():
        for token in range(toy.vocab_size):
            log_p, log_q, log_z = log_p_log_q(
                toy.table[number : number + 1], [token], temperature, top_k
            )
            a = (
                alpha * log_p
                if kernel == NO_LOG_Q
                else power_term(log_p, log_z, temperature, alpha)
            )
            found[prefix, token] = float(log_p[0]), float(log_q[0]), float(a[0])
    return found


def parts(toy, completion, values, start=0):
    """Tokens, forced flags, log p, log q and a of completion[start:]."""
    chosen = set(toy.model_positions(completion))
    numbers = [
        values[completion[:i], completion[i]] if i in chosen else (0.0, 0.0, 0.0)
        for i in range(start, len(completion))
    ]
    columns = [list(column) for column in zip(*numbers)]
    return (
        list(completion[start:]),
        [i not in chosen for i in range(start, len(completion))],
        *columns,
    )


def transition_matrix(toy, settings, limit, kernel=RIGHT):
    """P over the reachable completions, from the log ratios of the production `step` driven through
    every (cut, suffix).
    """
    settings = replace(settings, early_rejection=False)
    values = recorded(toy, settings.alpha, settings.temperature, settings.top_k, kernel)
    states = toy.completions(limit, settings.top_k)
    where = {x: i for i, x in enumerate(states)}
    matrix = numpy.zeros((len(states), len(states)))
    branches = {}
    for x in states:
        for t in toy.model_positions(x):
            branches.setdefault(x[:t], []).append(x)
    replies = {
        (t, y): Suffix(*parts(toy, y, values, t), ended=y[-1] == END)
        for y in states
        for t in toy.model_positions(y)
    }
    d = settings.restart_prob
    for x in states:
        draws = Draws(*parts(toy, x, values), ended=x[-1] == END)
        state = State(draws, limit=limit)
        chosen = toy.model_positions(x)
        for j, t in enumerate(chosen):
            u = d / 2 if j == 0 and d else d + (1 - d) * (j + 0.5) / len(chosen)
            script = {ACCEPT: 0.5, INDEX: u}
            law = (1 - d) / len(chosen) + (d if j == 0 else 0)
            for y in branches[x[:t]]:
                run = power_mh.step(
                    state,
                    settings,
                    lambda address, script=script: script[address[2]],
                )
                request = next(run)
                assert isinstance(request, Decode) and request.cut == t and request.limit == limit
                with pytest.raises(StopIteration) as stop:
                    run.send(replies[t, y])
                info = stop.value.value[1]
                reply = replies[t, y]
                q = math.exp(sum(reply.log_q))
                matrix[where[x], where[y]] += law * q * min(1.0, math.exp(info.log_ratio))
        matrix[where[x], where[x]] += 1 - matrix[where[x]].sum()
    return states, matrix


def stationary_error(toy, settings, limit, kernel=RIGHT):
    states, matrix = transition_matrix(toy, settings, limit, kernel)
    law = toy.law(settings.alpha, limit, settings.top_k)
    pi = numpy.array([law[x] for x in states])
    assert (matrix >= 0).all()
    return numpy.abs(pi @ matrix - pi).max()


@pytest.mark.parametrize("restart_prob", [0.0, 0.5])
@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_the_kernel_leaves_the_target_unchanged(toy, alpha, temperature, top_k, restart_prob):
    """pi P = pi to 1e-12, for one block and for each of two (pi_b is p^alpha over completions
    limited to the block).
    """
    for num_blocks in (1, 2):
        settings = settings_of(
            toy,
            alpha=alpha,
            temperature=temperature,
            top_k=top_k,
            restart_prob=restart_prob,
            num_blocks=num_blocks,
        )
        for block in range(num_blocks):
            assert stationary_error(toy, settings, settings.limit(block)) < 1e-12


def test_two_blocks_have_two_limits(toy):
    settings = settings_of(toy, num_blocks=2)
    assert [settings.limit(0), settings.limit(1)] == [2, 4]
    assert [settings_of(toy, num_blocks=3).limit(b) for b in range(3)] == [2, 4, 4]


def test_the_longer_toy_too():
    toy = ToyModel(5)
    assert stationary_error(toy, settings_of(toy, alpha=4.0), 5) < 1e-12


@pytest.mark.parametrize("restart_prob", [0.0, 0.5])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_a_kernel_without_log_q_fails(toy, alpha, restart_prob):
    assert (
        stationary_error(
            toy,
            settings_of(toy, alpha=alpha, restart_prob=restart_prob),
            toy.max_new_tokens,
            NO_LOG_Q,
        )
        > 1e-3
    )


@pytest.mark.parametrize("restart_prob", [0.0, 0.5])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_a_kernel_without_the_index_term_fails(toy, alpha, restart_prob, monkeypatch):
    monkeypatch.setattr(
        power_mh, "log_index_law", lambda first, restart_prob, count: numpy.zeros(count)
    )
    assert (
        stationary_error(
            toy,
            settings_of(toy, alpha=alpha, restart_prob=restart_prob),
            toy.max_new_tokens,
            NO_INDEX,
        )
        > 1e-3
    )


@pytest.mark.parametrize("restart_prob", [0.0, 0.3, 1.0])
def test_the_cut_follows_the_index_law(restart_prob):
    n, draws = 7, 70_000
    counts = numpy.bincount(
        [power_mh.choose_index((i + 0.5) / draws, n, restart_prob) for i in range(draws)],
        minlength=n,
    )
    expected = numpy.full(n, (1 - restart_prob) / n)
    expected[0] += restart_prob
    assert numpy.abs(counts / draws - expected).max() < 2 / draws
    if restart_prob < 1:
        laws = [math.exp(power_mh.log_index_law(j == 0, restart_prob, n + 1)[n]) for j in range(n)]
        assert numpy.allclose(laws, expected, atol=1e-15)


# the driver: chains through the production scheduler


def initial_law(toy, settings, states):
    values = recorded(toy, settings.alpha, settings.temperature, settings.top_k, RIGHT)
    return numpy.exp([sum(parts(toy, x, values)[3]) for x in states])


def last_states(toy, settings, chains, stage, batch_rows=1000):
    """How often each completion is a chain's last state; in lots, so that only one lot's
    trajectories are held.
    """
    counts = {}
    for lot in range(chains // batch_rows):
        batch = Batch([toy.prompt], 0, stage, batch_rows, batch_rows, examples=[lot])
        for result in sample(toy, batch, settings):
            key = tuple(result.final.tokens)
            counts[key] = counts.get(key, 0) + 1
    return counts


def verdict(counts, states, pi, chains):
    """Whether counts look like exact draws: TV below the 99.9% quantile of as many exact draws, and
    a goodness-of-fit p above 1e-3.
    """
    seen = numpy.array([counts.get(x, 0) for x in states])
    assert seen.sum() == chains
    exact = generator(0, "exact draws").multinomial(chains, pi, size=4000)
    quantile = numpy.quantile(numpy.abs(exact / chains - pi).sum(1) / 2, 0.999)
    distance = numpy.abs(seen / chains - pi).sum() / 2
    return distance < quantile and scipy.stats.chisquare(seen, pi * chains).pvalue > 1e-3


def mixing_steps(toy, settings, most=40):
    """Steps after which the exact matrix has TV(mu P^k, pi) < 0.001."""
    states, matrix = transition_matrix(toy, settings, toy.max_new_tokens)
    law = toy.law(settings.alpha, toy.max_new_tokens, settings.top_k)
    pi = numpy.array([law[x] for x in states])
    mu = initial_law(toy, settings, states)
    assert math.isclose(mu.sum(), 1, abs_tol=1e-12)
    for k in range(1, most + 1):
        mu = mu @ matrix
        if numpy.abs(mu - pi).sum() / 2 < 0.001:
            return k, states, pi
    raise AssertionError(f"not mixed after {most} steps")


@pytest.mark.slow
def test_20000_chains_follow_the_target_and_wrong_kernels_do_not(toy, monkeypatch):
    chains = 20_000
    settings = settings_of(toy, temperature=1.0)
    steps, states, pi = mixing_steps(toy, settings)
    settings = settings_of(toy, temperature=1.0, num_steps=steps)
    assert verdict(last_states(toy, settings, chains, "right"), states, pi, chains)

    chains = 5_000  # enough to see a wrong kernel
    with monkeypatch.context() as patch:
        patch.setattr(
            power_mh, "log_index_law", lambda first, restart_prob, count: numpy.zeros(count)
        )
        assert not verdict(last_states(toy, settings, chains, "no index"), states, pi, chains)
    with monkeypatch.context() as patch:
        patch.setattr(
            "nanolab.inference.proposal.power_term",
            lambda log_p, log_z, temperature, alpha: alpha * log_p,
        )
        assert not verdict(last_states(toy, settings, chains, "no log q"), states, pi, chains)


@pytest.mark.parametrize(
    "changes",
    [
        dict(alpha=4.0, temperature=1.0),
        dict(alpha=4.0, temperature=0.25),
        dict(alpha=2.0, temperature=0.7, top_k=3),
        dict(alpha=4.0, temperature=0.7, restart_prob=0.0),
        dict(alpha=2.0, temperature=0.7, num_blocks=2),
    ],
)
def test_early_rejection_makes_the_decision_of_the_full_procedure(toy, changes):
    """At every step of every chain, and it saves work."""
    settings = settings_of(toy, num_steps=6, **changes)
    runs = [
        sample(toy, Batch([toy.prompt], 0, "early", 150), replace(settings, early_rejection=on))
        for on in (True, False)
    ]
    for fast, full in zip(*runs, strict=True):
        assert [info.accepted for info in fast.infos] == [info.accepted for info in full.infos]
        assert [state.tokens for state in fast.states] == [state.tokens for state in full.states]
        for a, b in zip(fast.infos, full.infos, strict=True):
            assert a.log_u == b.log_u and a.cut == b.cut and a.log_ratio >= b.log_ratio
            assert not (a.early_rejected and a.accepted) and not b.early_rejected
    assert any(info.early_rejected for result in runs[0] for info in result.infos)
    assert sum(r.positions for r in runs[0]) < sum(r.positions for r in runs[1])


@pytest.mark.parametrize(
    "changes",
    [
        dict(alpha=1.0, temperature=0.7),
        dict(alpha=2.0, temperature=1.5),
        dict(alpha=2.0, temperature=0.25),
    ],
)
def test_early_rejection_stays_away_where_it_is_not_exact(toy, changes):
    settings = settings_of(toy, num_steps=5, **changes)
    results = sample(toy, Batch([toy.prompt], 0, "never", copies=50), settings)
    assert not any(info.early_rejected for result in results for info in result.infos)


def test_a_chain_alone_equals_the_chain_among_others(toy):
    settings = settings_of(toy, num_steps=5, num_blocks=2)
    together = sample(toy, Batch([toy.prompt] * 20, 3, "power", copies=2, rows=7), settings)
    alone = sample(toy, Batch([toy.prompt], 3, "power", copies=2, examples=[13]), settings)
    assert [r.states for r in alone] == [
        [replace(s, positions=t.positions) for s, t in zip(r.states, a.states)]
        for r, a in zip(together[26:28], alone, strict=True)
    ]  # but for positions: who pays for a shared prompt depends on the batch


def test_a_trajectory_holds_every_shorter_one(toy):
    """All num_steps of a point are read from one trajectory: state s is the final state of a run of
    s steps.
    """
    long = sample(toy, Batch([toy.prompt] * 10, 0, "power"), settings_of(toy, num_steps=8))
    short = sample(toy, Batch([toy.prompt] * 10, 0, "power"), settings_of(toy, num_steps=3))
    assert [r.states[3] for r in long] == [r.final for r in short]
    assert all(r.states[3].positions == s.positions for r, s in zip(long, short, strict=True))


def test_no_steps_is_one_draw_from_q_and_alpha_one_at_t_one_accepts_all_but_the_index_term(toy):
    results = sample(toy, Batch([toy.prompt] * 5, 0, "power"), settings_of(toy, num_steps=0))
    assert all(len(r.states) == 1 and not r.infos for r in results)
    settings = settings_of(toy, alpha=1.0, temperature=1.0, restart_prob=1.0, num_steps=4)
    results = sample(toy, Batch([toy.prompt] * 30, 0, "power"), settings)
    assert all(
        info.accepted and info.log_ratio == pytest.approx(0) for r in results for info in r.infos
    )


def test_info_keeps_the_rejected_proposal(toy):
    settings = settings_of(toy, alpha=4.0, num_steps=4, early_rejection=False)
    results = sample(toy, Batch([toy.prompt] * 40, 0, "power"), settings)
    for result in results:
        for before, info, after in zip(result.states, result.infos, result.states[1:]):
            assert info.log_p_old == pytest.approx(toy.log_p(tuple(before.tokens)))
            assert info.log_p_new == pytest.approx(toy.log_p(tuple(info.proposal.tokens)))
            assert after.tokens == (info.proposal if info.accepted else before).tokens
            assert info.moved == (after.tokens != before.tokens)
            assert info.accepted == (info.log_u <= info.log_ratio)
    assert any(not info.accepted for r in results for info in r.infos)


def test_most_likely_is_the_best_state_visited(toy):
    batch = Batch([toy.prompt] * 10, 0, "power")
    for result in sample(toy, batch, settings_of(toy, num_steps=5)):
        assert result.most_likely.sum_log_p == max(state.sum_log_p for state in result.states)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(alpha=0.5), "alpha = 0.5"),
        (dict(temperature=0.0), "temperature = 0.0"),
        (dict(temperature=-1.0), "temperature = -1.0"),
        (dict(top_k=0), "top_k = 0"),
        (dict(num_steps=-1), "num_steps = -1"),
        (dict(restart_prob=1.5), "restart_prob = 1.5"),
        (dict(num_blocks=0), "num_blocks = 0"),
        (dict(max_new_tokens=0), "max_new_tokens = 0"),
        (dict(alpha=math.nan), "alpha = nan"),
    ],
)
def test_settings_out_of_range_are_refused(toy, changes, words):
    with pytest.raises(UserError, match=words):
        settings_of(toy, **changes)


def test_a_completion_beyond_the_context_is_refused(toy):
    with pytest.raises(UserError, match="max_new_tokens = 5"):
        sample(toy, Batch([toy.prompt], 0, "power"), settings_of(toy, max_new_tokens=5))
