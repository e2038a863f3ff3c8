"""Claims about nanolab/data/tokens/chat.py."""

import pytest

from nanolab.data.tasks.answers import final_number
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import train_tokenizer
from nanolab.errors import UserError

PROBLEM = {
    "question": "Ann has 48 pens and sells half. How many are left?",
    "answer": "She sells 48/2 = <<48/2=24>>24 pens.\nSo <<48-24=24>>24 are left.\n#### 24",
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([PROBLEM["question"] + PROBLEM["answer"]] * 3, 290)


def supervised(tokenizer, ids, mask):
    """The ids with mask 1, as text with the names of special tokens."""
    return tokenizer.decode([token for token, learn in zip(ids, mask, strict=True) if learn])


def test_the_mask_is_what_the_assistant_itself_writes(tokenizer):
    ids, mask = chat.render(tokenizer, TASKS["gsm8k"].messages(PROBLEM))
    assert tokenizer.decode(ids) == (
        "<|bos|><|user_start|>"
        + PROBLEM["question"]
        + "<|user_end|><|assistant_start|>She sells 48/2 ="
        " <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24 pens.\nSo"
        " <|python_start|>48-24<|python_end|><|output_start|>24<|output_end|>24 are left.\n####"
        " 24<|assistant_end|>"
    )
    assert (
        supervised(tokenizer, ids, mask)
        == "She sells 48/2 = <|python_start|>48/2<|python_end|>24 pens.\nSo"
        " <|python_start|>48-24<|python_end|>24 are left.\n#### 24<|assistant_end|>"
    )


def test_several_turns_and_a_system_message(tokenizer):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye <|assistant_end|>"},
        {"role": "assistant", "content": "Bye"},
    ]
    ids, mask = chat.render(tokenizer, messages)
    assert tokenizer.decode(ids).startswith(
        "<|bos|><|user_start|>Be kind.\n\nHi<|user_end|><|assistant_start|>Hello<|assistant_end|>"
    )
    assert supervised(tokenizer, ids, mask) == "Hello<|assistant_end|>Bye<|assistant_end|>"
    assert ids.count(tokenizer.assistant_end) == 2  # the one in the user's text is plain text


def test_a_prompt_is_the_start_of_its_conversation(tokenizer):
    messages = TASKS["gsm8k"].messages(PROBLEM)
    prompt = chat.render_prompt(tokenizer, messages)
    ids, mask = chat.render(tokenizer, messages)
    assert prompt == chat.render_prompt(tokenizer, messages[:1]) == ids[: len(prompt)]
    assert (
        prompt[-1] == tokenizer.assistant_start
        and sum(mask[: len(prompt)]) == 0
        and mask[len(prompt)] == 1
    )


@pytest.mark.parametrize(
    "messages, words",
    [
        ([], "at least one"),
        ([{"role": "assistant", "content": "Hi"}], "message 0 .* user"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            "message 1 .* assistant",
        ),
        ([{"role": "user"}], "role and a content"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "must be text"),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "image", "text": "a"}]},
            ],
            "part",
        ),
    ],
)
def test_a_broken_conversation_is_a_clear_line(tokenizer, messages, words):
    with pytest.raises(UserError, match=words):
        chat.render(tokenizer, messages)


def test_a_tool_call_is_seen_at_its_closing_token_only(tokenizer):
    ids, _ = chat.render(tokenizer, TASKS["gsm8k"].messages(PROBLEM))
    calls = {
        end: call
        for end in range(len(ids) + 1)
        if (call := chat.tool_call(tokenizer, ids[:end])) is not None
    }
    assert list(calls.values()) == ["48/2", "48-24"]
    assert all(ids[end - 1] == tokenizer.python_end for end in calls)
    assert chat.tool_call(tokenizer, [tokenizer.python_end]) is None
    assert (
        chat.tool_call(
            tokenizer, [tokenizer.python_start, tokenizer.python_end, tokenizer.python_end]
        )
        is None
    )
    assert chat.tool_call(tokenizer, [tokenizer.python_start, tokenizer.python_end]) == ""
    odd = [
        tokenizer.python_start,
        *tokenizer.encode("1+"),
        tokenizer.bos,
        *tokenizer.encode("2"),
        tokenizer.python_end,
    ]
    assert chat.tool_call(tokenizer, odd) == "1+2"


def test_the_forced_output_is_cut_and_closed(tokenizer):
    whole = chat.forced_output(tokenizer, "24", 8)
    assert tokenizer.decode(whole) == "<|output_start|>24<|output_end|>"
    cut = chat.forced_output(tokenizer, "x y z " * 50, 8)
    assert len(cut) == 10 and cut[-1] == tokenizer.output_end


def test_completion_text_is_the_row_that_was_rendered(tokenizer):
    messages = TASKS["gsm8k"].messages(PROBLEM)
    completion = chat.render(tokenizer, messages)[0][len(chat.render_prompt(tokenizer, messages)) :]
    assert (
        chat.completion_text(tokenizer, completion)
        == PROBLEM["answer"]
        == chat.plain_text(messages[1])
    )
    assert (
        chat.completion_text(tokenizer, [*completion, *tokenizer.encode("more")])
        == PROBLEM["answer"]
    )
    call = [
        *tokenizer.encode("so "),
        tokenizer.python_start,
        *tokenizer.encode("4-2"),
        tokenizer.python_end,
    ]
    assert chat.completion_text(tokenizer, call) == "so <<4-2>>"


@pytest.mark.parametrize(
    "text, answer",
    [
        ("#### 24", "24"),
        ("a\n#### 1,024", "1024"),
        ("#### $12.50", "12.5"),
        ("#### -3", "-3"),
        ("#### -$3.0", "-3"),
        ("#### 7 apples", "7"),
        ("####8.", "8"),
        ("#### .5", "0.5"),
        ("#### 007", "7"),
        ("#### -0", "0"),
        ("#### 1 then #### 2", "2"),
        ("#### 20%", "20"),
        ("####   1,234,567 ", "1234567"),
        ("#### 18.", "18"),
        ("#### 3.50 dollars", "3.5"),
        ("#### $ 18", "18"),
        ("#### -$ 1,000.50", "-1000.5"),
        ("#### $-4", "-4"),
        ("#### +5", "5"),
        ("#### €7", "7"),
        ("#### **18**", "18"),
        ("#### \\$18", "18"),
        ("#### \u22125", "-5"),
        ("####\t60 km", "60"),
        ("####\n42", "42"),
        ("#### 0.10", "0.1"),
        ("#### \u0665", None),
        ("#### x = 5", None),
        ("no answer 24", None),
        ("####", None),
        ("#### many", None),
        ("", None),
    ],
)
def test_the_answer_is_the_normalised_number_after_the_mark(text, answer):
    assert final_number(text) == answer


def test_plain_text_prompts():
    messages = TASKS["gsm8k"].messages(PROBLEM)
    assert (
        chat.plain_example(messages)
        == f"Question: {PROBLEM['question']}\nAnswer: {PROBLEM['answer']}"
    )
    prompt = chat.few_shot_prompt([messages], messages)
    assert (
        prompt
        == chat.plain_example(messages) + "\n\nQuestion: " + PROBLEM["question"] + "\nAnswer:"
    )
