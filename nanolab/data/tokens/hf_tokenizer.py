"""The tokenizer of a Hugging Face model, as the stages use a tokenizer, and how such a model is
asked: in its chat template, else in plain text like our base model.

A word problem is graded by the number after the last "####", a form that such a model was not
trained on, so each ends with `PROBLEM_NOTE`. Of a plain answer the first paragraph counts.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import TOOL_TOKENS, panics_refused
from nanolab.errors import UserError

PROBLEM_NOTE = "End with the answer as a number after ####."


class HFTokenizer:
    """A transformers tokenizer with the interface that the stages use of `Tokenizer`.

    `assistant_end` is its end-of-sequence token; a text starts with what the tokenizer itself puts
    first (`start`, often nothing). One that has the four tool tokens by name `has_tools`; the ids
    of missing ones are -1, which no token equals.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the model's tokenizer has no end-of-sequence token, with which a completion ends:"
                " set eos_token in its tokenizer_config.json"
            )
        self.inner = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self.assistant_end = tokenizer.eos_token_id
        self.python_start, self.python_end, self.output_start, self.output_end = (
            vocabulary.get(name, -1) for name in TOOL_TOKENS
        )
        self.has_tools = all(name in vocabulary for name in TOOL_TOKENS)
        added = [token for token, facts in tokenizer.added_tokens_decoder.items() if facts.special]
        self._special = {
            *tokenizer.all_special_ids,
            *added,
            *(vocabulary[name] for name in TOOL_TOKENS if name in vocabulary),
        }
        text = self.encode("a")
        self.start = (framed := tokenizer("a")["input_ids"])[: framed.index(text[0])]
        self.plain = tokenizer.chat_template is None  # then a model is asked in plain text
        facts = [sorted(vocabulary.items()), sorted(self._special), str(tokenizer.chat_template)]
        self.digest = hashlib.sha256(repr(facts).encode()).hexdigest()

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text, such as those of a padded embedding alone."""
        return token in self._special or token >= self.vocab_size

    def special(self, name: str) -> int:
        """The id of the token called `name`; KeyError when there is none."""
        return self.inner.get_vocab()[name]

    def encode(self, text: str) -> list[int]:
        """The ids of `text` alone; a special token's name inside it is plain text."""
        with panics_refused(f"a text of {len(text):,} characters"):
            plain = {"add_special_tokens": False, "split_special_tokens": True}
            return self.inner(text, **plain)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens by name."""
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self.inner.decode(list(ids), **options)

    def render_prompt(self, messages: Sequence[chat.Message]) -> list[int]:
        """The ids after which the model answers; a last answer is left out."""
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if self.plain:
            return [*self.start, *self.encode(chat.plain_prompt(messages))]
        text = self.inner.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        with panics_refused(f"a prompt of {len(text):,} characters"):
            # the template names its special tokens
            return self.inner(text, add_special_tokens=False)["input_ids"]
