"""Hugging Face models behind the protocols: the cache changes nothing, chains are exact, the stages
run, mistakes are one line.

Two architectures of random weights, written with a byte tokenizer by save_pretrained; nothing is
downloaded.
"""

import dataclasses
import json
import shutil
import sys
import time

import numpy
import published_model
import pytest
import torch
import transformers
from small_models import log_p_log_q
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tokens import chat, hf_tokenizer
from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.inference import hf_engine, hf_loading, hf_scorer
from nanolab.inference.proposal import Sampling
from nanolab.plan import steps as plan
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.seeds import generator
from nanolab.settings import model_source
from nanolab.settings.config import ChatEvalConfig, Job, PowerEvalConfig, StudyConfig
from nanolab.settings.study_file import study_from_dict
from nanolab.stages import chat_eval, power_eval
from nanolab.tracking.journal import NullRun

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
LIMIT, CONTEXT = 40, 700
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt"
    " %}<|assistant|>{% endif %}"
)


class EchoTools:
    """A tool whose output depends on the call, of several tokens."""

    def output(self, call):
        return f"{len(call)}!"


def byte_tokenizer(tools=True, eos="<|end|>", template=None):
    """A byte-level tokenizer, as a model of the hub would bring it."""
    inner = Tokenizer(
        models.BPE(
            vocab={
                letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
            },
            merges=[],
        )
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                *(hf_tokenizer.TOOL_TOKENS if tools else ()),
                "<|user|>",
                "<|assistant|>",
            ]
        }
    )
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = HFTokenizer(byte_tokenizer())
PADDED = 272  # tokens of the models, more than the tokenizer has


def tiny(name, **changes):
    """A model of random weights that likes to call the tool and to end."""
    torch.manual_seed(0)
    shared = dict(
        vocab_size=PADDED,
        bos_token_id=None,
        eos_token_id=TOKENIZER.assistant_end,
        tie_word_embeddings=False,
    )
    if name == "llama":  # rotary positions, grouped heads
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **{
                    **shared,
                    **dict(
                        hidden_size=32,
                        intermediate_size=64,
                        num_hidden_layers=2,
                        num_attention_heads=4,
                        num_key_value_heads=2,
                        max_position_embeddings=CONTEXT,
                    ),
                    **changes,
                }
            )
        )
    else:  # learned positions
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                **{**shared, **dict(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT), **changes}
            )
        )
    for weight in (p for p in model.parameters() if p.ndim == 2):
        torch.nn.init.normal_(weight, std=1.2 * 32**-0.5)
    with torch.no_grad():
        for token in (TOKENIZER.python_start, TOKENIZER.python_end, TOKENIZER.assistant_end):
            model.lm_head.weight[token : token + 1] *= 4
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return tiny(request.param)


