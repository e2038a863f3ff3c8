"""The batch of a server: nobody waits for more than a tick, chains leave room, failures are
told.
"""

import queue
from itertools import pairwise

import pytest
from running_server import subject

from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Decode, Program
from nanolab.samplers.power_mh import PowerSettings
from nanolab.seeds import noise
from nanolab.server.answers import EngineSettings
from nanolab.server.engine import Engine, Job
from nanolab.server.faults import Refusal

PLAIN = Sampling(temperature=1.0, top_k=20, max_new_tokens=60)
CHAIN = PowerSettings(alpha=8.0, num_steps=10, temperature=0.25, top_k=20, max_new_tokens=60)
PROMPT = [1, 2, 3]


class Ends:
    """How jobs end, for the thread of the test."""

    def __init__(self):
        self.heard = queue.Queue()

    def job(self, kernel, watch=None, is_chain=False, seed=0):
        program = Program(PROMPT, kernel, noise(seed, "s", 0), watch)
        return Job(program, self.heard.put, self.heard.put, is_chain)

    def next(self):
        return self.heard.get(timeout=30)


def draw(limit=60):
    suffix = yield Decode(sampling=PLAIN, address=(0, 0), limit=limit, revisit=False)
    return suffix


@pytest.fixture
def make():
    made = []

    def engine(rows=8, waiting=32):
        found = subject()
        made.append(
            Engine(lambda n: found.language_model(EngineSettings(n), found.context), rows, waiting)
        )
        return made[-1]

    yield engine
    for one in made:
        one.stop()


class Ticks:
    """At which ticks each of some plain answers got a token."""

    def __init__(self, engine, ends, count):
        self.engine = engine
        self.seen = [[] for _ in range(count)]
        self.jobs = [ends.job(draw(), self.watch(i), seed=i) for i in range(count)]

    def watch(self, i):
        def seen(tokens, suffix):
            self.seen[i].append(self.engine.ticks)
            return False

        return seen

    def gaps(self):
        """Ticks between a token and the next one. The first needs no forward of its own."""
        return [gap for ticks in self.seen for gap in map(int.__sub__, ticks[1:], ticks)][1:]


def test_a_plain_answer_gets_a_token_each_tick_beside_chains(make):
    engine, ends = make(), Ends()
    chains = [ends.job(CHAIN.kernel(noise(i, "s", 0)), is_chain=True) for i in range(4)]
    ticks = Ticks(engine, ends, 4)
    engine.submit([*chains, *ticks.jobs])
    for _ in range(8):
        ends.next()
    assert len(ticks.gaps()) > 40 and max(ticks.gaps()) == 1


def test_a_chain_that_needs_no_forward_stalls_nobody(make):
    """Each of its requests is one token, drawn from what was kept."""
    engine, ends = make(), Ends()

    def rejected():
        suffix = yield Decode(sampling=PLAIN, address=(0, 0), limit=1)
        for step in range(200):
            request = {"parent": suffix.handle, "cut": 0, "limit": 1}
            yield Decode(sampling=PLAIN, address=(0, step), **request)

    heard = []  # whose token it was, in order

    def watch(name):
        def seen(tokens, suffix):
            heard.append(name)
            return False

        return seen

    engine.submit([ends.job(rejected(), watch("chain"), is_chain=True)])
    engine.submit([ends.job(draw(), watch("plain"), seed=seed) for seed in range(2, 6)])
    for _ in range(5):
        ends.next()
    places = [place for place, name in enumerate(heard) if name == "plain"]
    between = [after - before - 1 for before, after in pairwise(places)]
    assert len(between) > 40 and max(between) == 1


def test_chains_hold_at_most_half_of_the_rows(make):
    engine, ends = make(rows=4), Ends()
    most = 0

    def watch(tokens, suffix):
        nonlocal most
        most = max(most, sum(job.is_chain for job in engine.running))
        return False

    engine.submit([ends.job(CHAIN.kernel(noise(i, "s", 0)), watch, True) for i in range(3)])
    for _ in range(3):
        ends.next()
    assert most == 2


def test_a_batch_that_fails_is_told_and_the_next_one_runs(make, capfd):
    engine, ends = make(), Ends()

    def broken(tokens, suffix):
        raise ZeroDivisionError

    engine.submit([ends.job(draw(), broken), ends.job(draw())])
    for _ in range(2):
        fault = ends.next()
        assert isinstance(fault, Refusal) and fault.status == 500
    engine.submit([ends.job(draw())])
    assert ends.next().tokens
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_whoever_waits_hears_that_the_server_ends(make):
    engine, ends = make(rows=1), Ends()
    many = PowerSettings(alpha=4.0, num_steps=100_000, max_new_tokens=60)
    engine.submit([ends.job(many.kernel(noise(0, "s", 0)), is_chain=True), ends.job(draw())])
    engine.stop()
    assert [ends.next().status for _ in range(2)] == [503, 503]
    with pytest.raises(Refusal, match="shutting down"):
        engine.submit([ends.job(draw())])
