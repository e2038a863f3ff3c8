"""The scheduler: every program gets its own answer whatever the batch, and no position is forwarded
twice.
"""

from dataclasses import replace

import numpy
import pytest
import torch
from small_models import Work
from toy import TOOL, ToyModel, tool_output

from nanolab.errors import UserError
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Decode, Program
from nanolab.inference.scheduler import Scheduler, serve
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.seeds import generator, noise


class Chatter:
    """A model without an end token: the next token's law depends on the last token."""

    vocab_size, end_tokens, max_length = 12, frozenset(), 200

    def __init__(self):
        self.table = torch.tensor(generator("chatter").normal(size=(12, 12)), dtype=torch.float32)
        self.rows, self.next_row, self.prefilled = {}, 0, []

    def prefill(self, prompts):
        self.prefilled += prompts
        rows = list(range(self.next_row, self.next_row + len(prompts)))
        self.next_row += len(prompts)
        self.rows.update((row, prompt[:-1]) for row, prompt in zip(rows, prompts))
        return rows

    def decode(self, rows, tokens):
        for row, more in zip(rows, tokens):
            self.rows[row] = self.rows[row] + more
        return self.table[[self.rows[row][-1] for row in rows]]

    fork = ToyModel.fork

    def forced(self, row, token):
        return []


def test_a_power_sampled_problem_needs_442_positions():
    """Prompt 64, 64 new tokens, 10 steps, no end token, uniform cuts, early rejection off: the
    floor is 64 + 63 + 10 * 63 / 2.
    """
    model = Chatter()
    random = generator("prompts")
    prompts = [random.integers(0, 12, 64).tolist() for _ in range(400)]
    settings = PowerSettings(
        alpha=4.0, num_steps=10, temperature=0.7, top_k=None, max_new_tokens=64
    )
    results = sample(
        model, Batch(prompts, 0, "power", rows=64), replace(settings, early_rejection=False)
    )
    for result in results:
        assert result.positions == 64 + 63 + sum(63 - info.cut for info in result.infos)
    assert numpy.mean([result.positions for result in results]) <= 445
    assert not model.rows  # every row was given back


def test_positions_of_the_programs_are_the_work_of_the_model():
    toy = ToyModel()
    work = Work(toy)
    settings = PowerSettings(alpha=2.0, num_steps=5, temperature=1.0, top_k=None, max_new_tokens=4)
    programs = [
        Program(toy.prompt, settings.kernel(noise(0, "s", i)), noise(0, "s", i)) for i in range(50)
    ]
    results = serve(toy, programs, 8)
    assert 0 < work.positions == sum(r.positions for r in results)
    assert not toy.rows


def test_identical_prompts_are_prefilled_once():
    model = Chatter()
    answers = generate(
        model,
        Batch([[1, 2, 3], [4, 5]], 0, "s", copies=5, rows=4),
        Sampling(temperature=1.0, max_new_tokens=6),
    )
    assert model.prefilled == [[1, 2, 3], [4, 5]]
    assert [[c.positions for c in samples] for samples in answers] == [
        [3 + 5, 5, 5, 5, 5],
        [2 + 5, 5, 5, 5, 5],
    ]
    assert len({tuple(c.tokens) for c in answers[0]}) > 1
    assert not model.rows


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_the_batch_does_not_change_an_answer(batch_rows):
    """A queue longer than the batch, refills, tools: the same completions."""
    toy = ToyModel(5)
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    whole = generate(toy, Batch([toy.prompt] * 40, 0, "s", rows=40), sampling)
    parts = generate(toy, Batch([toy.prompt] * 40, 0, "s", rows=batch_rows), sampling)
    assert [c[0].tokens for c in whole] == [c[0].tokens for c in parts]
    assert any(any(c[0].forced) for c in whole)
    for (completion,) in whole:
        chosen = toy.model_positions(tuple(completion.tokens))
        assert [i for i, forced in enumerate(completion.forced) if not forced] == chosen
        assert completion.sum_log_p == pytest.approx(toy.log_p(tuple(completion.tokens)), abs=1e-12)


