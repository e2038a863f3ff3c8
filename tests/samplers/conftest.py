"""A plain driver for kernels on the toy: every request is answered from its table, one token at a
time, without the scheduler.
"""

import bisect
import random

import numpy
import pytest
from small_models import log_p_log_q
from toy import END, ToyModel

from nanolab.inference.proposal import power_term
from nanolab.inference.protocol import Choices, Decode, Suffix


@pytest.fixture(scope="module")
def toy():
    return ToyModel()


class PlainDriver:
    """Runs kernels of one setting on a toy; handles are the completions themselves, uniforms come
    from one seeded stream.
    """

    def __init__(self, toy, seed=0):
        self.toy, self.random, self.tables = toy, random.Random(seed), {}
        self.noise = lambda address: self.random.random()

    def run(self, kernel):
        """The kernel's result."""
        reply = None
        try:
            while True:
                asked = kernel.send(reply)
                reply = (
                    self.answer(asked)
                    if isinstance(asked, Decode)
                    else [self.answer(request) for request in asked]
                )
        except StopIteration as stop:
            return stop.value

    def answer(self, request):
        tokens = (request.parent or ())[: request.cut]
        suffix = Suffix()
        while len(tokens) < request.limit and not suffix.ended:
            ids, cumulative, log_p, log_q, a, choices = self.table(tokens, request)
            if request.first is not None and len(tokens) == request.cut:
                place = ids.index(request.first)
            else:
                place = bisect.bisect_right(cumulative, self.random.random() * cumulative[-1])
            forced = self.toy.forced_after(tokens, ids[place])
            suffix.append(ids[place], log_p[place], log_q[place], a[place])
            suffix.append_forced(list(forced))
            suffix.choices += [choices] + [None] * len(forced)
            suffix.ended = ids[place] == END
            tokens += (ids[place], *forced)
        suffix.handle = tokens
        return suffix

    def table(self, prefix, request):
        temperature, top_k, alpha = request.sampling.law
        key = prefix, temperature, top_k, alpha
        if key not in self.tables:
            row = self.toy.table[self.toy.number[prefix]][None]
            everything = list(range(self.toy.vocab_size))
            log_p, log_q, log_z = log_p_log_q(
                row.expand(len(everything), -1), everything, temperature, top_k
            )
            ids = [token for token in everything if numpy.isfinite(log_q[token])]
            a = power_term(log_p, log_z, temperature, alpha)
            self.tables[key] = (
                ids,
                numpy.cumsum(numpy.exp(log_q[ids])).tolist(),
                log_p[ids].tolist(),
                log_q[ids].tolist(),
                a[ids].tolist(),
                Choices(top_k, numpy.array(ids), log_p[ids]),
            )
        return self.tables[key]


@pytest.fixture(scope="session")
def plain_driver():
    return PlainDriver
