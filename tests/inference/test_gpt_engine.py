"""The GPT behind the protocols: the cache changes nothing, tools are forced in, a chain does not
depend on its batch.
"""

import copy

import numpy
import pytest
import torch
from fake_graphs import captured_graphs, graphed  # noqa: F401  (a fixture)
from small_models import (
    TOKENIZER,
    EchoTools,
    language_model,
    prompts,
    rescored,
    tiny,
)

from nanolab.errors import UserError
from nanolab.inference import decode, gpt_engine, kernels, kv_cache
from nanolab.inference.gpt_engine import GPTLanguageModel, GPTScorer
from nanolab.inference.proposal import Sampling
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.seeds import generator

LIMIT = 40


@pytest.fixture(scope="module", params=[4, 2], ids=["all heads", "grouped"])
def model(request):
    return tiny(request.param)


def settings_of(**changes):
    return PowerSettings(
        **{
            **dict(
                alpha=4.0,
                num_steps=4,
                temperature=0.7,
                top_k=50,
                max_new_tokens=LIMIT,
                restart_prob=0.3,
            ),
            **changes,
        }
    )


@pytest.mark.parametrize("top_k", [50, None])
def test_recorded_log_p_and_log_q_equal_a_full_forward(model, top_k):
    """After prefill, ragged cuts, forks, forced outputs, early stops and two blocks: every state of
    every chain, to 1e-5.
    """
    questions = prompts(12)
    results = sample(
        language_model(model),
        Batch(questions, 0, "power", rows=5),
        settings_of(top_k=top_k, num_blocks=2),
    )
    states = [(questions[r.problem], state) for r in results for state in r.states]
    assert any(any(state.forced) for _, state in states) and any(state.ended for _, state in states)
    for prompt, state in states:
        log_p, log_q = rescored(model, prompt, state, 0.7, top_k)
        chosen = [i for i, forced in enumerate(state.forced) if not forced]
        assert numpy.abs(log_p - numpy.array(state.log_p)[chosen]).max() < 1e-5
        assert numpy.abs(log_q - numpy.array(state.log_q)[chosen]).max() < 1e-5


def full_logits(model, tokens):
    with torch.no_grad():
        return model.logits(model.trunk(torch.tensor([tokens])))[0, -1]


def test_cached_decode_equals_the_full_forward(model):
    lm, questions = language_model(model), prompts(5)
    rows = lm.prefill(questions)
    texts = [prompt[:-1] for prompt in questions]
    steps = [
        [prompt[-1:] for prompt in questions],
        [[1], [2, 3, 4], [5], [6, 7], [8]],
        [[9], [9], [9, 10], [9], [9]],
    ]
    for tokens in steps:
        logits = lm.decode(rows, tokens)
        texts = [text + more for text, more in zip(texts, tokens)]
        for found, text in zip(logits, texts):
            assert torch.allclose(found, full_logits(model, text), atol=1e-5)


def test_a_batch_of_eight_equals_eight_single_rows(model):
    questions = prompts(8)
    together = generate(
        language_model(model),
        Batch(questions, 0, "s"),
        Sampling(temperature=1.0, max_new_tokens=LIMIT),
    )
    for i, question in enumerate(questions):
        alone = generate(
            language_model(model),
            Batch([question], 0, "s", examples=[i]),
            Sampling(temperature=1.0, max_new_tokens=LIMIT),
        )[0][0]
        assert alone.tokens == together[i][0].tokens and alone.forced == together[i][0].forced
        assert numpy.abs(numpy.array(alone.log_p) - together[i][0].log_p).max() < 1e-5


def test_fork_then_decode_equals_a_fresh_prefill(model):
    lm = language_model(model)
    text = list(range(60, 90))
    row, other = lm.prefill([[*text, 0], [1, 2, 3]])
    child, again = lm.fork([-1, -1], [row, row], [20, 11])
    lm.fork([other], [row], [15])
    lm.decode([row], [[7]])
    logits = lm.decode([other, child, again], [[5], [5, 6], [5]])
    for found, tokens in zip(logits, [[*text[:15], 5], [*text[:20], 5, 6], [*text[:11], 5]]):
        assert torch.allclose(found, full_logits(model, tokens), atol=1e-5)
        fresh = language_model(model)
        assert torch.allclose(
            found, fresh.decode(fresh.prefill([tokens]), [tokens[-1:]])[0], atol=1e-5
        )
    assert lm.fork([row], [row], [4]) == [row] and lm.tokens[row] == text[:4]
    assert torch.allclose(lm.decode([row], [[8]])[0], full_logits(model, [*text[:4], 8]), atol=1e-5)


