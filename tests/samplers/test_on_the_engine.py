"""The samplers over a real GPT with its cache and a tool: recorded numbers, and no dependence on
the batch or on the ranks.
"""

import numpy
import pytest
from small_models import Work, language_model, prompts, rescored, tiny

from nanolab.inference.protocol import Program
from nanolab.inference.scheduler import serve
from nanolab.samplers import power_mh, power_rollout, power_smc
from nanolab.samplers.batch import Batch, sample
from nanolab.seeds import noise

COMMON = dict(alpha=4.0, temperature=0.7, top_k=50, max_new_tokens=32)
SAMPLERS = {
    "power": power_mh.PowerSettings(num_steps=3, restart_prob=0.3, **COMMON),
    "smc": power_smc.SmcSettings(particles=6, stretch=5, ess_threshold=0.9, **COMMON),
    "rollout": power_rollout.RolloutSettings(
        candidates=3, rollouts=2, horizon=3, candidate_floor=0.05, **COMMON
    ),
}


@pytest.fixture(scope="module")
def model():
    return tiny(seed=3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_problem_alone_and_among_others_gets_the_same_answer(model, name):
    """Whatever the batch, and whichever rank has the problem: the same tokens, and numbers equal to
    rounding.
    """
    settings = SAMPLERS[name]
    questions = prompts(10, 30)
    lm = language_model(model)
    together = sample(lm, Batch(questions, 0, "stage", rows=16), settings)
    assert not lm.cache.slots  # every row was given back
    for world in (2, 5):
        for rank in range(world):
            mine = list(range(len(questions)))[rank::world]
            batch = Batch([questions[i] for i in mine], 0, "stage", rows=7, examples=mine)
            found = sample(language_model(model), batch, settings)
            for i, result in zip(mine, found, strict=True):
                assert result.final.tokens == together[i].final.tokens
                assert numpy.allclose(result.final.log_p, together[i].final.log_p, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_recorded_log_p_and_log_q_equal_a_full_forward(model, name):
    """After forks, rewinds, resampling and forced outputs: every token's numbers to 1e-5."""
    settings = SAMPLERS[name]
    questions = prompts(12, 30)
    results = sample(language_model(model), Batch(questions, 1, "stage", rows=9), settings)
    checked = [
        (questions[r.problem], c)
        for r in results
        for c in ([r.final, *r.particles] if name == "smc" else [r.final])
    ]
    assert any(any(c.forced) for _, c in checked)
    for prompt, completion in checked:
        log_p, log_q = rescored(model, prompt, completion, settings.temperature, settings.top_k)
        chosen = [i for i, forced in enumerate(completion.forced) if not forced]
        assert numpy.abs(log_p - numpy.array(completion.log_p)[chosen]).max() < 1e-5
        assert numpy.abs(log_q - numpy.array(completion.log_q)[chosen]).max() < 1e-5


def test_a_resampled_population_forwards_no_more_than_it_draws(model):
    """The prompt once, then at most one position for each token drawn or forced, whatever was
    copied: copies are not forwarded anew.
    """
    questions = prompts(6, 30)
    batch = Batch(questions, 2, "stage")
    settings = SAMPLERS["smc"]
    results = sample(language_model(model), batch, settings)
    assert any(
        info.resampled and len(set(info.ancestors)) < settings.particles
        for r in results
        for info in r.infos
    )
    plain = power_smc.SmcSettings(**{**vars(settings), "ess_threshold": 0.0})
    for result, never, prompt in zip(
        results, sample(language_model(model), batch, plain), questions, strict=True
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
    for i, prompt in enumerate(prompts(64, 30)):
        uniforms = noise(0, "full", i)
        programs.append(Program(prompt, settings.kernel(uniforms), uniforms))
    lm = language_model(model)
    work = Work(lm)
    serve(lm, programs, 16)
    assert 0.85 <= work.rows / (work.decodes * 16) <= 1
