"""A real model through the lab: ids, probabilities and greedy text are those of transformers, and
power sampling has the law that full forwards define.
"""

import itertools
from dataclasses import replace

import numpy
import pytest
import torch
from published_model import folder
from scipy.stats import chisquare

from nanolab.dist import World
from nanolab.evals.subject import outside_subject
from nanolab.inference import hf_engine
from nanolab.inference.proposal import Sampling
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.settings.config import ChatEvalConfig, Job, StudyConfig
from nanolab.stages import base_loss, chat_eval
from nanolab.tracking.journal import NullRun

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
SENTENCES = (
    "The river rises in the hills and runs to the sea. Every spring the farmers wait for it, and "
    "every autumn they watch it fall. Nobody has counted its fish, though many have tried. "
)
QUESTIONS = [
    "What is the capital of France?",
    "Name a colour.",
    "How many legs has a spider? Answer with the number alone.",
    "Write one short sentence about snow.",
]
ALPHA, TEMPERATURE, TOP_K, LENGTH = 2.0, 1.0, 2, 3
CHAINS, STEPS = 160, 8


@pytest.fixture(scope="module")
def subject():
    return outside_subject(f"hf:{folder()}", WORLD.device)


def chat(subject, text):
    return subject.render([{"role": "user", "content": text}])


def full_log_p(subject, ids):
    with torch.no_grad():
        logits = subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), -1)


def language_model(subject, rows, length):
    return hf_engine.HFLanguageModel(subject.model, subject.tokenizer, rows=rows, max_length=length)


def test_greedy_text_in_one_batch_equals_generate_prompt_by_prompt(subject):
    """Prompts of 10 to 300 tokens, twelve tokens each."""
    long = subject.tokenizer.encode(SENTENCES * 9)
    prompts = [chat(subject, text) for text in QUESTIONS] + [long[:n] for n in (10, 57, 131, 300)]
    model = language_model(subject, 8, 320)
    settings = Sampling(temperature=0.0, max_new_tokens=12)
    found = baselines.generate(model, Batch(prompts, 0, "test", rows=8), settings)
    for prompt, (draws,) in zip(prompts, found):
        ids = torch.tensor([prompt])
        expected = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert draws.tokens == expected[0, len(prompt) :].tolist()
        log_p = full_log_p(subject, prompt + draws.tokens)[len(prompt) - 1 : -1]
        each = log_p.gather(1, torch.tensor(draws.tokens)[:, None])[:, 0].tolist()
        assert draws.log_p == pytest.approx(each, abs=1e-4)


def test_an_answer_stops_where_the_models_turn_does(subject):
    settings = Sampling(temperature=0.0, max_new_tokens=24)
    batch = Batch([chat(subject, QUESTIONS[0])], 0, "test", rows=1)
    ((draws,),) = baselines.generate(language_model(subject, 1, 120), batch, settings)
    assert draws.ended and draws.tokens[-1] in subject.tokenizer.end_tokens
    assert "Paris" in subject.tokenizer.decode(draws.tokens)


def test_spans_score_as_full_forwards_do(subject):
    prompt = subject.tokenizer.encode("Question: What do bees make?\nAnswer:")
    rows = [prompt + subject.tokenizer.encode(f" {text}") for text in ("honey", "a lot of milk")]
    spans = [(len(prompt), len(row)) for row in rows]
    for row, (start, end), score in zip(rows, spans, subject.scorer.score(rows, spans, [2])):
        log_p = full_log_p(subject, row)
        each = [float(log_p[i - 1, row[i]]) for i in range(start, end)]
        assert score.per_token == pytest.approx(each, abs=1e-4)


def exact_law(subject, prompt):
    """Of every sequence that q reaches: its probability under p^alpha, and under q, by full
    forwards.
    """
    ends, done, open_ = subject.tokenizer.end_tokens, {}, {(): (0.0, 0.0)}
    for _ in range(LENGTH):
        grown = {}
        for tokens, (log_p, log_q) in open_.items():
            law = full_log_p(subject, [*prompt, *tokens])[-1].double()
            top = torch.topk(law, TOP_K)
            kept = torch.log_softmax(top.values / TEMPERATURE, -1)
            for token, p, q in zip(top.indices.tolist(), top.values.tolist(), kept.tolist()):
                grown[(*tokens, token)] = (log_p + p, log_q + q)
        open_ = {one: sums for one, sums in grown.items() if one[-1] not in ends}
        done |= {one: sums for one, sums in grown.items() if one[-1] in ends}
    done |= open_
    log_p, log_q = (numpy.array([sums[i] for sums in done.values()]) for i in (0, 1))
    power = numpy.exp(ALPHA * (log_p - log_p.max()))
    return list(done), power / power.sum(), numpy.exp(log_q)


def test_last_states_of_chains_have_the_law_of_p_to_the_alpha(subject):
    """Chi-square over all that q can reach; the proposal's own law must fail the same test."""
    prompt = chat(subject, QUESTIONS[1])
    reached, power, proposal = exact_law(subject, prompt)
    settings = PowerSettings(
        alpha=ALPHA,
        num_steps=STEPS,
        temperature=TEMPERATURE,
        top_k=TOP_K,
        max_new_tokens=LENGTH,
        restart_prob=0.5,
    )
    batch = Batch([prompt], 0, "test", copies=CHAINS, rows=CHAINS)
    results = sample(language_model(subject, CHAINS, 80), batch, settings)
    place = {tokens: i for i, tokens in enumerate(reached)}
    last, first = (
        numpy.bincount([place[tuple(one)] for one in states], minlength=len(reached))
        for states in zip(*((r.final.tokens, r.states[0].tokens) for r in results))
    )
    assert fits(last, power) > 1e-3
    assert fits(first, proposal) > 1e-3
    assert fits(first, power) < 1e-3


def fits(counts, law):
    """The p-value of counts against a law, its rare cells joined."""
    order = numpy.argsort(law)
    edges = [0]
    for i in itertools.accumulate(1 for _ in order):
        if law[order[edges[-1] : i]].sum() * counts.sum() >= 5:
            edges.append(i)
    edges[-1] = len(order)
    cells = [order[a:b] for a, b in itertools.pairwise(edges)]
    found, expected = (numpy.array([of[cell].sum() for cell in cells]) for of in (counts, law))
    return chisquare(found, expected * counts.sum()).pvalue


def test_stages_ask_a_published_model(tmp_path):
    """Choices as continuations, bits per byte of documents."""
    source = f"hf:{folder()}"
    asked = ChatEvalConfig(
        source=source, tasks=["arc_easy"], max_examples=4, choice_form="continuation"
    )
    found = chat_eval.run(
        Job("chat_eval_hf", StudyConfig(), asked, tmp_path, {}), WORLD, NullRun()
    ).flat()
    assert found["arc_easy/n"] == 4 and 0 <= found["arc_easy/accuracy_norm"] <= 1
    study = StudyConfig()
    config = replace(study.base_eval, source=source, loss_tokens=400)
    job = Job("base_loss", study, config, tmp_path, {})
    bits = base_loss.run(job, WORLD, NullRun()).flat()
    assert 0.3 < bits["validation_bits_per_byte"] < 3
