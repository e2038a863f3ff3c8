"""From what a client sent to the token ids that the model goes on from."""

from collections.abc import Sequence

from jinja2.exceptions import TemplateError

from nanolab.chat.answer import read_message
from nanolab.data.tokens import chat
from nanolab.errors import UserError
from nanolab.evals.subject import Subject
from nanolab.server.faults import Refusal
from nanolab.settings.model_source import is_outside


def chat_prompt(subject: Subject, messages: Sequence[chat.Message]) -> list[int]:
    """The ids of a conversation in the model's own chat format; Refusal where it has no place for
    one of the messages.
    """
    if messages[-1]["role"] != "user":
        raise Refusal("the last message must be the user's", 400, "messages", "invalid_value")
    try:
        if subject.plain:
            return _plain_prompt(subject, messages)
        if is_outside(subject.source):
            return subject.render(list(messages))
        return subject.render([read_message(message) for message in messages])
    except (UserError, TemplateError) as error:
        raise Refusal(str(error), 400, "messages", "invalid_value") from error


def _plain_prompt(subject: Subject, messages: Sequence[chat.Message]) -> list[int]:
    if len(messages) > 1:
        raise UserError(
            f"the model has no chat format, in which {len(messages)} messages could be written: ask"
            " one question by itself, or use /v1/completions"
        )
    tokenizer = subject.tokenizer
    return [*tokenizer.start, *tokenizer.encode(chat.plain_prompt(messages))]


def completion_prompts(subject: Subject, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    """The ids of texts, after what the tokenizer itself puts first; ids stay as they are."""
    tokenizer, found = subject.tokenizer, []
    for prompt in prompts:
        ids = prompt
        if isinstance(prompt, str):
            ids = [*tokenizer.start, *tokenizer.encode(prompt)]
        elif prompt and max(prompt) >= tokenizer.vocab_size:
            raise Refusal(
                f"prompt has the token {max(prompt)}: the model has {tokenizer.vocab_size}",
                param="prompt",
                code="invalid_value",
            )
        if not ids:
            raise Refusal("prompt is empty: it needs one token", 400, "prompt", "invalid_value")
        found.append(ids)
    if not found:
        raise Refusal("prompt is an empty list", 400, "prompt", "invalid_value")
    return found


def checked_limit(subject: Subject, prompt: Sequence[int], limit: int | None, param: str) -> int:
    """Tokens of the answer at most (None: as many as fit); Refusal where the context is too
    short.
    """
    room = subject.context - len(prompt)
    if room < (limit or 1):
        raise Refusal(
            f"the prompt takes {len(prompt)} tokens and the answer {limit or 'at least 1'}:"
            f" together more than the context of {subject.context}; shorten the prompt, or lower"
            " max_tokens",
            param=param,
            code="context_length_exceeded",
        )
    return limit or room