@pytest.fixture
def folder(tmp_path):
    """A model folder: Llama with a tokenizer without tool tokens."""
    tiny("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer(tools=False).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def language_model(model, **changes):
    return hf_engine.HFLanguageModel(
        model, TOKENIZER, EchoTools(), **{"rows": 8, "max_length": 100, **changes}
    )


def prompts(count, longest=40):
    random = generator("prompts", count)
    return [random.integers(0, 256, random.integers(1, longest)).tolist() for _ in range(count)]


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


def all_logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def test_cached_decode_equals_the_full_forward(model):
    """Rows of different lengths, ragged tokens, copies, swaps and rewinds, rows decoded in any
    order and in part.
    """
    lm, questions = language_model(model), prompts(5)
    rows, texts = lm.prefill(questions), [prompt[:-1] for prompt in questions]

    def check(chosen, steps):
        logits = lm.decode([rows[i] for i in chosen], steps)
        assert logits.shape == (len(chosen), PADDED) and logits.dtype == torch.float32
        for i, more, found in zip(chosen, steps, logits):
            texts[i] = texts[i] + more
            assert torch.allclose(found, all_logits(model, texts[i])[-1], atol=1e-4), (i, more)

    check(range(5), [prompt[-1:] for prompt in questions])
    check(range(5), [[1], [2, 3, 4], [5], [6, 7], [8]])
    check([3, 0], [[9, 10], [9]])
    rows.append(lm.fork([-1], [rows[1]], [len(texts[1]) - 2])[0])  # a copy that is cut
    texts.append(texts[1][:-2])
    check([5, 1, 2], [[11], [12], [13, 14]])
    lengths = [len(texts[4]) - 1, 2 if len(texts[0]) > 2 else 1]
    lm.fork([rows[4], rows[0]], [rows[4], rows[0]], lengths)  # rewound
    texts[4], texts[0] = texts[4][: lengths[0]], texts[0][: lengths[1]]
    lm.fork(
        [rows[2], rows[3]], [rows[5], -1], [len(texts[5]), 0]
    )  # one overwritten, one given back
    texts[2] = texts[5]
    check([0, 1, 2, 4, 5], [[20], [21, 22], [23], [24], [25]])
    check([2, 5], [[26], [27]])


def test_rows_grow_beyond_the_first_allocation_up_to_the_context(model):
    lm = language_model(model, rows=2, max_length=None)
    text = generator("long").integers(0, 256, CONTEXT).tolist()
    rows = lm.prefill([text, *prompts(40)])
    assert torch.allclose(
        lm.decode(rows[:1], [text[-1:]])[0], all_logits(model, text)[-1], atol=1e-4
    )
    with pytest.raises(UserError, match=f"a row of {CONTEXT + 1} tokens does not fit"):
        lm.decode(rows[:1], [[1]])


@pytest.mark.parametrize("top_k", [50, None])
def test_recorded_log_p_and_log_q_equal_a_full_forward(model, top_k):
    """After ragged cuts, forks, forced outputs and two blocks: every state of every chain."""
    questions = prompts(12)
    results = sample(
        language_model(model),
        Batch(questions, 0, "power", rows=5),
        settings_of(top_k=top_k, num_blocks=2),
    )
    states = [(questions[r.problem], state) for r in results for state in r.states]
    assert any(any(state.forced) for _, state in states) and any(state.ended for _, state in states)
    for prompt, state in states:
        logits = all_logits(model, prompt + state.tokens)[len(prompt) - 1 : -1]
        log_p, log_q, _ = log_p_log_q(logits, state.tokens, 0.7, top_k)
        chosen = [not forced for forced in state.forced]
        assert numpy.abs(log_p[chosen] - numpy.array(state.log_p)[chosen]).max() < 1e-4
        assert numpy.abs(log_q[chosen] - numpy.array(state.log_q)[chosen]).max() < 1e-4


def test_a_chain_alone_and_among_others_takes_the_same_decisions(model):
    questions = prompts(24)
    together = sample(language_model(model), Batch(questions, 0, "power", rows=24), settings_of())
    for i in (0, 7, 23):
        (alone,) = sample(
            language_model(model),
            Batch(questions[i : i + 1], 0, "power", rows=1, examples=[i]),
            settings_of(),
        )
        assert [state.tokens for state in alone.states] == [
            state.tokens for state in together[i].states
        ]
        assert [info.accepted for info in alone.infos] == [
            info.accepted for info in together[i].infos
        ]


def test_a_row_alone_equals_the_row_among_others(model):
    """In tokens, and in log p to 1e-4: alone, with rows of its own length, among all."""
    questions = [*prompts(10), [5, 6, 7], [8, 9, 10]]
    sampling = Sampling(temperature=0.7, top_k=50, max_new_tokens=LIMIT)

    def drawn(chosen):
        batch = Batch([questions[i] for i in chosen], 0, "rows", examples=chosen)
        return [completions[0] for completions in generate(language_model(model), batch, sampling)]

    together = drawn([*range(12)])
    for chosen in ([3], [10], [10, 11], [2, 7, 11]):
        for i, alone in zip(chosen, drawn(chosen), strict=True):
            assert alone.tokens == together[i].tokens
            assert numpy.abs(numpy.subtract(alone.log_p, together[i].log_p)).max() < 1e-4


def test_the_cache_has_slots_for_what_lives_and_memory_for_what_is_written(model):
    """Slots: what was asked for at first, or half more than ever lived at once, and 8. Growth
    writes nothing where no row lies.
    """
    lm, most = language_model(model, rows=4, max_length=None), 0

    def watched(rows, tokens, decode=lm.decode):
        nonlocal most
        most = max(most, len(lm.cache.slots))
        assert lm.cache.store.shape[2] <= max(8, 1.5 * most + 8)
        return decode(rows, tokens)

    lm.decode = watched
    sample(lm, Batch(prompts(30), 0, "power", rows=30), settings_of())
    assert most > 30 and not lm.cache.slots
    (row,) = lm.prefill([[1] * 20])
    lm.cache.reserve(CONTEXT + 100)
    written = lm.cache.store.abs().amax((0, 1, 3, 5)) > 0  # (slots, positions)
    assert int(written.sum()) == int(written[lm.cache.slots[row], :19].sum()) == 19


@pytest.mark.parametrize(
    "changes", [{"attn_implementation": "eager"}, {"dtype": "bfloat16"}], ids=str
)
def test_other_attentions_and_dtypes_are_served(changes):
    """Rows of equal and of different lengths, and a forced output, against full forwards: what the
    check of a loaded model tolerates.
    """
    model = tiny("llama", **{"attn_implementation": "sdpa", **changes})
    model.to(getattr(torch, changes.get("dtype", "float32")))
    lm, scorer = language_model(model), hf_engine.HFScorer(model)
    texts = [[1, 2, 3], [9, 8, 7], [5] * 10]
    rows = lm.prefill([[*text, 4] for text in texts])
    for chosen, more in (([0, 1], [[4], [6]]), ([0, 1, 2], [[7], [8, 9, 3], [5]])):
        found = lm.decode([rows[i] for i in chosen], more)
        for i, tokens in zip(chosen, more, strict=True):
            texts[i] = texts[i] + tokens
        expected = scorer.next_logits([texts[i] for i in chosen])
        share = float((found - expected).square().mean().sqrt() / expected.std())
        assert share < (0.1 if model.dtype == torch.bfloat16 else 1e-4)
    assert model.config._attn_implementation == changes.get("attn_implementation", "sdpa")


def test_early_rejection_makes_the_same_decisions(model):
    questions = prompts(16)
    fast, full = (
        sample(language_model(model), Batch(questions, 0, "power"), settings_of(early_rejection=on))
        for on in (True, False)
    )
    assert [r.final.tokens for r in fast] == [r.final.tokens for r in full]
    assert [[i.accepted for i in r.infos] for r in fast] == [
        [i.accepted for i in r.infos] for r in full
    ]
    assert sum(r.positions for r in fast) < sum(r.positions for r in full)


def test_scores_equal_torch_log_softmax(model):
    scorer, random = hf_engine.HFScorer(model), generator("score")
    ids = [random.integers(0, 256, n).tolist() for n in (5, 40, 9, 60, 2, CONTEXT)]
    spans = [(1, 5), (30, 40), (3, 3), (1, 60), (1, 2), (CONTEXT - 2, CONTEXT)]
    for row, (start, end), score in zip(ids, spans, scorer.score(ids, spans)):
        logits = all_logits(model, row)
        expected = [float(torch.log_softmax(logits[i - 1], -1)[row[i]]) for i in range(start, end)]
        assert score.per_token == pytest.approx(
            expected, abs=1e-4
        ) and score.log_p == pytest.approx(sum(expected), abs=1e-3)
        assert score.greedy == all(int(logits[i - 1].argmax()) == row[i] for i in range(start, end))
    for row, logits in zip(ids, scorer.next_logits(ids), strict=True):
        assert torch.allclose(logits, all_logits(model, row)[-1], atol=1e-4)


def test_rows_of_one_example_share_their_beginning(model, monkeypatch):
    """Scores as of full forwards, whatever goes into one forward; what is shared is forwarded once,
    and nothing after the last scored token.
    """
    random = generator("shared")
    text, other = random.integers(0, 256, 50).tolist(), random.integers(0, 256, 11).tolist()
    examples = [
        [[*text, 1, 2, 3], [*text, 4], [*text, 1, 2, 3], [*text, 1, 9, 9, 9]],
        [other],
        [[*text[:20], 7, 8], [*text[:20], 9, 8]],
        [[1, 2, 3, 4], [5, 2, 3, 4]],  # nothing in common
        [[*other, 3], [*other, 3, 4, 5]],  # one begins the other
        [[*text, *other], [*text[:9], *other]],
    ]
    rows = [row for example in examples for row in example]
    spans = [(50, len(row)) for row in examples[0]]
    spans += [(3, 7), (21, 22), (18, 22), (1, 4), (2, 4), (11, 12), (4, 14), (50, 61), (9, 20)]
    sizes = [len(example) for example in examples]
    found = []
    for limit in (1, 64, hf_scorer.SCORE_LOGITS // PADDED):
        monkeypatch.setattr(hf_scorer, "SCORE_LOGITS", limit * PADDED)
        scorer = hf_engine.HFScorer(model)
        found.append(scorer.score(rows, spans, sizes))
        shared = (50 + 2 + 0 + 3) + 6 + (20 + 1 + 1) + (3 + 3) + (11 + 0 + 2) + (9 + 51 + 10)
        assert scorer.positions == shared
    for row, (start, end), *scores in zip(rows, spans, *found, strict=True):
        logits = torch.log_softmax(all_logits(model, row), -1)
        expected = [float(logits[i - 1, row[i]]) for i in range(start, end)]
        greedy = all(int(logits[i - 1].argmax()) == row[i] for i in range(start, end))
        for score in scores:
            assert score.per_token == pytest.approx(expected, abs=1e-4)
            assert score.greedy == greedy


def test_tools_run_only_where_the_tokenizer_has_their_tokens(model):
    call = TOKENIZER.encode("1+1")
    lm = language_model(model, tool_max_output_tokens=1)
    (row,) = lm.prefill([[5, TOKENIZER.python_start, *call, 0]])
    assert lm.forced(row, TOKENIZER.python_end) == [
        TOKENIZER.output_start,
        *TOKENIZER.encode("3"),
        TOKENIZER.output_end,
    ]
    assert lm.forced(row, 7) == []
    bare = HFTokenizer(byte_tokenizer(tools=False))
    assert not bare.has_tools and hf_engine.HFLanguageModel(model, bare, EchoTools()).tools is None


def test_text_comes_back_and_special_tokens_stand_for_none():
    text = "Für 3 <|end|> ####  7\n\nx"
    assert TOKENIZER.decode(
        TOKENIZER.encode(text)
    ) == text and TOKENIZER.assistant_end not in TOKENIZER.encode(text)
    ids = [
        *TOKENIZER.encode("2+2 is "),
        TOKENIZER.python_start,
        *TOKENIZER.encode("2+2"),
        TOKENIZER.python_end,
        TOKENIZER.output_start,
        *TOKENIZER.encode("4"),
        TOKENIZER.output_end,
        PADDED - 1,
        *TOKENIZER.encode(" #### 4"),
        TOKENIZER.assistant_end,
        65,
    ]
    assert chat.completion_text(TOKENIZER, ids) == "2+2 is <<2+2=4>> #### 4"


NOTE = TASKS["gsm8k"].form.note


def test_a_prompt_is_the_models_own_template_or_plain_text():
    messages = TASKS["gsm8k"].messages({"question": "How many?", "answer": "2 #### 2"}, noted=True)
    plain, own = HFTokenizer(byte_tokenizer()), HFTokenizer(byte_tokenizer(template=TEMPLATE))
    assert (
        plain.plain
        and plain.decode(plain.render_prompt(messages)) == f"Question: How many?\n{NOTE}\nAnswer:"
    )
    assert not own.plain and plain.digest != own.digest
    user, assistant = own.special("<|user|>"), own.special("<|assistant|>")
    assert own.render_prompt(messages) == [user, *own.encode(f"How many?\n{NOTE}"), assistant]


POWER = PowerEvalConfig(
    num_steps=2, max_examples=4, max_new_tokens=8, best_of=2, batch_rows=8, particles=4
)


def run(stage, step, config, folder):
    folder.mkdir(exist_ok=True)
    return stage.run(Job(step, StudyConfig(), config, folder, {}), WORLD, NullRun()).flat()


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_the_stages_run_on_a_model_folder_and_resume(tmp_path, folder, template):
    byte_tokenizer(tools=False, template=template).save_pretrained(folder)
    config = dataclasses.replace(POWER, source=f"hf:{folder}")
    metrics = run(power_eval, "power_eval", config, tmp_path / "power")
    assert metrics["total"] == metrics["greedy/total"] == 4 and metrics["data"] == "embedded"
    assert metrics["best_of/positions_per_problem"] > metrics["plain/positions_per_problem"]
    assert len((tmp_path / "power" / "problems.jsonl").read_text().splitlines()) == 4
    assert run(power_eval, "power_eval", config, tmp_path / "power") == metrics
    config = ChatEvalConfig(
        source=f"hf:{folder}", max_examples=3, gsm8k_examples=None, max_new_tokens=8, num_samples=1
    )
    assert {"arc_easy", "mmlu", "gsm8k", "humaneval", "chat_core"} < set(
        run(chat_eval, "chat_eval_hf", config, tmp_path / "chat")
    )


def test_a_step_on_an_outside_model_reads_no_other_step_and_knows_the_models_files(
    monkeypatch, folder
):
    monkeypatch.setattr("nanolab.plan.fingerprint.code_hash", lambda module: "code")

    def mark(source, stage="power_eval"):
        study = study_from_dict({"base_train": {"steps": 1}, stage: {"source": source}})
        (step,) = plan.steps_of(stage, study)
        planned = plan.plan(study, [step])
        assert set(planned) == {step} and not planned[step].inputs
        return planned[step].fingerprint

    first = mark(f"hf:{folder}")
    assert (
        mark(f"hf:{folder}") == first
        and len({first, mark("hf:a/b"), mark("hf:a/b@1"), mark(f"hf:{folder}", "chat_eval")}) == 4
    )
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert mark(f"hf:{folder}") != first
    assert model_source.locate("hf:a/b@1", ROOT) == model_source.HubModel("a/b", "1")
    assert model_source.locate(f"hf:{folder.name}", folder.parent) == folder


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            "has no tokenizer_config.json",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "cannot be loaded"),
        (
            lambda folder: (
                byte_tokenizer(eos=None).save_pretrained(folder),
                edit(folder / "generation_config.json", eos_token_id=None),
                edit(folder / "config.json", eos_token_id=None),
            ),
            "no end-of-sequence token",
        ),
        (
            lambda folder: tiny("llama", vocab_size=258).save_pretrained(folder),
            "they do not belong together",
        ),
        (
            lambda folder: edit(folder / "config.json", num_hidden_layers=3),
            "has no fitting weights for",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_one_clear_line(folder, harm, words):
    harm(folder)
    with pytest.raises(UserError, match=words) as caught:
        hf_loading.load(f"hf:{folder}", WORLD.device)
    assert "\n" not in str(caught.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_hub_that_cannot_be_reached_is_said_within_seconds(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(
        UserError,
        match=(
            "cannot be reached; hf:nobody/nothing is neither a folder nor in the cache; give a"
            " folder"
        ),
    ):
        hf_loading.load("hf:nobody/nothing", WORLD.device)
    assert time.perf_counter() - started < 10


def test_without_transformers_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hf\]'"):
        hf_loading.load("hf:any/thing", WORLD.device)


def test_what_the_cache_cannot_serve_is_refused(model):
    with pytest.raises(UserError, match="rows of 701 tokens"):
        language_model(model, max_length=CONTEXT + 1)
    with pytest.raises(UserError, match=r"span 0 = \(0, 2\)"):
        hf_engine.HFScorer(model).score([[1, 2, 3]], [(0, 2)])
    with pytest.raises(UserError, match="row 1 to score is empty"):
        hf_engine.HFScorer(model).next_logits([[1], []])
    window = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=PADDED,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=500,
            sliding_window=48,
        )
    )
    hf_engine.check_cached_decoding(window, TOKENIZER)
    assert hf_engine.context_length(window) == 48  # so that the window never shows
    recurrent = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=PADDED, hidden_size=16, num_hidden_layers=1)
    )
    recurrent.config.max_position_embeddings = 64
    with pytest.raises(UserError, match="cannot be rewound"):
        hf_engine.check_cached_decoding(recurrent, TOKENIZER)


