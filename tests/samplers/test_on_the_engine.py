"""The samplers over a real GPT with its cache and a tool: recorded numbers, and no dependence on the batch or on the ranks."""

import numpy
import pytest
import torch

from nanolab.data.tokenizer import Tokenizer
from nanolab.engine import GPTLanguageModel
from nanolab.generation import Program, log_p_log_q
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.samplers import power_mh, power_rollout, power_smc
from nanolab.scheduler import serve
from nanolab.seeds import generator, noise

TOKENIZER = Tokenizer([bytes([i]) for i in range(256)])
COMMON = dict(alpha=4.0, temperature=0.7, top_k=50, max_new_tokens=32)
SAMPLERS = {
    "power": (power_mh.sample, power_mh.PowerSettings(num_steps=3, restart_prob=0.3, **COMMON)),
    "smc": (
        power_smc.sample,
        power_smc.SmcSettings(particles=6, stretch=5, ess_threshold=0.9, **COMMON),
    ),
    "rollout": (
        power_rollout.sample,
        power_rollout.RolloutSettings(
            candidates=3, rollouts=2, horizon=3, candidate_floor=0.05, **COMMON
        ),
    ),
}


class EchoTools:
    """A tool whose output depends on the call, of several tokens."""

    def output(self, call):
        return f"{len(call)}!"


@pytest.fixture(scope="module")
def model():
    """A GPT of random weights that likes to call the tool and to end."""
    torch.manual_seed(3)
    model = GPT(
        GPTConfig(
            vocab_size=TOKENIZER.vocab_size,
            sequence_length=128,
            depth=2,
            width=32,
            heads=4,
            kv_heads=2,
        )
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    with torch.no_grad():
        for token, scale in (
            (TOKENIZER.python_start, 3),
            (TOKENIZER.python_end, 3),
            (TOKENIZER.assistant_end, 2),
        ):
            model.head.weight[token] *= scale
    return model


def language_model(model):
    return GPTLanguageModel(model, TOKENIZER, EchoTools(), rows=8, max_length=100)


def prompts(count):
    random = generator("prompts", count)
    return [random.integers(0, 256, random.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_problem_alone_and_among_others_gets_the_same_answer(model, name):
    """Whatever the batch, and whichever rank has the problem: the same tokens, and numbers equal to rounding."""
    sample, settings = SAMPLERS[name]
    questions = prompts(10)
    lm = language_model(model)
    together = sample(lm, questions, settings, 0, "stage", batch_rows=16)
    assert not lm.cache.slots  # every row was given back
    for world in (2, 5):
        for rank in range(world):
            mine = list(range(len(questions)))[rank::world]
            found = sample(
                language_model(model),
                [questions[i] for i in mine],
                settings,
                0,
                "stage",
                batch_rows=7,
                examples=mine,
            )
            for i, result in zip(mine, found, strict=True):
                assert result.final.tokens == together[i].final.tokens
                assert numpy.allclose(result.final.log_p, together[i].final.log_p, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_recorded_log_p_and_log_q_equal_a_full_forward(model, name):
    """After forks, rewinds, resampling and forced outputs: every token's numbers to 1e-5."""
    sample, settings = SAMPLERS[name]
    questions = prompts(12)
    results = sample(language_model(model), questions, settings, 1, "stage", batch_rows=9)
    checked = [
        (questions[r.problem], c)
        for r in results
        for c in ([r.final, *r.particles] if name == "smc" else [r.final])
    ]
    assert any(any(c.forced) for _, c in checked)
    for prompt, completion in checked:
        with torch.no_grad():
            logits = model.logits(model.trunk(torch.tensor([prompt + completion.tokens])))[
                0, len(prompt) - 1 : -1
            ]
        log_p, log_q, _ = log_p_log_q(
            logits, completion.tokens, settings.temperature, settings.top_k
        )
        chosen = [i for i, forced in enumerate(completion.forced) if not forced]
        assert numpy.abs(log_p[chosen] - numpy.array(completion.log_p)[chosen]).max() < 1e-5
        assert numpy.abs(log_q[chosen] - numpy.array(completion.log_q)[chosen]).max() < 1e-5


def test_a_resampled_population_forwards_no_more_than_it_draws(model):
    """The prompt once, then at most one position for each token drawn or forced, whatever was copied: copies are not forwarded anew."""
    questions = prompts(6)
    sample, settings = SAMPLERS["smc"]
    results = sample(language_model(model), questions, settings, 2, "stage", batch_rows=64)
    assert any(
        info.resampled and len(set(info.ancestors)) < settings.particles
        for r in results
        for info in r.infos
    )
    plain = power_smc.SmcSettings(**{**vars(settings), "ess_threshold": 0.0})
    for result, never, prompt in zip(
        results, sample(language_model(model), questions, plain, 2, "stage"), questions, strict=True
    ):
        assert result.positions == sum(info.positions for info in result.infos)
        assert never.positions <= len(prompt) + settings.particles * (settings.max_new_tokens - 1)
        assert (
            result.positions <= 1.2 * never.positions
        )  # particles differ in how much forced output they take in one stretch


def test_a_batch_with_a_queue_stays_full(model):
    """Four chains wait for each slot: at least 85% of the batch is used, to the end."""
    settings = power_mh.PowerSettings(num_steps=5, **COMMON)
    programs = []
    for i, prompt in enumerate(prompts(64)):
        uniforms = noise(0, "full", i)
        programs.append(Program(prompt, power_mh.run_chain(settings, uniforms), uniforms))
    _, counts = serve(language_model(model), programs, 16)
    assert counts.rows <= counts.decodes * 16 and counts.rows / (counts.decodes * 16) >= 0.85
