"""Claims about nanolab/chat/session.py: an answer is a function of its place, watching changes
nothing, the context is kept to.
"""

import pytest

from nanolab.chat.answer import ChatSettings, chat_settings, completion_parts, read_message
from nanolab.chat.session import Session, reply
from nanolab.chat.trained import load_for_chat
from nanolab.data.tokens import chat
from nanolab.errors import UserError

SAMPLERS = ("greedy", "sample", "power", "best_of")
PARTS = [
    {"type": "text", "text": "It is "},
    {"type": "python", "text": "48/2"},
    {"type": "output", "text": "24"},
    {"type": "text", "text": "24.\n#### 24"},
]


@pytest.fixture
def session(trained_study):
    return Session(*load_for_chat(None, None))


def settings(sampler, **more):
    return chat_settings(
        {"sampler": sampler, "max_new_tokens": 24, "num_steps": 4, "samples": 3} | more
    )


def test_the_newest_study_with_a_chat_model_is_talked_to(session):
    assert session.name == "tiny, sft, step 7"


def test_a_completion_becomes_the_parts_it_was_made_of(session):
    tokenizer = session.subject.tokenizer
    messages = [{"role": "user", "content": "48/2?"}, {"role": "assistant", "content": PARTS}]
    ids = chat.render(tokenizer, messages)[0]
    assert completion_parts(tokenizer, ids[len(chat.render_prompt(tokenizer, messages)) :]) == PARTS


def test_an_answer_written_as_text_becomes_its_parts_again():
    message = {"role": "assistant", "content": "It is <<48/2=24>>24.\n#### 24"}
    assert read_message(message) == {"role": "assistant", "content": PARTS}
    assert read_message({"role": "user", "content": "<<1=2>>"}) == {
        "role": "user",
        "content": "<<1=2>>",
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_place_gives_the_same_answer_and_watching_changes_nothing(session, sampler):
    moments = []
    first = session.answer("What does the cat eat?", settings(sampler), moments.append)
    second = session.answer("What does the cat eat?", settings(sampler))
    again = reply(
        session.subject, [{"role": "user", "content": "What does the cat eat?"}], settings(sampler)
    )
    assert (again.text, again.log_p, again.positions) == (first.text, first.log_p, first.positions)
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert (
        session.messages[1]["content"] == first.parts
        and session.messages[3]["content"] == second.parts
    )
    assert sampler == "best_of" or moments
    if sampler == "power":
        assert [moment.step for moment in moments if moment.accepted is not None] == [1, 2, 3, 4]
        assert moments[-1].parts == first.parts and moments[-1].log_p == pytest.approx(first.log_p)
        assert first.steps == 4 and first.accepted == sum(
            moment.accepted or False for moment in moments
        )


def test_a_chain_of_no_steps_is_the_sample_and_another_seed_another_one(session):
    message = [{"role": "user", "content": "Hello"}]
    drawn = reply(session.subject, message, settings("sample"))
    assert reply(session.subject, message, settings("power", num_steps=0)).text == drawn.text
    assert reply(session.subject, message, settings("sample", seed=1)).text != drawn.text


def test_a_long_conversation_loses_its_earliest_turns(session):
    answers = [session.answer(f"Ann says {i}.", settings("greedy")) for i in range(4)]
    assert answers[0].dropped == 0 and answers[-1].dropped >= 2
    assert len(session.messages) == 8  # the person's own record is whole


def test_a_question_that_fills_the_context_is_refused_and_not_kept(session):
    with pytest.raises(UserError, match="leaves no room for an answer: ask in at most 80 tokens"):
        session.answer("cat fish Ann " * 40, settings("greedy"))
    assert session.messages == []


def test_an_interrupted_answer_leaves_the_conversation_as_it_was(session):
    def interrupt(moment):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.answer("Hello", settings("greedy"), interrupt)
    assert session.messages == [] and session.answer("Hello", settings("greedy")).tokens > 0


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant", "content": "a"}], [{"role": "user", "content": 1}]]
)
def test_a_malformed_conversation_is_refused(session, messages):
    with pytest.raises(UserError):
        reply(session.subject, messages, ChatSettings())


def test_a_majority_needs_answers_to_count(session):
    with pytest.raises(UserError, match="none of the 3 samples gives a number"):
        session.answer("Hello", settings("majority"))