def test_examples_address_the_draws_not_their_place_in_the_list():
    toy = ToyModel(5)
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    everything = generate(toy, Batch([toy.prompt] * 6, 0, "s", copies=2), sampling)
    second_rank = generate(
        toy, Batch([toy.prompt] * 3, 0, "s", copies=2, examples=[1, 3, 5]), sampling
    )
    assert [[c.tokens for c in samples] for samples in second_rank] == [
        [c.tokens for c in everything[i]] for i in (1, 3, 5)
    ]


def test_the_first_state_of_a_chain_is_the_plain_sample():
    toy = ToyModel(5)
    plain = generate(
        toy, Batch([toy.prompt] * 20, 1, "s"), Sampling(temperature=0.7, top_k=3, max_new_tokens=5)
    )
    settings = PowerSettings(alpha=4.0, num_steps=2, temperature=0.7, top_k=3, max_new_tokens=5)
    assert [
        r.states[0].tokens for r in sample(toy, Batch([toy.prompt] * 20, 1, "s"), settings)
    ] == [c[0].tokens for c in plain]


def test_greedy_takes_the_most_likely_token():
    model = Chatter()
    tokens = generate(model, Batch([[0, 3]], 0, "s"), Sampling(temperature=0.0, max_new_tokens=5))[
        0
    ][0].tokens
    last = 3
    for token in tokens:
        assert token == int(model.table[last].argmax())
        last = token


def test_programs_of_different_settings_share_a_batch():
    model = Chatter()

    def one(temperature, top_k):
        sampling = Sampling(temperature=temperature, top_k=top_k, max_new_tokens=4)
        suffix = yield Decode(sampling=sampling, address=(0, 0), limit=4)
        # another top_k: its candidates were not kept
        other = replace(sampling, top_k=2)
        again = yield Decode(sampling=other, parent=suffix.handle, cut=2, address=(0, 1), limit=4)
        return suffix.tokens, again.tokens

    settings = [(0.0, None), (0.7, 3), (1.0, None), (1.5, 3)]
    together = serve(model, [Program([1, 2], one(*s), noise(0, "s", 0)) for s in settings], 4)
    alone = [serve(model, [Program([1, 2], one(*s), noise(0, "s", 0))], 1)[0] for s in settings]
    assert together == alone


def test_a_forced_output_is_cut_at_the_limit_and_finishes_the_completion():
    """The tool's output counts as tokens; at max_new_tokens it is cut, at an inner block boundary
    it is completed.
    """
    toy = ToyModel(4)

    def run(limit):
        sampling = Sampling(temperature=1.0, max_new_tokens=4)
        return (yield Decode(sampling=sampling, address=(0, 0), limit=limit))

    found = [
        serve(toy, [Program(toy.prompt, run(limit), noise(0, "x", i))], 1)[0]
        for i in range(200)
        for limit in (2, 4)
    ]
    for suffix in found:
        for i, (token, forced) in enumerate(zip(suffix.tokens, suffix.forced)):
            if token == TOOL and not forced:
                expected = list(tool_output(tuple(suffix.tokens[: i + 1])))[: 4 - i - 1]
                assert suffix.tokens[i + 1 : i + 3] == expected and all(
                    suffix.forced[i + 1 : i + 3]
                )
        assert suffix.ended == (suffix.tokens[-1] == 0)
    assert any(
        len(s.tokens) == 4 and len(s.forced) == 4 and s.forced[-1] and not s.forced[-2]
        for s in found
    )  # cut after one token
    assert any(
        len(s.tokens) == 3 and s.forced == [False, True, True] for s in found
    )  # completed past an inner limit of 2


def test_a_prompt_is_reported_once_its_samples_have_ended_in_their_order():
    toy = ToyModel()
    seen = []
    answers = generate(
        toy,
        Batch([toy.prompt] * 7, 0, "s", copies=3, rows=2),
        Sampling(temperature=1.0, max_new_tokens=4),
        lambda i, completions: seen.append((i, completions)),
    )
    assert (
        sorted(seen, key=lambda pair: pair[0]) == list(enumerate(answers)) and len(answers[0]) == 3
    )