def test_a_chain_alone_takes_the_decisions_of_the_chain_in_a_batch_of_64(model):
    """float32 on CPU: the same tokens and decisions (the numbers were measured to agree bitwise;
    here to rounding).
    """
    questions = prompts(64, 30)
    together = sample(language_model(model), Batch(questions, 0, "power", rows=64), settings_of())
    for i in (0, 9, 33, 63):
        (alone,) = sample(
            language_model(model), Batch([questions[i]], 0, "power", examples=[i]), settings_of()
        )
        assert [info.accepted for info in alone.infos] == [
            info.accepted for info in together[i].infos
        ]
        assert [state.tokens for state in alone.states] == [
            state.tokens for state in together[i].states
        ]
        assert [info.log_ratio for info in alone.infos] == pytest.approx(
            [info.log_ratio for info in together[i].infos], abs=1e-4
        )


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("width", [64, 96])
def test_logits_are_bitwise_the_same_in_any_batch(width, fused, monkeypatch):
    """float32 on CPU, heads of 32 dimensions: prefill, decode, forks and forced outputs, alone and
    among others.
    """
    if fused and kernels.library()[0] is None:
        pytest.skip(kernels.status())
    monkeypatch.setattr(kernels, "usable", lambda *_: fused)
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 128, 2, width, width // 32, width // 32))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    texts, random = prompts(70, 60), generator("work")
    work = [
        [random.integers(0, 256, random.choice([1, 1, 4])).tolist() for _ in texts]
        for _ in range(6)
    ]

    def run(chosen):
        lm = language_model(model)
        rows, found = lm.prefill([texts[i] for i in chosen]), []
        for turn, more in enumerate(work):
            found.append(
                lm.decode(
                    rows, [(texts[i][-1:] if turn == 0 else []) + more[i] for i in chosen]
                ).clone()
            )
            if turn == 3:  # every row lives on in a child that forgets two tokens
                rows = lm.fork([-1] * len(rows), rows, [lm.cache.lengths[row] - 2 for row in rows])
        return torch.stack(found, 1)

    together = run(range(70))
    for chosen in ([0], [69], [3, 4], list(range(20, 29)), list(range(5, 45))):
        assert torch.equal(run(chosen), together[chosen])


def test_shapes_of_graphs_change_nothing(model):
    """The rows and lengths that CUDA graphs are made for, run plainly: the logits of the usual
    shapes, to 1e-5.
    """
    questions = prompts(20, 60)
    usual, graphs = language_model(model), language_model(model)
    graphs.shape = decode.graph_shape
    for lm in (usual, graphs):
        lm.rows = lm.prefill(questions)
    for turn in range(30):
        tokens = [
            question[-1:] if turn == 0 else [turn, 7] if turn % 9 == i % 9 else [turn]
            for i, question in enumerate(questions)
        ]
        expected, found = (lm.decode(lm.rows, tokens) for lm in (usual, graphs))
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
        if turn == 12:
            for lm in (usual, graphs):
                lm.rows = lm.fork(
                    [-1] * 20, lm.rows, [lm.cache.lengths[row] - 5 for row in lm.rows]
                )


def test_a_step_can_be_captured(model):
    """One graph without a break, that gives the same numbers: nothing in it depends on what the
    tensors hold.
    """
    lm = language_model(model)
    rows = lm.prefill(prompts(8))
    arguments = (
        lm.cache.store,
        decode.rotary_tables(model, lm.cache.length + 1),
        torch.arange(8),
        torch.arange(8),
    )
    places = torch.tensor([lm.cache.lengths[row] for row in sorted(rows, key=lm.cache.slots.get)])
    with torch.no_grad():
        tokens = decode.Tokens(*arguments, places, 8, 48)
        expected = decode.step(model, tokens)
        found = torch.compile(decode.step, backend="eager", fullgraph=True)(model, tokens)
    assert torch.allclose(found, expected, atol=1e-5)


def test_bfloat16_decoding_is_close_to_float32(model):
    exact, coarse = language_model(model), language_model(copy.deepcopy(model).to(torch.bfloat16))
    questions = prompts(9)
    assert coarse.cache.store.dtype == torch.bfloat16
    rows = [lm.prefill(questions) for lm in (exact, coarse)]
    for tokens in ([question[-1:] for question in questions], [[1, 2, 3]] * 9, [[9]] * 9):
        expected, found = exact.decode(rows[0], tokens), coarse.decode(rows[1], tokens)
        assert found.dtype == torch.float32
        assert (
            float((found - expected).abs().mean()) < 0.02 * float(expected.std())
            and torch.isfinite(found).all()
        )


