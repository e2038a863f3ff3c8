"""What the server answers: OpenAI's objects, with `seed`, `usage.positions`, and of each choice its
`log_p` and what its `power` chain did beside.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from nanolab.server.answers import Answers, Finished, Piece, Step, Token
from nanolab.server.faults import Refusal
from nanolab.server.transcript import UNFINISHED

PATIENCE = 10.0  # seconds of silence after which a stream says that it lives
Facts = dict[str, Any]


class Chat:
    """The form of /v1/chat/completions."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def choice(self, answer: Finished) -> Facts:
        """A whole answer."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"message": message, "logprobs": self.logprobs(answer.tokens, 0)}

    def opening(self) -> Facts:
        """The first delta of a stream."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, text: str, tokens: Sequence[Token], start: int) -> Facts:
        """A further piece of a stream, which began with the character `start`."""
        content = {"content": text} if text else {}
        return {"delta": content, "logprobs": self.logprobs(tokens, start)}

    def logprobs(self, tokens: Sequence[Token], start: int) -> Facts | None:
        """One entry a token; bytes are not known of a token that is a part of a character."""
        content = [
            {
                "token": token.text,
                "logprob": token.log_p,
                "bytes": None if UNFINISHED in token.text else list(token.text.encode()),
                "top_logprobs": [],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None} if content else None


class Completion(Chat):
    """The form of /v1/completions."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def choice(self, answer: Finished) -> Facts:
        """As `Chat` says."""
        return self.delta(answer.text, answer.tokens, 0)

    def opening(self) -> Facts:
        """As `Chat` says."""
        return self.delta("", [], 0)

    def delta(self, text: str, tokens: Sequence[Token], start: int) -> Facts:
        """As `Chat` says."""
        return {"text": text, "logprobs": self.logprobs(tokens, start)}

    def logprobs(self, tokens: Sequence[Token], start: int) -> Facts | None:
        """Four lists of one length; a token's offset counts the characters of those before it."""
        if not tokens:
            return None
        offsets = [start]
        for token in tokens[:-1]:
            offsets.append(offsets[-1] + len(token.text))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_p for token in tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def _ending(answer: Finished) -> Facts:
    """Why and how an answer ended."""
    reason = "stop" if answer.draws.ended else "length"
    facts = {"finish_reason": reason, "log_p": answer.draws.sum_log_p}
    return facts if answer.power is None else {**facts, "power": answer.power}


class Writer:
    """Writes the answers to one request."""

    def __init__(self, answers: Answers, form: Chat) -> None:
        self.answers, self.form = answers, form
        self.id, self.created = f"{form.prefix}{secrets.token_hex(12)}", int(time.time())

    def _envelope(self, kind: str, choices: list[Facts]) -> Facts:
        model, seed = self.answers.served.name, self.answers.seed
        facts = {"id": self.id, "object": kind, "created": self.created, "model": model}
        return {**facts, "seed": seed, "choices": choices}

    def _usage(self, found: Sequence[Finished]) -> Facts:
        read = sum(map(len, self.answers.prompts))
        written = sum(len(answer.draws.tokens) for answer in found)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "positions": sum(answer.positions for answer in found),
        }

    async def body(self) -> Facts:
        """All answers at once."""
        with self.answers:
            found = await self.answers.all()
        choices = [
            {"index": answer.choice, **self.form.choice(answer), **_ending(answer)}
            for answer in found
        ]
        return {**self._envelope(self.form.whole, choices), "usage": self._usage(found)}

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events, the first as soon as the request is taken. Comments (": ...") tell of
        the steps of a chain, and that the server lives.
        """
        options = self.answers.asked.stream_options
        found: list[Finished] = []
        sent = [(0, 0)] * len(self.answers.jobs)  # of each choice, characters and tokens
        with self.answers:
            yield ": taken\n\n"
            for choice in range(len(sent)):
                yield self._chunk(choice, self.form.opening())
            try:
                async for event in self.answers.events(PATIENCE):
                    if event is None:
                        yield ": waiting\n\n"
                    elif isinstance(event, Step):
                        where = f"choice {event.choice}: step {event.step}"
                        yield f": {where}, {event.accepted} accepted\n\n"
                    else:
                        yield self._grown(event, sent)
                    if isinstance(event, Finished):
                        found.append(event)
                        yield self._chunk(event.choice, self.form.delta("", [], 0), _ending(event))
            except Refusal as refusal:
                yield _line(refusal.body)
                return
        if options and options.include_usage:
            envelope = self._envelope(self.form.part, [])
            yield _line({**envelope, "usage": self._usage(found)})
        yield "data: [DONE]\n\n"

    def _grown(self, event: Piece | Finished, sent: list[tuple[int, int]]) -> str:
        """The chunk of what an answer has more than was sent; nothing where that is nothing."""
        start, known = sent[event.choice]
        text, tokens = event.text[start:], event.tokens[known:]
        if not text and not (tokens and isinstance(event, Finished)):
            return ""
        sent[event.choice] = start + len(text), len(event.tokens)
        return self._chunk(event.choice, self.form.delta(text, tokens, start))

    def _chunk(self, choice: int, piece: Facts, ending: Facts | None = None) -> str:
        facts = {"index": choice, **piece, **(ending or {"finish_reason": None})}
        return _line(self._envelope(self.form.part, [facts]))


def _line(facts: Facts) -> str:
    return f"data: {json.dumps(facts, ensure_ascii=False)}\n\n"
