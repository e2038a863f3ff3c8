"""The text of an answer while its tokens come, and what may be sent of it already."""

from collections.abc import Sequence
from typing import Any

from nanolab.data.tokens.chat import completion_text

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # bytes that are no character yet


class Transcript:
    """How an answer reads up to the first of some stop texts.

    A base model that is asked a question answers with its first `paragraph`, as in `chat`.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], paragraph: bool = False) -> None:
        self.tokenizer, self.paragraph = tokenizer, paragraph
        self.stops = [*stops, "\n\n"] if paragraph else list(stops)

    def read(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """The text of a completion, and whether a stop text ended it."""
        text = completion_text(self.tokenizer, tokens)
        if self.paragraph:
            text = text.lstrip("\n")
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return (text[: min(found)], True) if found else (text, False)

    def final(self, tokens: Sequence[int]) -> str:
        """The text of a whole answer."""
        text, _ = self.read(tokens)
        return text.rstrip("\n") if self.paragraph else text

    def settled(self, tokens: Sequence[int]) -> str:
        """What stays as it is whatever comes next: no half character, no part of a stop text, no
        tool call whose output is still to be inserted.
        """
        if tokens[-1] == self.tokenizer.python_end:
            tokens = tokens[:-1]
        text, stopped = self.read(tokens)
        if stopped:
            return text
        text = text.rstrip(UNFINISHED)
        longest = max(map(len, self.stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return text[:-length]
        return text
