"""Conversations as token ids with a loss mask, and the grammar of tool calls.

A conversation is `<|bos|>`, then turns. A user turn is `<|user_start|> text <|user_end|>`; an
assistant turn is `<|assistant_start|>`, parts, `<|assistant_end|>`. A tool call inside it is
`<|python_start|> call <|python_end|>`, answered by `<|output_start|> output <|output_end|>`, which
the model never writes itself.

Message content is a string or, for the assistant, a list of parts {"type": "text" | "python" |
"output", "text": ...}.
"""

import itertools
from collections.abc import Sequence

from nanolab.data.tasks.task import Message
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.errors import UserError

# ---- conversation -> ids and mask


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """The ids of a conversation and a mask of equal length, 1 where the model is to learn to
    produce the id: the assistant's text, its tool calls with their closing token, its end token.

    UserError where user and assistant do not take turns (after a first system message).
    """
    ids, mask = [tokenizer.bos], [0]

    def add(tokens: list[int], supervised: int) -> None:
        ids.extend(tokens)
        mask.extend([supervised] * len(tokens))

    for message in _turns(messages):
        if message["role"] == "user":
            text = tokenizer.encode(message["content"])
            add([tokenizer.user_start, *text, tokenizer.user_end], 0)
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
    """The ids up to and including the `<|assistant_start|>` that the model goes on from; a final
    assistant message is left out.
    """
    if messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    return [*render(tokenizer, messages)[0], tokenizer.assistant_start]


def parts_of(message: Message) -> list[dict[str, str]]:
    """The parts of an assistant message, plain content being one; UserError for an unknown type."""
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        known = part.get("type") in ("text", "python", "output")
        if not (known and isinstance(part.get("text"), str)):
            raise UserError(
                f"an assistant part must be text, python or output with a text, got {part!r}"
            )
    return list(content)


def _turns(messages: Sequence[Message]) -> list[Message]:
    """The messages, a leading system message joined to the first user message, in checked order."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, (str, list)) or "role" not in message:
            raise UserError(f"a message needs a role and a content, got {message!r}")
    if [message["role"] for message in messages[:2]] == ["system", "user"]:
        opening = [message["content"] for message in messages[:2]]
        if not all(isinstance(content, str) for content in opening):
            raise UserError(
                "the content of a system message and of the user message after it must be text"
            )
        messages = [{"role": "user", "content": "\n\n".join(opening)}, *messages[2:]]
    if not messages:
        raise UserError("a conversation needs at least one message")
    for i, message in enumerate(messages):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            raise UserError(
                f"message {i} of a conversation must be from the {expected}, got"
                f" {message['role']!r}"
            )
        if expected == "user" and not isinstance(message["content"], str):
            raise UserError(f"message {i}: the content of a user message must be text")
    return list(messages)


# ---- what the model wrote


def tool_call(tokenizer: Tokenizer, tokens: Sequence[int]) -> str | None:
    """The text of the tool call that the last token has just closed, without special tokens."""
    if not tokens or tokens[-1] != tokenizer.python_end:
        return None
    inside = []
    for token in reversed(tokens[:-1]):
        if token == tokenizer.python_start:
            return tokenizer.decode(inside[::-1])
        if token == tokenizer.python_end:
            return None
        if not tokenizer.is_special(token):
            inside.append(token)
    return None


def forced_output(tokenizer: Tokenizer, output: str, max_tokens: int) -> list[int]:
    """The ids forced into the text after a tool call: its output, cut, between two marks."""
    return [tokenizer.output_start, *tokenizer.encode(output)[:max_tokens], tokenizer.output_end]


def completion_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """A completion up to its end token as a person reads it: tool calls as <<call=output>>."""
    marks = {tokenizer.python_start: "<<", tokenizer.output_start: "=", tokenizer.output_end: ">>"}
    pieces: list[str] = []
    run: list[int] = []
    for token, following in itertools.pairwise([*tokens, tokenizer.assistant_end, None]):
        if not tokenizer.is_special(token):
            run.append(token)
            continue
        pieces.append(tokenizer.decode(run))
        run = []
        if token in tokenizer.end_tokens:
            break
        unanswered = token == tokenizer.python_end and following != tokenizer.output_start
        pieces.append(">>" if unanswered else marks.get(token, ""))
    return "".join(pieces)


# ---- plain text, for the base model, whose chat tokens are untrained


def plain_prompt(messages: Sequence[Message]) -> str:
    """The first user message as "Question: ...\\nAnswer:", to go on with a space."""
    return f"Question: {messages[0]['content']}\nAnswer:"


def plain_text(message: Message) -> str:
    """An assistant message as plain text, its tool calls as GSM8K's <<call=output>>."""
    marks = {"text": "{}", "python": "<<{}", "output": "={}>>"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts_of(message))


def plain_example(messages: Sequence[Message]) -> str:
    """A solved example "Question: ...\\nAnswer: ..." to stand before a prompt."""
    return f"{plain_prompt(messages)} {plain_text(messages[1])}"


def few_shot_prompt(examples: Sequence[Sequence[Message]], messages: Sequence[Message]) -> str:
    """Solved examples and the question, blank lines between them."""
    return "\n\n".join([*(plain_example(example) for example in examples), plain_prompt(messages)])
