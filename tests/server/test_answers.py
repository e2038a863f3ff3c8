"""A published model of Hugging Face behind the server: its own template, power sampling, seeds."""

from concurrent.futures import ThreadPoolExecutor

import published_model
import pytest
import torch
from running_server import NAME, running

from nanolab.evals.subject import outside_subject
from nanolab.inference.proposal import Sampling
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch
from nanolab.server.answers import EngineSettings

CHAT = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def outside():
    with running(outside_subject(f"hf:{published_model.folder()}", torch.device("cpu"))) as found:
        yield found


def asked(server, seed, **more):
    return server.client.chat.completions.create(
        model=NAME, messages=CHAT, seed=seed, max_tokens=12, **more
    )


@pytest.mark.slow
def test_a_published_model_is_asked_in_its_own_template(outside):
    subject = outside.served.subject
    prompt = subject.render(CHAT)
    assert CHAT[0]["content"] in subject.tokenizer.decode(prompt)
    model = subject.language_model(EngineSettings(8), 256)
    sampling = Sampling(temperature=0, max_new_tokens=12)
    ((greedy,),) = generate(model, Batch([prompt], 0, "s"), sampling)
    found = asked(outside, 0, temperature=0)
    assert found.usage.prompt_tokens == len(prompt)
    assert found.choices[0].log_p == pytest.approx(greedy.sum_log_p, abs=1e-4)
    ids = [token for token in greedy.tokens if not subject.tokenizer.is_special(token)]
    assert found.choices[0].message.content == subject.tokenizer.decode(ids)


@pytest.mark.slow
def test_a_published_model_answers_alike_alone_and_in_company(outside):
    def ask(seed):
        power = {"extra_body": {"power": {"steps": 3}}} if seed % 2 else {"temperature": 0.7}
        choice = asked(outside, seed, **power).choices[0]
        return choice.message.content, pytest.approx(choice.log_p, abs=1e-4)

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as clients:
        assert list(clients.map(ask, range(4))) == alone
