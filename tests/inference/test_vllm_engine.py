"""vLLM behind our samplers.

Without vLLM: its engine is a toy that forwards by a table, and every sampler's results equal the
scheduler's. With it (marked `vllm`): a published model in float32 on the processor, beside our
transformers engine.
"""

import copy
import importlib.util
import itertools
import types
from collections import Counter

import numpy
import published_model
import pytest
import torch
from toy import TOOL, ToyModel, tool_output

from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError
from nanolab.inference import vllm_engine
from nanolab.inference.hf_engine import HFLanguageModel, HFScorer
from nanolab.inference.proposal import Sampling
from nanolab.inference.vllm_draws import DRAWINGS, DrawingWorker, draw_rows
from nanolab.inference.vllm_engine import VLLMLanguageModel, VLLMScorer
from nanolab.inference.vllm_loading import load_engine
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_rollout import RolloutSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.settings.vllm_options import VLLMOptions


class TableEngine:
    """What our code asks of a vLLM engine, over the toy's table."""

    def __init__(self, toy):
        self.toy, self.running, self.forwarded = toy, {}, 0
        self.model_config = types.SimpleNamespace(
            max_model_len=toy.max_length, get_vocab_size=lambda: toy.vocab_size
        )

    def ask(self, text, drawing, tokens, stops=()):
        """In the place of `vllm_engine.ask`."""
        drawing.taken = []
        DRAWINGS[drawing.number] = drawing
        self.running[str(drawing.number)] = text, drawing, tokens, {*drawing.ends, *stops}
        return str(drawing.number)

    def step(self):
        """One token of every request."""
        running = dict(self.running)
        places = [(*text[1:], *drawing.taken) for text, drawing, _, _ in running.values()]
        logits = self.toy.table[[self.toy.number[place] for place in places]].clone()
        won = draw_rows(logits, {i: one for i, (_, one, _, _) in enumerate(running.values())})
        outputs = []
        for (name, (text, drawing, tokens, stops)), token in zip(
            running.items(), won.argmax(-1).tolist(), strict=True
        ):
            drawing.taken.append(token)
            finished = token in stops or len(drawing.taken) == tokens
            if finished:
                del self.running[name]
            facts = {"prompt_token_ids": text, "num_cached_tokens": len(text) - 1}
            outputs.append(types.SimpleNamespace(request_id=name, finished=finished, **facts))
        self.forwarded += len(running)
        return outputs

    def collective_rpc(self, method, args):
        return [getattr(DrawingWorker(), method)(*args)]

    def abort_request(self, names):
        for name in names:
            del self.running[name]

    def reset_prefix_cache(self):
        assert not self.running


@pytest.fixture
def table(monkeypatch):
    """The toy behind `VLLMLanguageModel`, with its tool."""
    toy = ToyModel()
    llm = TableEngine(toy)
    monkeypatch.setattr(vllm_engine, "ask", lambda llm, *arguments: llm.ask(*arguments))

    def output(tokenizer, tools, text, most):
        return list(tool_output(tuple(text[1:])))

    monkeypatch.setattr(vllm_engine, "tool_output", output)
    tokens = {"end_tokens": toy.end_tokens, "python_end": TOOL, "has_tools": True}
    return VLLMLanguageModel(llm, types.SimpleNamespace(**tokens), tools=object())


