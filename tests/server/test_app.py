"""The server as the openai client sees it: answers are those of the samplers, alone and in company,
whole and streamed; what cannot be done is refused in OpenAI's form; who leaves frees his rows.
"""

import hashlib
import json
import shlex
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from pages import ROOT, blocks
from running_server import NAME, running, subject
from small_models import TOKENIZER

from nanolab.data.tokens import chat
from nanolab.inference.proposal import Sampling
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import PowerSettings
from nanolab.server.answers import EngineSettings

HELLO = [{"role": "user", "content": "Hello"}]
POWER = {"alpha": 3, "steps": 6, "temperature": 0.5, "top_k": 20}
LONG = 100  # tokens: what the context has room for


def asked(server, messages=HELLO, seed=5, max_tokens=24, **more):
    return server.client.chat.completions.create(
        model=NAME, messages=messages, seed=seed, max_tokens=max_tokens, **more
    )


def post(server, timeout=60, **given):
    """What the server answers to a body that no client would send."""
    return httpx.post(f"{server.address}/v1/chat/completions", timeout=timeout, **given)


def whole(stream):
    """Text, finish reason and last chunk of the first choice of a stream."""
    chunks = list(stream)
    first = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in first)
    return text, first[-1].finish_reason, chunks[-1]


def reference(prompt, seed, settings, copies=1):
    """The same answers by the samplers, each prompt by itself."""
    found = subject()
    model = found.language_model(EngineSettings(8), found.context)
    digest = hashlib.sha256(repr(prompt).encode()).hexdigest()
    batch = Batch([prompt], seed, "serve", copies, examples=[digest])
    if isinstance(settings, PowerSettings):
        return sample(model, batch, settings)
    return generate(model, batch, settings)[0]


def text_of(draws):
    return chat.completion_text(TOKENIZER, draws.tokens)


def test_it_names_its_model_and_says_that_it_lives(server):
    assert [model.id for model in server.client.models.list()] == [NAME]
    assert server.client.models.retrieve(NAME).max_model_len == 128
    assert httpx.get(f"{server.address}/health").json()["status"] == "ok"


def test_answers_are_those_of_the_samplers(server):
    prompt = chat.render_prompt(TOKENIZER, HELLO)
    expected = reference(prompt, 5, Sampling(temperature=0.8, top_k=9, max_new_tokens=24), 3)
    found = asked(server, n=3, temperature=0.8, extra_body={"top_k": 9})
    assert [choice.message.content for choice in found.choices] == [text_of(e) for e in expected]
    assert [c.log_p for c in found.choices] == [draws.sum_log_p for draws in expected]
    assert found.usage.prompt_tokens == len(prompt)
    assert found.usage.completion_tokens == sum(len(draws.tokens) for draws in expected)
    assert found.usage.positions == sum(draws.positions for draws in expected)
    reasons = ["stop" if draws.ended else "length" for draws in expected]
    assert [choice.finish_reason for choice in found.choices] == reasons


def test_a_power_request_gets_the_last_state_of_its_chain(server):
    prompt = chat.render_prompt(TOKENIZER, HELLO)
    settings = PowerSettings(
        alpha=3, num_steps=6, temperature=0.5, top_k=20, max_new_tokens=24, num_blocks=2
    )
    (chain,) = reference(prompt, 5, settings)
    found = asked(server, extra_body={"power": POWER | {"num_blocks": 2}})
    (choice,) = found.choices
    assert choice.message.content == text_of(chain.final)
    assert choice.log_p == chain.final.sum_log_p
    assert choice.power["accepted"] == sum(info.accepted for info in chain.infos)
    assert choice.power["steps"] == 12 and found.usage.positions == chain.positions


def test_completions_go_on_from_texts_and_from_ids(server):
    prompt = [TOKENIZER.bos, *TOKENIZER.encode("1 2 3")]
    (expected,) = reference(prompt, 7, Sampling(temperature=1.0, max_new_tokens=16))
    ask = server.client.completions.create
    for given in ("1 2 3", prompt, ["x", "1 2 3"], [[1, 2], prompt]):
        found = ask(model=NAME, prompt=given, seed=7).choices[-1]
        assert (found.text, found.log_p) == (text_of(expected), expected.sum_log_p)


def test_greedy_is_the_likeliest_token_whatever_the_seed(server):
    assert len({asked(server, seed=i, temperature=0).choices[0].log_p for i in range(3)}) == 1