def test_a_program_may_ask_for_nothing():
    def silent():
        return 5
        yield

    toy = ToyModel()
    assert serve(toy, [Program(toy.prompt, silent(), noise(0, "s", 0))], 2) == [5]
    assert serve(toy, [], 2) == [] and not toy.rows


def test_bad_numbers_are_refused():
    toy = ToyModel()
    with pytest.raises(UserError, match="batch_rows = 0"):
        serve(toy, [], 0)
    with pytest.raises(UserError, match="copies = 0"):
        generate(
            toy, Batch([toy.prompt], 0, "s", copies=0), Sampling(temperature=1, max_new_tokens=2)
        )
    with pytest.raises(UserError, match="max_new_tokens = 9"):
        generate(toy, Batch([toy.prompt], 0, "s"), Sampling(temperature=1, max_new_tokens=9))


@pytest.mark.parametrize("batch_rows", [2, 5, 64])
def test_programs_that_come_and_go_leave_no_row_and_change_no_answer(batch_rows):
    """Half of them are cancelled after some ticks, wherever they stand then: in the queue, at a
    prompt that others share, between two requests.
    """
    settings = PowerSettings(alpha=2.0, num_steps=6, temperature=1.0, top_k=6, max_new_tokens=9)
    prompts = [[1, 2, 3], [4, 5], [6]]

    def program(i):
        uniforms = noise(i, "s", 0)
        return Program(prompts[i % 3], settings.kernel(uniforms), uniforms)

    expected = [result.final.tokens for result in serve(Chatter(), [*map(program, range(40))], 8)]
    random, found = generator("come and go", batch_rows), {}
    model = Chatter()
    scheduler = Scheduler(model, batch_rows)
    tasks = {}
    for i in range(40):
        tasks[i] = scheduler.add(program(i), lambda result, i=i: found.update({i: result}))
        for _ in range(random.integers(4)):
            scheduler.tick()
        leaves = int(random.integers(i + 1))
        if leaves % 2 and leaves not in found and leaves in tasks:
            scheduler.cancel(tasks.pop(leaves))
    while scheduler.queue or scheduler.open:
        scheduler.tick()
    assert not model.rows and not scheduler.rows.prompts and not scheduler.rows.users
    assert len(tasks) < 40 and {i: result.final.tokens for i, result in found.items()} == {
        i: expected[i] for i in tasks
    }


def test_a_watch_sees_every_choice_and_ends_a_completion():
    """As the end token would: a chain neither goes on behind it nor gives it up."""
    toy, model = ToyModel(), Chatter()
    sampling = Sampling(temperature=1.0, max_new_tokens=9)
    seen = []

    def draw():
        suffix = yield Decode(sampling=sampling, address=(0, 0), limit=9)
        return suffix

    def watch(tokens, suffix):
        assert suffix.tokens == tokens and len(suffix.log_p) == len(tokens)
        seen.append(list(tokens))
        return len(tokens) == 4

    (found,) = serve(model, [Program([1], draw(), noise(0, "s", 0), watch)], 4)
    assert found.ended and len(found.tokens) == 4
    assert seen == [found.tokens[:n] for n in range(1, 5)]
    settings = PowerSettings(
        alpha=2.0, num_steps=9, temperature=1.0, top_k=None, max_new_tokens=4, num_blocks=2
    )
    uniforms = noise(0, "s", 1)
    stopped = Program(
        toy.prompt, settings.kernel(uniforms), uniforms, lambda tokens, _: tokens[-1] == 3
    )
    (chain,) = serve(toy, [stopped], 4)
    for state in chain.states:
        chosen = [token for token, forced in zip(state.tokens, state.forced) if not forced]
        assert 3 not in chosen[:-1] and (chosen[-1] in (0, 3)) == state.ended
