"""The tokenizer: byte-level BPE trained by rustbpe, served by tiktoken, stored as text.

Ids 0..255 are the bytes, then the merges in the order they were learned, then the nine special tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import rustbpe
import tiktoken

from nanolab.files import write_atomic
from nanolab.schema import UserError

SPECIAL_TOKENS = [
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
]

# GPT-4's split pattern with two changes. Digits come in groups of at most two, so that a small vocabulary holds all of
# them. A word does not swallow a "=" before it: in "- Paris=B" the letter is then the very token that the answer "B" is.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}=]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
VOCABULARY_FILE, FACTS_FILE = "vocabulary.txt", "tokenizer.json"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of `vocab_size` tokens, the nine special ones included, from `texts`.

    Raises UserError when `texts` hold too few distinct pairs for that many merges, telling the largest possible size.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size = {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens need {smallest}"
        )
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(
        iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN
    )
    ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    tokenizer = Tokenizer([bytes(token) for token, _ in ranked])
    if tokenizer.vocab_size < vocab_size:
        largest = tokenizer.vocab_size
        raise UserError(
            f"vocab_size = {vocab_size} cannot be reached: the training text has merges for {largest} tokens only; "
            f"set tokenizer.vocab_size to at most {largest} or raise tokenizer.max_chars"
        )
    return tokenizer


class Tokenizer:
    """Text to ids and back.

    `tokens` are the ordinary tokens in rank order, the 256 bytes among them. Special tokens take the last ids.
    """

    def __init__(self, tokens: Sequence[bytes], pattern: str = SPLIT_PATTERN) -> None:
        self._tokens = list(tokens)
        self.pattern = pattern
        self._special = {name: len(self._tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.digest = hashlib.sha256((pattern + "\n" + self._vocabulary()).encode()).hexdigest()
        self._encoding = tiktoken.Encoding(
            "nanolab-" + self.digest[:12],
            pat_str=pattern,
            special_tokens=self._special,
            mergeable_ranks={token: rank for rank, token in enumerate(self._tokens)},
        )
        self.vocab_size = len(self._tokens) + len(SPECIAL_TOKENS)
        self.bos = self.special("<|bos|>")
        self.start = [self.bos]  # what every text starts with
        self.user_start, self.user_end = (
            self.special("<|user_start|>"),
            self.special("<|user_end|>"),
        )
        self.assistant_start, self.assistant_end = (
            self.special("<|assistant_start|>"),
            self.special("<|assistant_end|>"),
        )
        self.python_start, self.python_end = (
            self.special("<|python_start|>"),
            self.special("<|python_end|>"),
        )
        self.output_start, self.output_end = (
            self.special("<|output_start|>"),
            self.special("<|output_end|>"),
        )

    def special(self, name: str) -> int:
        """The id of a special token such as "<|bos|>"; KeyError for any other name."""
        return self._special[name]

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text."""
        return token >= self.bos

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; a special token's name inside it is plain text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """The ids of each text, encoded in parallel."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens by name; bytes that are not UTF-8 become U+FFFD."""
        return self._encoding.decode(list(ids))

    def piece(self, token: int) -> bytes:
        """The bytes of an ordinary token; a UTF-8 character may be cut between two."""
        return self._tokens[token]

    def token_bytes(self) -> list[int]:
        """Bytes of text that each id stands for; 0 for special tokens, which stand for no text."""
        return [len(token) for token in self._tokens] + [0] * len(SPECIAL_TOKENS)

    def save(self, folder: Path | str) -> None:
        """Write the vocabulary (a line of base64 a token, in rank order) and, last, the facts with its sha256."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = self._vocabulary()
        write_atomic(folder / VOCABULARY_FILE, vocabulary)
        facts = {
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": SPECIAL_TOKENS,
            "digest": self.digest,
            "sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
        }
        write_atomic(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")

    @staticmethod
    def load(folder: Path | str) -> Tokenizer:
        """The tokenizer saved in `folder`; UserError when a file is missing, damaged or of another version."""
        folder = Path(folder)
        for name in (FACTS_FILE, VOCABULARY_FILE):
            if not (folder / name).is_file():
                raise UserError(
                    f"no tokenizer in {folder}: {name} is missing; run the tokenizer stage"
                )
        again = "; train the tokenizer again with fresh: true"
        try:
            facts = json.loads((folder / FACTS_FILE).read_text())
            pattern, sha256, special = facts["pattern"], facts["sha256"], facts["special_tokens"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder / FACTS_FILE} is damaged ({type(error).__name__}: {error}){again}"
            ) from error
        vocabulary = (folder / VOCABULARY_FILE).read_bytes()
        if hashlib.sha256(vocabulary).hexdigest() != sha256:
            raise UserError(
                f"{folder / VOCABULARY_FILE} is damaged: its sha256 is not the one in {FACTS_FILE}{again}"
            )
        if special != SPECIAL_TOKENS:
            raise UserError(
                f"{folder / FACTS_FILE} has other special tokens than this version of nanolab{again}"
            )
        return Tokenizer([base64.b64decode(line) for line in vocabulary.split()], pattern)

    def _vocabulary(self) -> str:
        return "".join(base64.b64encode(token).decode() + "\n" for token in self._tokens)

    def __reduce__(self) -> tuple:
        return Tokenizer, (self._tokens, self.pattern)
