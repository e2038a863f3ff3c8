"""Conversations as token ids with a loss mask, task rows as conversations, and the grammar of tool calls.

A conversation is `<|bos|>`, then turns. A user turn is `<|user_start|> text <|user_end|>`; an assistant turn is `<|assistant_start|>`,
parts, `<|assistant_end|>`. A tool call inside it is `<|python_start|> call <|python_end|>`, answered by
`<|output_start|> output <|output_end|>`, which the model never writes itself.

Message content is a string or, for the assistant, a list of parts {"type": "text" | "python" | "output", "text": ...}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanolab.data.tokenizer import Tokenizer
from nanolab.schema import UserError

Message = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>]*)>>")  # GSM8K's calculator annotation <<48/2=24>>
ANSWER = re.compile(r"####[\s*\\$€£+]*(-?[\s\\$€£]*[0-9,]*\.?[0-9]+)")


class ChoiceQuestion(NamedTuple):
    """A multiple-choice question; `letters` are A, B, C ... whatever labels the data set uses, `answer` is one of them."""

    question: str
    choices: list[str]
    letters: list[str]
    answer: str


# ---- conversation -> ids and mask


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """The ids of a conversation and a mask of equal length, 1 where the model is to learn to produce the id.

    That is the assistant's text, its tool calls with their closing token, and its end token; user text and tool output are 0.
    Raises UserError for a conversation that is not user and assistant in turn (a first system message joins the first user message).
    """
    ids, mask = [tokenizer.bos], [0]

    def add(tokens: list[int], supervised: int) -> None:
        ids.extend(tokens)
        mask.extend([supervised] * len(tokens))

    for message in _turns(messages):
        if message["role"] == "user":
            add(
                [tokenizer.user_start, *tokenizer.encode(message["content"]), tokenizer.user_end], 0
            )
            continue
        add([tokenizer.assistant_start], 0)
        for part in parts_of(message):
            tokens = tokenizer.encode(part["text"])
            if part["type"] == "text":
                add(tokens, 1)
            elif part["type"] == "python":
                add([tokenizer.python_start, *tokens, tokenizer.python_end], 1)
            else:
                add([tokenizer.output_start, *tokens, tokenizer.output_end], 0)
        add([tokenizer.assistant_end], 1)
    return ids, mask


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The ids up to and including the `<|assistant_start|>` that the model goes on from; a final assistant message is left out."""
    if messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    return [*render(tokenizer, messages)[0], tokenizer.assistant_start]


def parts_of(message: Message) -> list[dict[str, str]]:
    """The parts of an assistant message; plain content is one text part. Raises UserError for an unknown part type."""
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        if part.get("type") not in ("text", "python", "output") or not isinstance(
            part.get("text"), str
        ):
            raise UserError(
                f"an assistant part must be text, python or output with a text, got {part!r}"
            )
    return list(content)


def _turns(messages: Sequence[Message]) -> list[Message]:
    """The messages with a leading system message joined to the first user message, checked for order."""
    messages = list(messages)
    for message in messages:
        if (
            not isinstance(message, dict)
            or "role" not in message
            or not isinstance(message.get("content"), (str, list))
        ):
            raise UserError(f"a message needs a role and a content, got {message!r}")
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        messages = [first, *messages[2:]]
    if not messages:
        raise UserError("a conversation needs at least one message")
    for i, message in enumerate(messages):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            raise UserError(
                f"message {i} of a conversation must be from the {expected}, got {message['role']!r}"
            )
        if expected == "user" and not isinstance(message["content"], str):
            raise UserError(f"message {i}: the content of a user message must be text")
    return messages


# ---- what the model wrote


def tool_call(tokenizer: Tokenizer, tokens: Sequence[int]) -> str | None:
    """The text of the tool call that the last token has just closed, or None.

    A call opens at the last `<|python_start|>`; special tokens inside it are dropped from its text.
    """
    if not tokens or tokens[-1] != tokenizer.python_end:
        return None
    for start in range(len(tokens) - 2, -1, -1):
        if tokens[start] == tokenizer.python_start:
            inside = [token for token in tokens[start + 1 : -1] if not tokenizer.is_special(token)]
            return tokenizer.decode(inside)
        if tokens[start] == tokenizer.python_end:
            return None
    return None


def forced_output(tokenizer: Tokenizer, output: str, max_tokens: int) -> list[int]:
    """The ids forced into the text after a tool call: the output, cut to `max_tokens` ids, between its two marks."""
    return [tokenizer.output_start, *tokenizer.encode(output)[:max_tokens], tokenizer.output_end]


def completion_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """A completion as a person reads it: tool calls as <<call=output>>, other special tokens dropped, up to the end token."""
    marks = {tokenizer.python_start: "<<", tokenizer.output_start: "=", tokenizer.output_end: ">>"}
    pieces: list[str] = []
    run: list[int] = []
    tokens = list(tokens)
    for i, token in enumerate([*tokens, tokenizer.assistant_end]):
        if not tokenizer.is_special(token):
            run.append(token)
            continue
        pieces.append(tokenizer.decode(run))
        run = []
        if token == tokenizer.assistant_end:
            break
        unanswered = token == tokenizer.python_end and (
            i + 1 >= len(tokens) or tokens[i + 1] != tokenizer.output_start
        )
        pieces.append(">>" if unanswered else marks.get(token, ""))
    return "".join(pieces)