def test_a_seed_gives_the_same_answer_alone_and_in_company(server):
    def ask(i):
        power = {"extra_body": {"power": POWER}} if i % 4 == 0 else {"temperature": 1 + i / 8}
        messages = [{"role": "user", "content": "Hello" * (1 + i % 3)}]
        found = asked(server, messages, seed=i, max_tokens=30, **power)
        return found.choices[0].message.content, found.choices[0].log_p

    alone = [ask(i) for i in range(8)]
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(ask, range(8))) == alone


def test_a_seed_that_was_not_given_is_told(server):
    first, second = asked(server, seed=None), asked(server, seed=None)
    assert first.seed != second.seed
    assert asked(server, seed=first.seed).choices == first.choices


@pytest.mark.parametrize("stop", [None, ["e", "zz"]])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_adds_up_to_the_whole(server, seed, stop):
    settings = {"seed": seed, "max_tokens": LONG, "stop": stop, "logprobs": True}
    expected = asked(server, **settings)
    stream = list(asked(server, stream=True, stream_options={"include_usage": True}, **settings))
    text, reason, last = whole(stream)
    assert text == expected.choices[0].message.content
    assert reason == expected.choices[0].finish_reason
    assert last.usage == expected.usage and last.seed == seed
    entries = [
        entry
        for chunk in stream
        for choice in chunk.choices
        for entry in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert entries == expected.choices[0].logprobs.content
    assert len(entries) == expected.usage.completion_tokens
    assert sum(entry.logprob for entry in entries) == pytest.approx(expected.choices[0].log_p)


def test_a_stop_text_ends_an_answer_and_is_not_in_it(server):
    plain = asked(server, max_tokens=LONG)
    text = plain.choices[0].message.content
    stop = text[5:7]
    found = asked(server, max_tokens=LONG, stop=[stop, "not there"])
    assert found.choices[0].message.content == text[: text.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens < plain.usage.completion_tokens


def test_a_stop_text_ends_the_completions_of_a_chain(server):
    found = asked(server, stop="e", max_tokens=LONG, extra_body={"power": POWER})
    assert "e" not in found.choices[0].message.content


def test_a_tool_call_is_shown_with_its_output(server):
    for seed in range(40):
        found = asked(server, seed=seed, max_tokens=LONG, temperature=0.9)
        text = found.choices[0].message.content
        if "=error>>" in text:  # a random model calls nonsense
            streamed = asked(server, seed=seed, max_tokens=LONG, temperature=0.9, stream=True)
            assert whole(streamed)[0] == text
            return
    raise AssertionError("no answer with a call")


def test_a_streamed_power_request_tells_its_steps_in_comments(server):
    body = {"model": NAME, "messages": HELLO, "seed": 5, "max_tokens": 24, "stream": True}
    lines = post(server, json=body | {"power": POWER}).text.split("\n\n")
    comments = [line for line in lines if line.startswith(": choice 0: step")]
    assert len(comments) == POWER["steps"] and lines[-2] == "data: [DONE]"
    expected = asked(server, extra_body={"power": POWER})
    text, _, last = whole(asked(server, stream=True, extra_body={"power": POWER}))
    assert text == expected.choices[0].message.content
    assert last.choices[0].power == expected.choices[0].power


REFUSED = {  # what is sent beside model and messages: status, param, words
    "top_p": ({"top_p": 0.5}, 400, "top_p", "top_p = 0.5 is not served: leave it out, or give 1"),
    "unknown": ({"foo": 1}, 400, "foo", "foo is no field that this server knows"),
    "model": ({"model": "gpt"}, 404, "model", "there is no model 'gpt' here"),
    "seed": ({"seed": 1.5}, 400, "seed", "seed: input should be a valid integer"),
    "n": ({"n": 0}, 400, "n", "n = 0 is out of range: it must be at least 1"),
    "flag": ({"stream": "yes"}, 400, "stream", "stream: input should be a valid boolean"),
    "nan": ({"temperature": float("nan")}, 400, "temperature", "a finite number"),
    "cold": ({"temperature": 1e-9}, 400, "temperature", "must be above 0.0001"),
    "stops": ({"stop": ["a"] * 5}, 400, "stop", "stop must be at most 4 texts"),
    "alpha": ({"power": {"alpha": 0.5}}, 400, "power.alpha", "at least 1 and at most"),
    "blocks": ({"power": {"num_blocks": 50}, "max_tokens": 9}, 400, None, "num_blocks = 50"),
    "two": ({"power": {}, "temperature": 1}, 400, "temperature", "power.temperature"),
    "limits": ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "max_tokens", "give one"),
    "room": ({"max_tokens": 500}, 400, "messages", "more than the context of 128"),
    "roles": ({"messages": HELLO * 2}, 400, "messages", "must be from the assistant"),
    "last": ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "the last"),
    "empty": ({"messages": []}, 400, "messages", "at least 1 item"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages.0.content",
        "input should be a valid string",
    ),
    "surrogate": (
        {"messages": [{"role": "user", "content": "\ud800"}]},
        400,
        "messages.0.content",
        "half a surrogate pair",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_openais_form(server, case):
    changes, status, param, words = REFUSED[case]
    body = json.dumps({"model": NAME, "messages": HELLO} | changes)
    answer = post(server, content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == status and words in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert set(error) == {"message", "type", "param", "code"} and error["code"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"", b'{"a": NaNs}', b"[" * 100_000])
def test_a_malformed_body_is_refused(server, content):
    answer = post(server, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_prompt_of_ids_beyond_the_vocabulary_or_of_none_is_refused(server):
    for prompt, words in (([9999], "the model has"), ([], "empty"), ([[]], "needs one token")):
        with pytest.raises(openai.BadRequestError, match=words):
            server.client.completions.create(model=NAME, prompt=prompt)


def test_addresses_that_do_not_exist_and_other_names_of_the_server(server):
    for answer, status in (
        (httpx.get(f"{server.address}/v1/nothing"), 404),
        (httpx.get(f"{server.address}/v1/chat/completions"), 405),
        (httpx.get(f"{server.address}/v1/models", headers={"Host": "evil.example"}), 403),
        (httpx.post(f"{server.address}/v1/completions", content=iter([b"{}"])), 411),
    ):
        assert answer.status_code == status and "message" in answer.json()["error"]


def test_a_client_that_leaves_frees_its_rows(server):
    with asked(server, stream=True, max_tokens=LONG, n=6) as stream:
        next(iter(stream))
    assert server.rows() == {}
    slow = {"model": NAME, "messages": HELLO, "max_tokens": LONG, "power": {"steps": 100_000}}
    with pytest.raises(httpx.ReadTimeout):
        post(server, json=slow, timeout=0.5)
    assert server.rows() == {}


@pytest.fixture
def closed():
    with running(key="secret") as found:
        yield found


def test_a_key_is_needed_where_one_was_chosen(closed):
    assert [model.id for model in closed.client.models.list()] == [NAME]
    for wrong in ("Secret", "secret1", "s", "sécret"):
        answer = httpx.get(
            f"{closed.address}/v1/models", headers={"Authorization": f"Bearer {wrong}".encode()}
        )
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{closed.address}/health").status_code == 200


@pytest.fixture
def small():
    with running(rows=1, queue=1) as found:
        yield found


def test_a_full_queue_is_said_before_a_stream_begins(small):
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError, match="3 more do not fit: 1 rows and a queue"):
            asked(small, n=3, stream=stream)
    assert len(asked(small, n=2).choices) == 2


@pytest.fixture
def base():
    with running(subject("base")) as found:
        yield found


def test_a_base_model_answers_one_question_with_a_paragraph(base):
    with pytest.raises(openai.BadRequestError, match="no chat format"):
        asked(base, [*HELLO, {"role": "assistant", "content": "x"}, *HELLO])
    for seed in range(4):
        found = asked(base, seed=seed, max_tokens=40)
        text = found.choices[0].message.content
        assert "\n\n" not in text and text == text.strip("\n")
        assert whole(asked(base, seed=seed, max_tokens=40, stream=True))[0].rstrip("\n") == text


def test_the_examples_of_the_page_work(server, capsys):
    """With this model's name and address in the place of the page's."""
    examples = [
        block.text.replace("http://127.0.0.1:8000", server.address)
        .replace("smoke/sft", NAME)
        .replace("64", "40")
        for block in blocks(ROOT / "docs" / "server.md")
        if block.mark and block.mark[2] == "tests/server/test_app.py"
    ]
    python, curl = examples
    exec(compile(python, "server.md", "exec"), {})
    assert "'accepted'" in capsys.readouterr().out
    _, address, *_, body = shlex.split(curl.replace("\\\n", " "))
    answer = httpx.post(address, json=json.loads(body), timeout=60).json()
    assert answer["choices"][0]["power"]["steps"] == 10