def test_a_trained_model_is_decoded_with_its_new_weights(model):
    """In place, as an optimizer does, and between rows of one language model."""
    trained = copy.deepcopy(model)
    lm = language_model(trained)
    before = lm.decode(lm.prefill([[1, 2, 3]]), [[3]])[0]
    with torch.no_grad():
        torch._foreach_mul_(list(trained.parameters()), 1.1)
    after = lm.decode(lm.prefill([[1, 2, 3]]), [[3]])[0]
    assert torch.allclose(after, full_logits(trained, [1, 2, 3]), atol=1e-5) and not torch.allclose(
        after, before, atol=1e-2
    )


def test_early_rejection_makes_the_same_decisions(model):
    questions = prompts(20)
    fast, full = (
        sample(language_model(model), Batch(questions, 0, "power"), settings_of(early_rejection=on))
        for on in (True, False)
    )
    assert [r.final.tokens for r in fast] == [r.final.tokens for r in full]
    assert [[i.accepted for i in r.infos] for r in fast] == [
        [i.accepted for i in r.infos] for r in full
    ]


def test_tool_output_is_forced_in_and_cut(model):
    """Between its marks, of at most tool_max_output_tokens tokens, as a function of the call's
    text.
    """
    lm = language_model(model, tool_max_output_tokens=1)
    call = TOKENIZER.encode("1+1")
    (row,) = lm.prefill([[5, TOKENIZER.python_start, *call, 0]])
    assert lm.forced(row, TOKENIZER.python_end) == [
        TOKENIZER.output_start,
        *TOKENIZER.encode("3"),
        TOKENIZER.output_end,
    ]
    assert lm.forced(row, 7) == []
    (row,) = lm.prefill([[5, *call, 0]])
    assert lm.forced(row, TOKENIZER.python_end) == []  # no call was opened
    assert GPTLanguageModel(model, TOKENIZER, None).forced(row, TOKENIZER.python_end) == []

    answers = generate(
        language_model(model),
        Batch(prompts(40), 0, "s"),
        Sampling(temperature=1.0, max_new_tokens=LIMIT),
    )
    completions = [completion for (completion,) in answers]
    calls = 0
    for completion in completions:
        assert len(completion.tokens) <= LIMIT
        for i, forced in enumerate(completion.forced):
            if forced and not completion.forced[i - 1]:
                start = max(j for j in range(i) if completion.tokens[j] == TOKENIZER.python_start)
                call = TOKENIZER.decode(
                    [t for t in completion.tokens[start + 1 : i - 1] if t < 256]
                )
                expected = [
                    TOKENIZER.output_start,
                    *TOKENIZER.encode(EchoTools().output(call)),
                    TOKENIZER.output_end,
                ][: LIMIT - i]
                assert completion.tokens[i : i + len(expected)] == expected and all(
                    completion.forced[i : i + len(expected)]
                )
                calls += 1
    assert calls > 3


def test_rows_and_length_grow_beyond_the_first_allocation(model, monkeypatch):
    monkeypatch.setattr(kv_cache, "FIRST_BYTES", 100_000)
    lm = language_model(model, rows=2)
    assert lm.cache.length < 80 and len(lm.cache.free) == 8
    answers = generate(
        lm, Batch(prompts(70), 0, "s", rows=64), Sampling(temperature=0.0, max_new_tokens=LIMIT)
    )
    assert len(answers) == 70 and not lm.tokens and not lm.cache.slots


def test_scores_equal_the_plain_computation(model):
    scorer, random = GPTScorer(model), generator("score")
    ids = [random.integers(0, 256, n).tolist() for n in (5, 40, 9, 60, 2, 33)]
    spans = [(1, 5), (30, 40), (3, 3), (1, 60), (1, 2), (32, 33)]
    for row, (start, end), score in zip(ids, spans, scorer.score(ids, spans)):
        with torch.no_grad():
            logits = model.logits(model.trunk(torch.tensor([row])))[0]
        expected = [float(torch.log_softmax(logits[i - 1], -1)[row[i]]) for i in range(start, end)]
        assert score.per_token == pytest.approx(
            expected, abs=1e-5
        ) and score.log_p == pytest.approx(sum(expected), abs=1e-4)
        assert score.greedy == all(int(logits[i - 1].argmax()) == row[i] for i in range(start, end))
    found = scorer.next_logits(ids)
    assert found.shape == (6, TOKENIZER.vocab_size) and found.dtype == torch.float32
    for row, logits in zip(ids, found):
        assert torch.allclose(logits, full_logits(model, row), atol=1e-5)


