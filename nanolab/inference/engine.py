"""What the engines share: rows of tokens over a key/value cache, and the scores of given tokens."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nanolab.data.tokens.chat import forced_output, tool_call
from nanolab.errors import UserError
from nanolab.inference.decode import ROWS
from nanolab.inference.kv_cache import KVCache, rounded
from nanolab.inference.protocol import SpanScore
from nanolab.sandbox.programs import Tools

# padded tokens of one prefill forward: on a CPU, what its cache holds
PREFILL_TOKENS = {"cpu": 512, "cuda": 16_384}
New = tuple[int, int, list[int]]  # a row's slot, the position of its first new token, new tokens


class CachedRows:
    """The `LanguageModel` protocol over a `KVCache` that grows as needed, up to `max_length`
    positions a row. `tools` None: no tool is ever run.

    An engine adds `_prefill(ids, slots)`, which writes the keys and values of padded rows ids (n,
    length) to slots (n,), and `_decode(new, longest)`: logits (n, vocab) after each of the new
    tokens, whose slots are 0 .. n-1. What lies beyond the end of a shorter row is masked until it
    is overwritten.
    """

    cache: KVCache
    device: torch.device
    max_length: int
    name = "the model"  # in messages
    _prefill: Callable[[torch.Tensor, torch.Tensor], None]
    _decode: Callable[[list[New], int], torch.Tensor]

    def __init__(self, tokenizer: Any, tools: Tools | None, tool_max_output_tokens: int) -> None:
        self.tokenizer, self.tools = tokenizer, tools
        self.tool_max_output_tokens = tool_max_output_tokens
        self.end_tokens: frozenset[int] = tokenizer.end_tokens
        self.tokens: dict[int, list[int]] = {}  # row -> the tokens it holds

    @torch.no_grad()
    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """As the protocol says; prompts of similar length are forwarded together."""
        texts = [prompt[:-1] for prompt in prompts]
        lengths = [len(text) for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        self.cache.reserve(lengths[order[-1]] + 1, len(self.cache.slots) + len(texts))
        rows = {i: self.cache.allocate(lengths[i]) for i in order}
        self.tokens.update((rows[i], texts[i]) for i in order)
        for batch in length_batches(order, lengths, PREFILL_TOKENS[self.device.type]):
            ids = padded_ids([texts[i] for i in batch], self.device)
            if ids.numel():
                self.cache.reserve(ids.shape[1])
                slots = [self.cache.slots[rows[i]] for i in batch]
                self._prefill(ids, torch.tensor(slots, device=self.device))
        return [rows[i] for i in range(len(texts))]

    @torch.no_grad()
    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """As the protocol says: logits (rows, vocab) float32 on the model's device."""
        lengths = self.cache.lengths
        longest = max(lengths[row] + len(more) for row, more in zip(rows, tokens, strict=True))
        if longest > self.max_length:
            raise UserError(
                f"a row of {longest} tokens does not fit into the context of {self.max_length}"
            )
        new = []
        for row, slot, more in zip(rows, self.cache.arrange(rows), tokens):
            new.append((slot, lengths[row], more))
            lengths[row] += len(more)
            self.tokens[row] += more
        return self._decode(new, longest)

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """As the protocol says."""
        new = self.cache.fork(rows, parents, lengths)
        kept = [self.tokens[row][:n] if row != -1 else [] for row, n in zip(parents, lengths)]
        for row, target, tokens in zip(rows, new, kept, strict=True):
            if target == -1:
                del self.tokens[row]
            else:
                self.tokens[target] = tokens
        return new

    def forced(self, row: int, token: int) -> list[int]:
        """A tool's output between its two marks, once `token` closes a call."""
        if self.tools is None or token != self.tokenizer.python_end:
            return []
        text = [*self.tokens[row], token]
        return tool_output(self.tokenizer, self.tools, text, self.tool_max_output_tokens)


def tool_output(tokenizer: Any, tools: Tools, text: list[int], most: int) -> list[int]:
    """The output, of at most so many tokens, of the call that a text ends with, between its marks;
    [] where there is no call.
    """
    call = tool_call(tokenizer, text)
    return [] if call is None else forced_output(tokenizer, tools.output(call), most)


def padded_ids(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Token rows (rows, length) int64, padded with 0 at their ends to a common multiple of 8."""
    length = rounded(max(map(len, rows)), ROWS)
    padded = [[*row, *[0] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).view(len(rows), length)


def length_batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """`order` (by rising length) in batches of at most `tokens` padded tokens, and of lengths that
    waste at most about a quarter.
    """
    batches: list[list[int]] = []
    shortest = 0
    for i in order:
        longest = rounded(max(lengths[i], 1), ROWS)
        full = not batches or (len(batches[-1]) + 1) * longest > tokens
        if full or longest > 1.5 * shortest:
            batches.append([])
            shortest = longest
        batches[-1].append(i)
    return batches


def check_rows(ids: list[list[int]], spans: list[tuple[int, int]] | None = None) -> None:
    """Raises UserError for an empty row, and for a span outside its row or at its first token."""
    for i, row in enumerate(ids):
        if not row:
            raise UserError(f"row {i} to score is empty")
    for i, (row, (start, end)) in enumerate(zip(ids, spans or [], strict=spans is not None)):
        if not 1 <= start <= end <= len(row):
            raise UserError(
                f"span {i} = ({start}, {end}) does not lie in its row of {len(row)} tokens, start"
                " at least 1"
            )


def token_scores(logits: torch.Tensor, tokens: list[int]) -> tuple[list[float], list[bool]]:
    """log p (nats) of each token (n) at logits (n, vocab), and whether it is the most likely."""
    wanted = torch.tensor(tokens, dtype=torch.int64, device=logits.device)
    log_p = torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0]
    return log_p.tolist(), (logits.argmax(-1) == wanted).tolist()


def span_scores(
    spans: Sequence[tuple[int, int]], log_p: list[float], best: list[bool]
) -> list[SpanScore]:
    """The scores of spans (start, end), from log p (nats) of their tokens, one span after another,
    and whether each token is the most likely one.
    """
    scores, place = [], 0
    for start, end in spans:
        own = slice(place, place + end - start)
        scores.append(SpanScore(float(sum(log_p[own])), log_p[own], all(best[own])))
        place = own.stop
    return scores