def extract_gsm8k_answer(text: str) -> str | None:
    """The number after the last "####", as "-1234.5": no commas, spaces, currency, unit or needless zeros. None without one."""
    found = ANSWER.findall(text.replace("\N{MINUS SIGN}", "-"))
    if not found:
        return None
    number = re.sub(r"[^0-9.-]", "", found[-1])
    whole, _, decimals = number.lstrip("-").partition(".")
    number = (whole.lstrip("0") or "0") + (
        "." + decimals.rstrip("0") if decimals.rstrip("0") else ""
    )
    return number if number == "0" or not found[-1].startswith("-") else "-" + number


# ---- task rows -> conversations


def _conversation(user: str, assistant: str | list[dict[str, str]] | None) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": user}]
    return (
        messages if assistant is None else [*messages, {"role": "assistant", "content": assistant}]
    )


def gsm8k_messages(row: dict[str, Any], note: str = "") -> list[Message]:
    """A word problem, its solution's <<48/2=24>> turned into a call "48/2" and its output "24"; `note` is a line below the question."""
    parts: list[dict[str, str]] = []
    pieces = ANNOTATION.split(row["answer"])  # text, call, output, text, call, output, ..., text
    for i, piece in enumerate(pieces):
        kind = ("text", "python", "output")[i % 3]
        if piece or kind != "text":
            parts.append({"type": kind, "text": piece})
    return _conversation(f"{row['question']}\n{note}" if note else row["question"], parts)


def choice_text(question: str, choices: Sequence[str], letters: Sequence[str]) -> str:
    """The question, then one line a choice: "- Paris=B". The letter comes last, so that it can attend to its choice."""
    return "\n".join(
        [
            question,
            *(f"- {choice}={letter}" for choice, letter in zip(choices, letters, strict=True)),
        ]
    )


def choice_answers(choices: Sequence[str], letters: Sequence[str], form: str) -> list[str]:
    """What the assistant may answer: each letter (form "letter"), or each choice with its letter ("line"), as the question lists it."""
    return (
        list(letters)
        if form == "letter"
        else [f"{choice}={letter}" for choice, letter in zip(choices, letters, strict=True)]
    )


def choice_messages(
    question: str,
    choices: Sequence[str],
    letters: Sequence[str],
    answer: str | None,
    form: str = "letter",
) -> list[Message]:
    """A multiple-choice question; `answer` is a letter, given in `form` (None: no assistant message)."""
    given = (
        None
        if answer is None
        else choice_answers(choices, letters, form)[list(letters).index(answer)]
    )
    return _conversation(choice_text(question, choices, letters), given)


def arc_question(row: dict[str, Any]) -> ChoiceQuestion:
    """An ARC row, its labels (some rows have 1, 2, 3, 4) renamed to A, B, C, D."""
    labels, choices = list(row["choices"]["label"]), list(row["choices"]["text"])
    letters = list(LETTERS[: len(choices)])
    return ChoiceQuestion(
        row["question"], choices, letters, letters[labels.index(row["answerKey"])]
    )


def mmlu_question(row: dict[str, Any]) -> ChoiceQuestion:
    """An MMLU row; its answer is an index."""
    letters = list(LETTERS[: len(row["choices"])])
    return ChoiceQuestion(
        row["question"], list(row["choices"]), letters, letters[int(row["answer"])]
    )


def arc_messages(row: dict[str, Any], form: str = "letter") -> list[Message]:
    """An ARC row as a conversation."""
    return choice_messages(*arc_question(row), form)


def mmlu_messages(row: dict[str, Any], form: str = "letter") -> list[Message]:
    """An MMLU row as a conversation."""
    return choice_messages(*mmlu_question(row), form)


def program_messages(row: dict[str, Any]) -> list[Message]:
    """A HumanEval row: the user gives the prompt, the assistant goes on from it with the function's body.

    The body alone, since a copied signature costs a small model tokens and errors. Grading takes a whole function too.
    """
    return _conversation(row["prompt"].rstrip("\n"), row["canonical_solution"].strip("\n"))


MESSAGES: dict[str, Callable[..., list[Message]]] = {  # task -> a row's conversation
    "arc_easy": arc_messages,
    "arc_challenge": arc_messages,
    "mmlu": mmlu_messages,
    "gsm8k": gsm8k_messages,
    "humaneval": program_messages,
}


# ---- plain text, for the base model, whose chat tokens are untrained


def plain_prompt(messages: Sequence[Message]) -> str:
    """The first user message as "Question: ...\\nAnswer:"; the model goes on with a space and the answer."""
    return f"Question: {messages[0]['content']}\nAnswer:"


def plain_text(message: Message) -> str:
    """An assistant message as plain text, its tool calls as GSM8K's <<call=output>>."""
    marks = {"text": "{}", "python": "<<{}", "output": "={}>>"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts_of(message))


def plain_example(messages: Sequence[Message]) -> str:
    """A solved example "Question: ...\\nAnswer: ..." to stand before a prompt, from one question and its answer."""
    return f"{plain_prompt(messages)} {plain_text(messages[1])}"


def few_shot_prompt(examples: Sequence[Sequence[Message]], messages: Sequence[Message]) -> str:
    """Solved examples and the question, blank lines between them."""
    return "\n\n".join([*(plain_example(example) for example in examples), plain_prompt(messages)])
