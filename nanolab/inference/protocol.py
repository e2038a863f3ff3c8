"""What a sampler and a model agree on: the protocols, and the requests and replies between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy
import torch

from nanolab.errors import UserError
from nanolab.inference.proposal import Candidates, Sampling
from nanolab.seeds import Noise


class LanguageModel(Protocol):
    """Rows of tokens that grow, are rewound and copied; a row is a number the model gave out."""

    vocab_size: int
    end_tokens: frozenset[int]  # a completion ends with any of them
    max_length: int  # positions that a row may hold, prompt included

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """New rows with all but the last token of each prompt; `decode` takes that one next."""

    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """Append `tokens[i]` (one token, or a forced output with it) to `rows[i]`, all different:
        the logits after the last of each, (rows, vocab) float32 (of a toy model float64).
        """

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """Let `rows[i]` hold the first `lengths[i]` tokens that `parents[i]` held before the call.

        rows[i] = -1 takes a new row; rows[i] = parents[i] rewinds; parents[i] = -1 gives rows[i]
        back. Returns the rows (-1: given back). A row that is overwritten is no parent of another.
        """

    def forced(self, row: int, token: int) -> list[int]:
        """What the environment inserts after `row` and `token` (a tool's output); [] for none."""


class SpanScore(NamedTuple):
    """The log-probability of a span of tokens given all tokens before it."""

    log_p: float  # sum over the span, nats, float64
    per_token: list[float]  # nats
    greedy: bool  # every token of the span is the most likely one at its position


class Scorer(Protocol):
    """Evaluation's view of a model: probabilities of given tokens."""

    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """log p of ids[i][start:end] given ids[i][:start], for (start, end) = spans[i].

        `sizes` (None: all 1) says how many consecutive rows are of one example: the tokens with
        which they all begin are forwarded once. Raises UserError for a span outside its row, or one
        that starts at the first token.
        """

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32."""


@dataclass(slots=True)
class Draws:
    """Tokens of a completion with what was recorded as each was drawn: five lists of one length.

    A slice takes a part of all five, + joins two.
    """

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)  # True where the environment inserted it
    log_p: list[float] = field(default_factory=list)  # nats at temperature 1; 0 where forced
    log_q: list[float] = field(default_factory=list)  # nats of the proposal; 0 where forced
    a: list[float] = field(default_factory=list)  # alpha log p - log q; 0 where forced
    ended: bool = False  # the last token is the end token, or the program's watch ended it
    # token positions forwarded to draw them (a slice: all of the whole), and the prompt's where
    # these draws were the first to use it
    positions: int = 0

    @property
    def sum_log_p(self) -> float:
        """log p of the model-chosen tokens (nats)."""
        return float(sum(self.log_p))

    def done(self, sampling: Sampling) -> bool:
        """Whether the completion has ended or reached the limit."""
        return self.ended or len(self.tokens) >= sampling.max_new_tokens

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """The five lists."""
        return self.tokens, self.forced, self.log_p, self.log_q, self.a

    def __getitem__(self, part: slice) -> Draws:
        ended = self.ended and part.stop in (None, len(self.tokens))
        return Draws(*(column[part] for column in self.columns), ended, self.positions)

    def __add__(self, more: Draws) -> Draws:
        columns = (own + new for own, new in zip(self.columns, more.columns))
        return Draws(*columns, more.ended, self.positions + more.positions)

    def append(self, token: int, log_p: float, log_q: float, a: float) -> None:
        """One more token, which the model chose."""
        for column, value in zip(self.columns, (token, False, log_p, log_q, a)):
            column.append(value)

    def append_forced(self, tokens: list[int]) -> None:
        """More tokens, which the environment inserted."""
        self.tokens += tokens
        self.forced += [True] * len(tokens)
        for numbers in (self.log_p, self.log_q, self.a):
            numbers += [0.0] * len(tokens)


class Choices(NamedTuple):
    """The tokens that q could draw at one position, in the order of their ids."""

    top_k: int | None  # how many were asked for
    ids: numpy.ndarray  # (k,) int64
    log_p: numpy.ndarray  # (k,) nats of the full softmax

    @classmethod
    def at(cls, top_k: int | None, kept: Candidates, i: int) -> Choices:
        """Of position i; positions of the whole vocabulary share their ids."""
        ids = kept.ids[i] if kept.ids.strides[0] == 0 else kept.ids[i].copy()
        return cls(top_k, ids, kept.log_p[i].copy())


@dataclass(slots=True, kw_only=True)
class Decode:
    """A chain's request: keep `cut` completion tokens of `parent`, then draw from q until the end
    token or `limit`; a forced output is cut at `sampling.max_new_tokens` instead.
    """

    sampling: Sampling
    address: tuple[int, ...]  # (chain, step): token i draws the uniform at (*address, i)
    limit: int  # completion tokens at which drawing stops
    # the handle of an earlier Suffix of this program; None: the bare prompt (first request only)
    parent: Any = None
    cut: int = 0  # completion tokens kept
    # (limit - cut + 1,): give up once the sum of the first m a' is below floor[m]
    floor: numpy.ndarray | None = None
    revisit: bool = True  # whether a later request may cut inside this suffix
    first: int | None = None  # the token at `cut`, where the kernel chooses it
    keep: bool = True  # whether the parent may be one again; else the last child takes its row


@dataclass(slots=True)
class Suffix(Draws):
    """The reply to a `Decode`: the draws from position `cut` on."""

    given_up: bool = False  # the floor was crossed: incomplete, certain to be rejected
    # what each token was drawn from; None: forced, or not to be revisited
    choices: list[Choices | None] = field(default_factory=list)
    handle: Any = None  # names the state kept[:cut] + tokens as a later request's parent


# yields one request, or a list (branches of one program), and receives its reply or their list
Kernel = Generator[Decode | list[Decode], Any, Any]


# called after each token that the model chose, with the completion and the draws of its suffix so
# far; True: the completion ends there, as with an end token. A function of the tokens alone.
Watch = Callable[[list[int], Draws], bool]


class Program(NamedTuple):
    """One chain or population for the scheduler, with its uniforms."""

    prompt: list[int]
    kernel: Kernel
    noise: Noise
    watch: Watch | None = None


# called with a program's (or problem's) number and its result, as soon as it is there
Done = Callable[[int, Any], None]


class Server(Protocol):
    """A model with a batch and a cache of its own, in the place of a `LanguageModel`."""

    vocab_size: int
    end_tokens: frozenset[int]
    max_length: int
    engine: str  # its name: positions of two engines are not compared

    def serve(
        self, programs: Sequence[Program], batch_rows: int, on_done: Done | None
    ) -> list[Any]:
        """As `scheduler.serve` says."""


def check_lengths(model: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> None:
    """Raises UserError for an empty prompt, and for one without room for `max_new_tokens` more."""
    context = model.max_length
    for i, prompt in enumerate(prompts):
        count = len(prompt)
        if not count:
            raise UserError(f"prompt {i} is empty: it needs at least one token, such as <|bos|>")
        if count > context:
            raise UserError(
                f"prompt {i} has {count} tokens, more than the context of {context}: shorten it or"
                " raise max_length"
            )
        if count + max_new_tokens > context:
            raise UserError(
                f"prompt {i} has {count} tokens and max_new_tokens = {max_new_tokens}: together"
                f" more than the context of {context}; max_new_tokens can be at most"
                f" {context - count} here"
            )
