"""The tokenizer of a Hugging Face model, as the stages use a tokenizer, and how such a model is
asked: in its chat template, else in plain text like our base model.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import TOOL_TOKENS, panics_refused
from nanolab.errors import UserError

TURN = "an answer"  # whose end is looked for


class HFTokenizer:
    """A transformers tokenizer with the interface that the stages use of `Tokenizer`.

    A completion ends with any of `end_tokens`: the tokenizer's end of sequence, those of the
    model's generation config (`ends`), and what its template puts behind an answer. A text starts
    with what the tokenizer itself puts first (`start`, often nothing). One that has the four tool
    tokens by name `has_tools`; the ids of missing ones are -1, which no token equals.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        self.inner = tokenizer
        self.plain = tokenizer.chat_template is None  # then a model is asked in plain text
        vocabulary = tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
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
        turn_end = None if self.plain else self._turn_end()
        known = [tokenizer.eos_token_id, turn_end, *ends]
        self.end_tokens = frozenset(token for token in known if token is not None)
        if not self.end_tokens:
            raise UserError(
                "the model's tokenizer has no end-of-sequence token, with which a completion ends:"
                " set eos_token in its tokenizer_config.json"
            )
        self.assistant_end = min(self.end_tokens) if turn_end is None else turn_end
        self._special |= self.end_tokens
        text = self.encode("a")
        self.start = (framed := tokenizer("a")["input_ids"])[: framed.index(text[0])]
        opening = tokenizer.bos_token_id
        # before a document's first token, as EleutherAI's harness has it where there is no start
        self.document_start = [*self.start, self.assistant_end if opening is None else opening][0]
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
        """The ids after which the model answers; a last answer is left out. Calls and outputs of an
        earlier answer are text, <<call=output>>, but for a model with our tool tokens, whose
        template writes them.
        """
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not self.has_tools:
            messages = [{**message, "content": chat.plain_text(message)} for message in messages]
        if self.plain:
            return [*self.start, *self.encode(chat.plain_prompt(messages))]
        text = self._templated(messages, add_generation_prompt=True)
        with panics_refused(f"a prompt of {len(text):,} characters"):
            # the template names its special tokens
            return self.inner(text, add_special_tokens=False)["input_ids"]

    def _templated(self, messages: Sequence[chat.Message], **options: Any) -> str:
        """The text of a conversation; UserError where the template refuses it, as one without a
        system role does.
        """
        from jinja2 import TemplateError

        try:
            return self.inner.apply_chat_template(list(messages), tokenize=False, **options)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the model's chat template refuses a conversation of {roles}: {error}"
            ) from error

    def _turn_end(self) -> int | None:
        """The special token that the template puts right behind an answer, if it does."""
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": TURN}]
        rest = self._templated(asked).rpartition(TURN)[2]
        ids = self.inner(rest, add_special_tokens=False)["input_ids"]
        return ids[0] if ids and ids[0] in self._special else None
