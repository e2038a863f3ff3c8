"""The tokenizer: byte-level BPE trained by rustbpe, served by tiktoken, stored as text.

Ids 0..255 are the bytes, then the merges in the order they were learned, then the special tokens.

Both libraries panic (a BaseException in Python) on a run of a million blanks. So they get a text in
`pieces`: whole, unless it has more than LONGEST_BLANKS blanks in a row.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tiktoken

from nanolab import artefacts
from nanolab.errors import UserError
from nanolab.files import write_atomic

TOOL_TOKENS = ["<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"]
SPECIAL_TOKENS = [
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    *TOOL_TOKENS,
]

# GPT-4's with two changes. Digits come in groups of at most two, so that a small vocabulary holds
# them all. A word does not swallow a "=" before it: in "- Paris=B" the letter is the token "B".
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}=]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
VOCABULARY_FILE, FACTS_FILE = "vocabulary.txt", "tokenizer.json"
LONGEST_BLANKS = 100_000  # characters of blank space in a row that the libraries get at once
# looking back keeps the search from counting a run again and again
BLANKS = re.compile(rf"(?<!\s)\s{{{LONGEST_BLANKS + 1},}}")


class Unencodable(UserError):
    """A text that a tokenizer library cannot take."""


def pieces(text: str) -> list[str]:
    """The text in pieces, cut only where more than LONGEST_BLANKS blanks follow each other."""
    if len(text) <= LONGEST_BLANKS:
        return [text]
    runs = [run.span() for run in BLANKS.finditer(text)]
    step = LONGEST_BLANKS
    inside = [cut for start, end in runs for cut in range(start + step, end, step)]
    return [text[start:end] for start, end in itertools.pairwise([0, *inside, len(text)])]


@contextlib.contextmanager
def panics_refused(what: str) -> Iterator[None]:
    """Turns a panic of a Rust library, which is no Exception, into an Unencodable about `what`."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise Unencodable(
            f"{what} cannot be tokenised: the library gave up ({error}); shorten it or take it out"
        ) from error


def encode_texts(
    encoding: tiktoken.Encoding, texts: Sequence[str], threads: int = 2
) -> list[list[int]]:
    """The ids of each text in any tiktoken encoding; special tokens' names in it are plain text."""

    def encode(text: str) -> list[int]:
        with panics_refused(f"a text of {len(text):,} characters that starts {text[:40]!r}"):
            first, *others = map(encoding.encode_ordinary, pieces(text))
        return first + [token for ids in others for token in ids]

    if len(texts) == 1:
        return [encode(texts[0])]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(encode, texts))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of `vocab_size` tokens, the nine special ones included, from `texts`.

    Raises UserError, which tells the largest possible size, when `texts` hold too few pairs.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size = {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special"
            f" tokens need {smallest}"
        )
    # here: whoever only reads a vocabulary, or trains on rows of ids, does without it
    import rustbpe

    trainer = rustbpe.Tokenizer()
    with panics_refused("the training text"):
        trainer.train_from_iterator(
            (piece for text in texts for piece in pieces(text)),
            vocab_size - len(SPECIAL_TOKENS),
            pattern=SPLIT_PATTERN,
        )
    ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    tokenizer = Tokenizer([bytes(token) for token, _ in ranked])
    if tokenizer.vocab_size < vocab_size:
        largest = tokenizer.vocab_size
        raise UserError(
            f"vocab_size = {vocab_size} cannot be reached: the training text has merges for"
            f" {largest} tokens only; set tokenizer.vocab_size to at most {largest} or raise"
            " tokenizer.max_chars"
        )
    return tokenizer


class Tokenizer:
    """Text to ids and back; `tokens` are the ordinary ones in rank order, the bytes among them."""

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
        self.user_start, self.user_end = map(self.special, SPECIAL_TOKENS[1:3])
        self.assistant_start, self.assistant_end = map(self.special, SPECIAL_TOKENS[3:5])
        self.end_tokens = frozenset((self.assistant_end,))
        self.python_start, self.python_end = map(self.special, TOOL_TOKENS[:2])
        self.output_start, self.output_end = map(self.special, TOOL_TOKENS[2:])

    def special(self, name: str) -> int:
        """The id of a special token such as "<|bos|>"; KeyError for any other name."""
        return self._special[name]

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text."""
        return token >= self.bos

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; a special token's name inside it is plain text."""
        return encode_texts(self._encoding, [text])[0]

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """The ids of each text, encoded in parallel."""
        return encode_texts(self._encoding, texts, threads)

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
        """Write the vocabulary (a line of base64 a token, in rank order) and, last, the facts."""
        folder, vocabulary = Path(folder), self._vocabulary()
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
        """The tokenizer saved in `folder`; UserError for a missing, damaged or foreign file."""
        folder = Path(folder)
        step, again = folder.absolute().parent, "; bring it again"
        if (step / artefacts.JOB).is_file():  # made here
            again = f"; train it again: {artefacts.command(step, True)}"
        for name in (FACTS_FILE, VOCABULARY_FILE):
            if not (folder / name).is_file():
                raise UserError(f"no tokenizer in {folder}: {name} is missing{again}")
        try:
            facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
            pattern, sha256, special = facts["pattern"], facts["sha256"], facts["special_tokens"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder / FACTS_FILE} is damaged ({type(error).__name__}: {error}){again}"
            ) from error
        vocabulary = (folder / VOCABULARY_FILE).read_bytes()
        if hashlib.sha256(vocabulary).hexdigest() != sha256:
            raise UserError(
                f"{folder / VOCABULARY_FILE} is damaged: its sha256 is not the one in"
                f" {FACTS_FILE}{again}"
            )
        if special != SPECIAL_TOKENS:
            raise UserError(
                f"{folder / FACTS_FILE} has other special tokens than this version of"
                f" nanolab{again}"
            )
        return Tokenizer([base64.b64decode(line) for line in vocabulary.split()], pattern)

    def _vocabulary(self) -> str:
        return "".join(base64.b64encode(token).decode() + "\n" for token in self._tokens)

    def __reduce__(self) -> tuple:
        return Tokenizer, (self._tokens, self.pattern)