def test_rows_of_one_example_share_their_beginning_and_nothing_is_forwarded_in_vain(model):
    """Scores as of rows of their own, to 1e-5 nats; the positions are the shared tokens, then what
    each row has before its last token.
    """
    random = generator("shared")
    text, other = random.integers(0, 256, 50).tolist(), random.integers(0, 256, 11).tolist()
    rows = [
        [*text, 1, 2, 3],
        [*text, 4],
        [*text, 1, 2, 3],
        [*text, 1, 9, 9, 9],
        other,
        [*text[:20], 7, 8],
        [*text[:20], 9, 8],
    ]
    spans = [(50, 53), (50, 51), (50, 53), (50, 54), (3, 7), (21, 22), (21, 22)]
    scorer, plain = GPTScorer(model), GPTScorer(model)
    found, expected = scorer.score(rows, spans, [4, 1, 2]), plain.score(rows, spans)
    for score, own in zip(found, expected, strict=True):
        assert (
            score.per_token == pytest.approx(own.per_token, abs=1e-5) and score.greedy == own.greedy
        )
    assert found[0] == found[2]  # equal rows are forwarded once, so that a tie is one
    assert scorer.positions == (50 + 2 + 0 + 3) + 6 + (20 + 1 + 1) and plain.positions == sum(
        end - 1 for _, end in spans
    )


def test_scores_do_not_depend_on_what_else_is_scored(model, monkeypatch):
    """Alone, in another order, in forwards of any size."""
    random = generator("company")
    rows = [random.integers(0, 256, random.integers(2, 90)).tolist() for _ in range(40)]
    spans = [(max(1, len(row) - 4), len(row)) for row in rows]
    together = GPTScorer(model).score(rows, spans)
    for limit in (1, 100, 10_000):
        monkeypatch.setitem(gpt_engine.SCORE_TOKENS, "cpu", limit)
        for score, own in zip(
            GPTScorer(model).score(rows[::-1], spans[::-1])[::-1], together, strict=True
        ):
            assert score.per_token == pytest.approx(own.per_token, abs=1e-5)


def test_bad_input_gets_one_line(model):
    with pytest.raises(UserError, match="tokenizer has 264 tokens and the model 265"):
        GPTLanguageModel(model, type("Short", (), {"vocab_size": 264})())
    with pytest.raises(UserError, match="prompt 0 has 30 tokens and max_new_tokens = 100"):
        generate(
            language_model(model),
            Batch([[1] * 30], 0, "s"),
            Sampling(temperature=1.0, max_new_tokens=100),
        )
    with pytest.raises(UserError, match=r"span 0 = \(0, 2\)"):
        GPTScorer(model).score([[1, 2, 3]], [(0, 2)])
    with pytest.raises(UserError, match="row 1 to score is empty"):
        GPTScorer(model).next_logits([[1], []])


def test_logits_that_are_not_numbers_stop_the_run():
    broken = tiny()
    with torch.no_grad():
        broken.head.weight[3, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        generate(
            language_model(broken),
            Batch(prompts(3), 0, "s"),
            Sampling(temperature=1.0, max_new_tokens=4),
        )


def test_decoding_with_graphs_is_decoding_without(model, graphs):
    """Ragged cuts, forced outputs, a cache that outgrows its slots and a longer bucket: the same
    draws, and no graph in vain.
    """
    questions = prompts(24, 60)
    plain, captured = (
        GPTLanguageModel(model, TOKENIZER, EchoTools(), rows=2, max_length=128) for _ in range(2)
    )
    expected, found = (
        sample(lm, Batch(questions, 0, "power", rows=12), settings_of())
        for lm in (plain, graphed(captured))
    )
    assert [[state.tokens for state in result.states] for result in found] == [
        [s.tokens for s in result.states] for result in expected
    ]
    assert [[i.accepted for i in result.infos] for result in found] == [
        [i.accepted for i in result.infos] for result in expected
    ]
    assert (
        4 <= len(graphs) <= 30
    )  # rows in powers of two, lengths in multiples of 64, twice or thrice as the cache grows
    assert (
        captured.cache.length >= 128
    )  # what the last positions' step reads was there from the start


@pytest.mark.parametrize("shape", [decode.padded_shape, decode.graph_shape])
def test_the_last_tokens_of_a_row_do_not_make_the_cache_grow(model, shape, monkeypatch):
    """A step reads a rounded length: 16s, or 64s where it is a graph."""
    monkeypatch.setattr(gpt_engine, "padded_shape", shape)
    lm = language_model(model, max_length=112)
    (row,) = lm.prefill([list(range(111))])
    store = lm.cache.store
    lm.decode([row], [[1]])
    assert lm.cache.store is store