def test_a_model_that_ignores_positions_is_found_out_when_it_is_loaded(monkeypatch):
    """The check compares with full forwards: a model that numbers positions by itself does not pass
    it.
    """
    stubborn = tiny("gpt2")
    forward = stubborn.transformer.forward
    monkeypatch.setattr(
        stubborn.transformer,
        "forward",
        lambda *a, **given: forward(*a, **{**given, "position_ids": None}),
    )
    with pytest.raises(UserError, match="differ from those of a full forward"):
        hf_engine.check_cached_decoding(stubborn, TOKENIZER)


def test_a_published_model_answers_as_plain_transformers():
    """Greedy tokens of prompts of very different lengths in one batch are the most likely ones of
    full forwards, and the log p recorded is theirs to 1e-4.
    """
    model, tokenizer = hf_loading.load(f"hf:{published_model.folder()}", WORLD.device)
    lengths = [1, 2, 9, 40, 130, 300, 700]
    random = generator("published")
    questions = [random.integers(100, 40_000, length).tolist() for length in lengths]
    sampling = Sampling(temperature=0.0, top_k=None, max_new_tokens=32)
    lm = hf_engine.HFLanguageModel(model, tokenizer, max_length=800)
    for prompt, (answer,) in zip(questions, generate(lm, Batch(questions, 0, "s"), sampling)):
        whole = [*prompt, *answer.tokens]
        logits = all_logits(model, whole)[len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == answer.tokens
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
        assert numpy.abs(own.numpy() - numpy.array(answer.log_p)).max() < 1e-4
