"""What a sampler and a model agree on: the protocols, the requests and replies between them, and log p and log q of a draw.

Notation: p is the model's full softmax at temperature 1; q is the proposal, p at `temperature` T restricted to the `top_k` most
likely tokens: q(v) = p(v)^(1/T) / Z_T. All log-probabilities are natural logarithms (nats). Temperature 0 is greedy decoding:
q puts all its mass on the most likely token, so log q = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy
import torch

from nanolab.model import kernels
from nanolab.schema import UserError
from nanolab.seeds import Noise


class LanguageModel(Protocol):
    """Rows of tokens that grow, are rewound and are copied. A row is a number that the model gave out."""

    vocab_size: int
    end_token: int  # a completion ends with it
    max_length: int  # positions that a row may hold, prompt included

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """New rows holding all but the last token of each prompt; `decode` takes that last token next."""

    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """Append `tokens[i]` (one token, or a whole forced output with it) to `rows[i]`, all different.

        Returns the logits after the last token of each: (rows, vocab) float32 (float64 for an exact toy model).
        """

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """Let `rows[i]` hold the first `lengths[i]` tokens of `parents[i]`, all at once from the contents before the call.

        rows[i] = -1 takes a new row; rows[i] = parents[i] rewinds; parents[i] = -1 gives rows[i] back. Returns the rows (-1: given back).
        A row that is overwritten is not a parent of another row in the same call.
        """

    def forced(self, row: int, token: int) -> list[int]:
        """The tokens that the environment inserts once `token` follows the tokens of `row` (a tool's output); [] for none."""


class SpanScore(NamedTuple):
    """The log-probability of a span of tokens given all tokens before it."""

    log_p: float  # sum over the span, nats, float64
    per_token: list[float]  # nats
    greedy: bool  # every token of the span is the most likely one at its position


class Scorer(Protocol):
    """Evaluation's view of a model: probabilities of given tokens."""

    def score(self, ids: list[list[int]], spans: list[tuple[int, int]]) -> list[SpanScore]:
        """Score tokens ids[i][start:end] of each row, (start, end) = spans[i] with start >= 1."""

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32."""


class Counts(NamedTuple):
    """Work done by a model: token positions forwarded (prompts included, padding not) and forward calls.

    rows / (decodes * batch_rows) is how full the batch was.
    """

    positions: int
    forwards: int  # prefills and decodes
    decodes: int = 0
    rows: int = 0  # rows of all decodes together


@dataclass
class Completion:
    """A finished (or block-limited) completion with what was recorded when it was drawn."""

    tokens: list[int]
    forced: list[bool]  # True where the environment inserted the token
    log_p: list[float]  # nats at temperature 1; 0 at forced tokens
    log_q: list[float]  # nats of the proposal that drew the token; 0 at forced tokens
    ended: bool  # the last token is the end token
    positions: int = 0  # token positions forwarded to draw it, its prompt included where this completion paid for it

    @property
    def sum_log_p(self) -> float:
        """log p of the model-chosen tokens (nats)."""
        return float(sum(self.log_p))


@dataclass(slots=True)
class Decode:
    """A chain's request: keep `cut` completion tokens of `parent`, then draw from q until the end token or `limit`."""

    parent: Any  # the handle of an earlier Suffix of this program; None: the bare prompt (only in the first request)
    cut: int  # completion tokens kept
    address: tuple[
        int, ...
    ]  # (chain, step): token i of the completion draws the uniform at (*address, i)
    limit: int  # completion tokens at which drawing stops
    max_length: int  # completion tokens at which a forced output is cut; at inner block boundaries above `limit`
    temperature: float  # 0: greedy
    top_k: int | None  # None: all tokens
    alpha: float = 1.0  # exponent of the target, for `a`
    floor: numpy.ndarray | None = (
        None  # (limit - cut + 1,) float64: give up once the sum of the first m a' is below floor[m]; None: never
    )
    revisit: bool = True  # whether a later request may cut inside this suffix
    first: int | None = (
        None  # the token at `cut`, one that q can reach, where the kernel chooses it instead of drawing
    )
    keep: bool = True  # whether the parent may be a parent again later; False lets the last child take over its row


@dataclass(slots=True)
class Suffix:
    """The reply to a `Decode`: the tokens from position `cut` on, with what was recorded for each."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)  # nats; 0 at forced tokens, as in log_q and a
    log_q: list[float] = field(default_factory=list)
    a: list[float] = field(default_factory=list)  # alpha log p - log q
    ended: bool = False  # the end token was drawn
    given_up: bool = False  # the floor was crossed: incomplete, certain to be rejected
    positions: int = 0  # token positions forwarded for this request
    choices: list[Choices | None] = field(
        default_factory=list
    )  # what each token was drawn from; None: forced, or not to be revisited
    handle: Any = None  # names the state kept[:cut] + tokens as a later request's parent


class Choices(NamedTuple):
    """The tokens that q could draw at one position, in the order of their ids."""

    top_k: int | None  # how many were asked for
    ids: numpy.ndarray  # (k,) int64
    log_p: numpy.ndarray  # (k,) nats of the full softmax


# yields one request and receives its reply, or yields a list (branches of one program) and receives the list of replies
Kernel = Generator[Decode | list[Decode], Any, Any]


class Program(NamedTuple):
    """One chain or population for the scheduler: a prompt, the generator that yields `Decode`s, and its uniforms."""

    prompt: list[int]
    kernel: Kernel
    noise: Noise


Done = Callable[
    [int, Any], None
]  # called with a program's (or problem's) number and its result, as soon as it is there


class Candidates(NamedTuple):
    """The tokens that q can draw at n positions, in the order of their ids (so that ties are stable)."""

    ids: numpy.ndarray  # (n, k) int64
    log_p: (
        numpy.ndarray
    )  # (n, k) nats of the full softmax, at most 0; float32, or float64 for float64 logits


def candidates(logits: torch.Tensor, top_k: int | None, name: str = "the model") -> Candidates:
    """The `top_k` most likely tokens (None: all) of logits (n, vocab), float32 or float64.

    Raises UserError naming the model when a logit is not a number: the checkpoint is damaged or its training diverged.
    """
    vocab_size = logits.shape[-1]
    if (
        top_k is not None
        and top_k < vocab_size
        and kernels.usable(logits.dtype, logits.device, top_k)
    ):
        ids, log_p, bad = kernels.top_candidates(logits, top_k)
        _check_finite(bad, len(logits), name)
        return Candidates(ids, log_p)
    total = torch.logsumexp(logits, -1, keepdim=True)
    _check_finite(int((~torch.isfinite(total)).sum()), len(total), name)
    if top_k is None or top_k >= vocab_size:
        ids = numpy.broadcast_to(numpy.arange(vocab_size), tuple(logits.shape))
        return Candidates(ids, (logits - total).clamp(max=0).cpu().numpy())
    chosen = torch.topk(logits, top_k, dim=-1, sorted=False).indices.sort(-1).values
    return Candidates(
        chosen.cpu().numpy(), (logits.gather(-1, chosen) - total).clamp(max=0).cpu().numpy()
    )


def _check_finite(bad: int, rows: int, name: str) -> None:
    if bad:
        raise UserError(
            f"the logits of {name} are not finite at {bad} of {rows} positions: the checkpoint is damaged or diverged; "
            "train that step again with a lower learning rate, or choose an earlier checkpoint"
        )


def log_normalizer(log_p: numpy.ndarray, temperature: float) -> numpy.ndarray:
    """log Z_T (n,) float64 of candidates' log p (n, k); at most 0 where 1/T >= 1, as in exact arithmetic."""
    return _weights(log_p, temperature)[1]


def _weights(log_p: numpy.ndarray, temperature: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Cumulative unnormalised q over the candidates (n, k), and log Z_T (n,), float64."""
    scaled = log_p.astype(numpy.float64) / temperature
    top = scaled.max(-1, keepdims=True)
    cumulative = numpy.cumsum(numpy.exp(scaled - top), -1)
    log_z = top[:, 0] + numpy.log(cumulative[:, -1])
    return cumulative, numpy.minimum(log_z, 0.0) if temperature <= 1 else log_z


def draw(
    log_p: numpy.ndarray, temperature: float, u: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Which candidate q draws for each uniform u (n,), by inverse CDF over log p (n, k): (index (n,), log Z_T (n,)).

    Temperature 0 takes the single candidate (top_k = 1), where log Z of "T = 1" is its log p.
    """
    cumulative, log_z = _weights(log_p, temperature or 1.0)
    total = cumulative[:, -1:]
    index = ((cumulative <= u[:, None] * total) & (cumulative < total)).sum(
        -1
    )  # never a candidate of weight 0
    return index, log_z


def effective_top_k(temperature: float, top_k: int | None) -> int | None:
    """Greedy decoding is q over the single most likely token."""
    return 1 if temperature == 0 else top_k


def power_term(
    log_p: numpy.ndarray, log_z: numpy.ndarray, temperature: float, alpha: float
) -> numpy.ndarray:
    """a = alpha log p - log q, as (alpha - 1/T) log p + log Z_T: at most 0 wherever alpha >= 1/T >= 1, in floating point too."""
    return (alpha - 1 / (temperature or 1.0)) * log_p + log_z


def log_p_log_q(
    logits: torch.Tensor, tokens: list[int], temperature: float, top_k: int | None
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """log p, log q and log Z_T (each (n,) float64, nats) of `tokens` (n) at logits (n, vocab); log q is -inf where q cannot reach.

    The plain form of what the scheduler records as it draws (`candidates`, `draw`, `power_term`); tests hold the two together.
    """
    kept = candidates(logits, effective_top_k(temperature, top_k))
    everything = candidates(logits, None).log_p.astype(numpy.float64)
    wanted = numpy.asarray(tokens, dtype=numpy.int64)
    log_p = everything[numpy.arange(len(wanted)), wanted]
    log_z = log_normalizer(kept.log_p, temperature or 1.0)
    reachable = (kept.ids == wanted[:, None]).any(-1)
    return log_p, numpy.where(reachable, log_p / (temperature or 1.0) - log_z, -numpy.inf), log_z


def check_sampling(*, temperature: float, top_k: int | None, max_new_tokens: int) -> None:
    """Raises UserError for a temperature below 0, a top_k below 1 or a max_new_tokens below 1."""
    if not temperature >= 0:
        raise UserError(f"temperature = {temperature} must be at least 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k = {top_k} must be at least 1, or null for all tokens")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens = {max_new_tokens} must be at least 1")


def check_target(
    *, alpha: float, temperature: float, top_k: int | None, max_new_tokens: int
) -> None:
    """Raises UserError for what `check_sampling` does, a temperature of 0 and an alpha below 1."""
    check_sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens)
    if not temperature > 0:
        raise UserError(
            f"temperature = {temperature} must be above 0: a greedy proposal cannot be corrected"
        )
    if not alpha >= 1:
        raise UserError(f"alpha = {alpha} must be at least 1")


def log_mean(logarithms: numpy.ndarray) -> float:
    """log of the mean of exp(logarithms)."""
    top = logarithms.max()
    return float(top + numpy.log(numpy.exp(logarithms - top).mean()))


def check_lengths(model: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> None:
    """Raises UserError when a prompt is empty, or a prompt with `max_new_tokens` more does not fit into the model's context."""
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty: it needs at least one token, such as <|bos|>")
        if len(prompt) > model.max_length:
            raise UserError(
                f"prompt {i} has {len(prompt)} tokens, more than the context of {model.max_length}: "
                "shorten it or raise max_length"
            )
        if len(prompt) + max_new_tokens > model.max_length:
            raise UserError(
                f"prompt {i} has {len(prompt)} tokens and max_new_tokens = {max_new_tokens}: together more than the context of "
                f"{model.max_length}; max_new_tokens can be at most {model.max_length - len(prompt)} here"
            )