COMMON = {"alpha": 4.0, "max_new_tokens": 4}
SAMPLERS = {
    "power": PowerSettings(num_steps=12, restart_prob=0.3, temperature=0.7, **COMMON),
    "blocks": PowerSettings(num_steps=5, num_blocks=2, temperature=0.7, **COMMON),
    "truncated": PowerSettings(num_steps=12, temperature=1.0, **COMMON | {"top_k": 3}),
    "smc": SmcSettings(particles=6, stretch=1, ess_threshold=0.9, **COMMON),
    "rollout": RolloutSettings(candidates=3, rollouts=3, horizon=2, **COMMON),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_what_the_scheduler_draws(table, name):
    """Bit for bit, tools, early rejection and chosen first tokens included, in any batch."""
    settings, prompts = SAMPLERS[name], [ToyModel.prompt] * 20
    expected = sample(ToyModel(), Batch(prompts, 0, "toy", copies=2), settings)
    for rows in (1, 7, 64):
        found = sample(table, Batch(prompts, 0, "toy", copies=2, rows=rows), settings)
        for one, other in zip(found, expected, strict=True):
            assert one.final.columns == other.final.columns
            for ours, theirs in zip(one.infos, other.infos, strict=True):
                if name != "rollout":
                    assert ours[:2] == theirs[:2]
    assert any(TOOL in one.final.tokens for one in found)
    assert not DRAWINGS and not table.llm.running


def test_positions_are_what_the_engine_forwarded(table):
    """Of all programs together."""
    settings = SAMPLERS["power"]
    found = sample(table, Batch([ToyModel.prompt] * 9, 0, "toy"), settings)
    assert sum(result.positions for result in found) == table.llm.forwarded


def test_an_interruption_leaves_nothing_behind(table):
    """What was sent is aborted, and its records are forgotten."""

    def interrupt(number, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(table, Batch([ToyModel.prompt] * 9, 0, "toy"), SAMPLERS["power"], interrupt)
    assert not DRAWINGS and not table.llm.running


def test_longer_rows_than_the_engine_serves_are_refused():
    llm = TableEngine(ToyModel())
    tokenizer = types.SimpleNamespace(end_tokens=frozenset((0,)), has_tools=False)
    with pytest.raises(UserError, match=r"rows of 99 tokens .*which serves at most 5; lower"):
        VLLMLanguageModel(llm, tokenizer, max_length=99)


def with_vllm(test):
    """Marks a test that runs vLLM."""
    missing = importlib.util.find_spec("vllm") is None
    reason = "vLLM is not installed: make vllm"
    return pytest.mark.vllm(pytest.mark.skipif(missing, reason=reason)(test))


GREEDY = Sampling(temperature=0.0, max_new_tokens=8)
QUESTIONS = (
    "What is 7 plus 5?",
    "Name two primes.",
    "A hen lays 3 eggs a day. How many in 4 days?",
    "Spell cat.",
)


class EchoTools:
    """A tool whose output depends on the call, of several tokens."""

    def output(self, call):
        return f"{len(call)} letters"


@pytest.fixture(scope="module")
def engines():
    """(vLLM's model, ours, a tokenizer, prompts), both models in float32."""
    import transformers

    folder = published_model.folder()
    tokenizer = HFTokenizer(transformers.AutoTokenizer.from_pretrained(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = VLLMOptions(max_model_len=512, cpu_cache_gib=1)
    llm = load_engine(folder, options, "float32", 16, torch.device("cpu"))
    prompts = [tokenizer.render_prompt([{"role": "user", "content": text}]) for text in QUESTIONS]
    yield llm, model, tokenizer, prompts
    torch.distributed.destroy_process_group()  # vLLM's own, which other tests would find


def both(engines, tokenizer=None, tools=None):
    """The two models behind the samplers."""
    llm, model, own, _ = engines
    tokenizer = tokenizer or own
    yield VLLMLanguageModel(llm, tokenizer, tools)
    yield HFLanguageModel(model, tokenizer, tools, rows=8, max_length=256)


REAL = {
    "power": PowerSettings(num_steps=4, max_new_tokens=16, top_k=None, restart_prob=0.5),
    "blocks": PowerSettings(num_steps=2, num_blocks=2, max_new_tokens=16),
    "smc": SmcSettings(particles=3, max_new_tokens=12, stretch=4, ess_threshold=0.9),
    "rollout": RolloutSettings(candidates=2, rollouts=2, horizon=2, max_new_tokens=4),
}


@with_vllm
@pytest.mark.parametrize("name", REAL)
def test_chains_of_a_published_model_are_those_of_our_engine(engines, name):
    """All final states but one at most (a draw may lie within rounding of a boundary), and where
    they agree log p within 1e-4 nats a token.
    """
    prompts = engines[3]
    found = [sample(one, Batch(prompts, 0, "vllm"), REAL[name]) for one in both(engines)]
    equal = [pair for pair in zip(*found) if pair[0].final.tokens == pair[1].final.tokens]
    assert len(equal) >= len(prompts) - 1
    for mine, other in equal:
        assert numpy.allclose(mine.final.log_p, other.final.log_p, atol=1e-4)
        assert numpy.allclose(mine.final.log_q, other.final.log_q, atol=2e-4)


@with_vllm
def test_tools_are_run_and_their_output_forced(engines):
    """Ordinary tokens stand for the marks of a call: the prompts' last one opens it, and the one
    that is commonest in plain answers closes it.
    """
    prompts, tokenizer = engines[3], copy.copy(engines[2])
    plain = generate(next(both(engines)), Batch(prompts, 0, "s"), GREEDY)
    counts = Counter(token for (answer,) in plain for token in answer.tokens)
    tokenizer.python_start, tokenizer.python_end = prompts[0][-1], counts.most_common(1)[0][0]
    tokenizer.output_start, tokenizer.output_end = (tokenizer.encode(mark)[0] for mark in "()")
    tokenizer.has_tools = True
    settings = PowerSettings(num_steps=2, max_new_tokens=16, restart_prob=0.5)
    mine, other = (
        sample(one, Batch(prompts, 1, "tools"), settings)
        for one in both(engines, tokenizer, EchoTools())
    )
    assert sum(any(one.final.forced) for one in mine) >= 2
    equal = [a.final.columns[:2] == b.final.columns[:2] for a, b in zip(mine, other)]
    assert sum(equal) >= len(equal) - 1


@with_vllm
def test_early_rejection_decides_as_the_full_procedure(engines):
    decisions = []
    for early in (True, False):
        settings = PowerSettings(num_steps=5, max_new_tokens=16, early_rejection=early)
        chains = sample(next(both(engines)), Batch(engines[3], 2, "early"), settings)
        decisions.append([[info.accepted for info in chain.infos] for chain in chains])
        given_up = sum(info.early_rejected for chain in chains for info in chain.infos)
        assert (given_up > 0) == early
    assert decisions[0] == decisions[1]


@with_vllm
def test_greedy_answers_are_equal_and_prefixes_are_shared(engines):
    """A prompt's second completion does not forward the blocks that the first one did."""
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    long = [prompt * 3 for prompt in engines[3]]
    mine, other = (
        generate(one, Batch(long, 0, "greedy", copies=2), sampling) for one in both(engines)
    )
    pairs = list(zip(itertools.chain(*mine), itertools.chain(*other), strict=True))
    assert sum(a.tokens == b.tokens for a, b in pairs) >= len(pairs) - 2
    for prompt, (first, second) in zip(long, mine, strict=True):
        alone = len(prompt) + len(first.tokens) - 1
        assert first.positions == alone and second.positions < alone


@with_vllm
def test_scores_are_those_of_a_full_forward(engines):
    """Of spans, whether they are the greedy ones, and of every next token."""
    llm, model, _, prompts = engines
    rows = [[*prompt, *range(100, 108)] for prompt in prompts]
    rows.append(generate(next(both(engines)), Batch(prompts[:1], 0, "s"), GREEDY)[0][0].tokens)
    rows[-1] = [*prompts[0], *rows[-1]]
    spans = [(len(prompt), len(row)) for prompt, row in zip([*prompts, prompts[0]], rows)]
    mine, other = VLLMScorer(llm).score(rows, spans), HFScorer(model).score(rows, spans)
    for one, reference in zip(mine, other, strict=True):
        assert numpy.allclose(one.per_token, reference.per_token, atol=1e-4)
        assert one.greedy == reference.greedy
    assert mine[-1].greedy
    found = VLLMScorer(llm).next_logits(rows)
    expected = HFScorer(model).next_logits(rows).log_softmax(-1)
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3)
    with pytest.raises(UserError, match="row 0 to score has 600 tokens, more than the 511"):
        VLLMScorer(llm).score([[5] * 600], [(1, 2)])


@with_vllm
def test_what_vllm_cannot_serve_is_one_line(engines, tmp_path):
    """An architecture that it does not know, and a context beyond the model's."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["NoSuch"]}')
    folder = published_model.folder()
    for place, options in ((tmp_path, {}), (folder, {"max_model_len": 10**7})):
        with pytest.raises(UserError, match="vLLM cannot serve") as caught:
            load_engine(place, VLLMOptions(**options), "float32", 4, torch.device("cpu"))
        assert "\n" not in str(caught.value)
