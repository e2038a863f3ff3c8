"""The GPT behind the `LanguageModel` and `Scorer` protocols: cached decoding with tools, and scoring of given tokens.

Decoding feeds a flat batch: one token of every row, in slot order, then the earlier tokens of forced outputs. Linear layers see one
(tokens, width) matrix; attention reads the cache's first slots as they stand. On CPU in float32 the decisions of a chain must not
depend on its batch, so token batches are padded to multiples of 8 and lengths to multiples of 16: shapes whose results were measured
to agree bitwise for heads of 32 or more dimensions. On CUDA a step is a CUDA graph, and shapes are its.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nanolab.data.chat import forced_output, tool_call
from nanolab.data.tokenizer import Tokenizer
from nanolab.generation import SpanScore
from nanolab.model.attention import causal_attention
from nanolab.model.decode import (
    ROWS,
    GraphedStep,
    Rotary,
    graph_shape,
    padded_shape,
    rotary_tables,
    step,
)
from nanolab.model.gpt import GPT, norm
from nanolab.model.kv_cache import KVCache, rounded
from nanolab.model.trees import Tree, common_prefix, hidden_states
from nanolab.sandbox import Tools
from nanolab.schema import UserError

PREFILL_TOKENS = {
    "cpu": 512,
    "cuda": 16_384,
}  # padded tokens of one prefill forward: on a CPU, what its cache holds
SCORE_TOKENS = {
    "cpu": 2_048,
    "cuda": 16_384,
}  # tokens of one scoring forward at most, unless a single tree has more


class CachedRows:
    """What language models with a `KVCache` share: the tokens of each row, and the tool whose output is forced after a call."""

    cache: KVCache
    tokens: dict[int, list[int]]  # row -> the tokens it holds
    tokenizer: Any  # as data/chat.py uses one
    tools: Tools | None
    tool_max_output_tokens: int
    call_end: int  # the token that closes a tool call
    name = "the model"  # in messages

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """As the protocol says."""
        new = self.cache.fork(rows, parents, lengths)
        kept = [
            self.tokens[parent][:length] if parent != -1 else []
            for parent, length in zip(parents, lengths, strict=True)
        ]
        for row, target, tokens in zip(rows, new, kept, strict=True):
            if target == -1:
                del self.tokens[row]
            else:
                self.tokens[target] = tokens
        return new

    def forced(self, row: int, token: int) -> list[int]:
        """A tool's output between its two marks, once `token` closes a call; cut to `tool_max_output_tokens`."""
        if token != self.call_end or self.tools is None:
            return []
        call = tool_call(self.tokenizer, [*self.tokens[row], token])
        return (
            []
            if call is None
            else forced_output(self.tokenizer, self.tools.output(call), self.tool_max_output_tokens)
        )


class GPTLanguageModel(CachedRows):
    """Rows of a GPT with a key/value cache; rows and length of the cache grow as needed, up to `max_length` positions a row.

    `tools` None: no tool is ever run. `max_length` None: the model's sequence length; a larger one extrapolates the rotary positions.
    The model is used as it is: put it on its device, in its dtype, and do not train it while rows are alive.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        tools: Tools | None = None,
        rows: int = 64,
        max_length: int | None = None,
        tool_max_output_tokens: int = 128,
    ) -> None:
        if tokenizer.vocab_size != model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}: "
                "they are not of one study"
            )
        self.model, self.tokenizer, self.tools = model.eval(), tokenizer, tools
        self.tool_max_output_tokens = tool_max_output_tokens
        self.vocab_size, self.end_token = (
            tokenizer.vocab_size,
            tokenizer.special("<|assistant_end|>"),
        )
        self.call_end = tokenizer.special("<|python_end|>")
        self.max_length = max_length or model.config.sequence_length
        weight = model.embedding.weight
        self.device = weight.device
        self.cache = KVCache(
            len(model.blocks),
            model.config.kv_heads,
            model.config.width // model.config.heads,
            weight.dtype,
            self.device,
            2 * rows,
            self.max_length,
        )
        self.tables: Rotary | None = None
        self.shape, self.step = (
            (graph_shape, GraphedStep()) if self.device.type == "cuda" else (padded_shape, step)
        )
        self.tokens = {}

    @torch.no_grad()
    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """As the protocol says; prompts of similar length are forwarded together."""
        rows = [-1] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        self.cache.reserve(len(prompts[order[-1]]))
        for i in order:
            rows[i] = self.cache.allocate(len(prompts[i]) - 1)
            self.tokens[rows[i]] = prompts[i][:-1]
        for batch in length_batches(
            order, [len(prompt) - 1 for prompt in prompts], PREFILL_TOKENS[self.device.type]
        ):
            self._prefill([rows[i] for i in batch], [prompts[i][:-1] for i in batch])
        return rows

    def _prefill(self, rows: list[int], prompts: list[list[int]]) -> None:
        ids = padded_ids(prompts, self.device)
        length = ids.shape[1]
        if length == 0:
            return
        self.cache.reserve(length)
        slots = torch.tensor([self.cache.slots[row] for row in rows], device=self.device)
        rotary = self.model.rotary(torch.arange(length, device=self.device))
        store = self.cache.by_slot()
        x = self.model.embed(ids)
        for i, block in enumerate(self.model.blocks):
            q, k, v = block.attention.queries_keys_values(norm(x), *rotary)
            store[0, i, slots, :, :length] = k
            store[1, i, slots, :, :length] = v
            if i == len(self.model.blocks) - 1:
                break  # nothing reads the last layer's output
            x = x + block.attention.project(causal_attention(q, k, v))
            x = x + block.feed_forward(norm(x))

    @torch.no_grad()
    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """As the protocol says: logits (rows, vocab) float32 on the model's device."""
        count, lengths = len(rows), self.cache.lengths
        slots = self.cache.arrange(rows)
        longest = max(lengths[row] + len(more) for row, more in zip(rows, tokens, strict=True))
        if longest > self.max_length:
            raise UserError(
                f"a row of {longest} tokens does not fit into the context of {self.max_length}"
            )
        padded, length = self.shape(count, longest)
        self.cache.reserve(length, padded)
        if self.tables is None or len(self.tables.cos) <= self.cache.length:
            self.tables = rotary_tables(self.model, self.cache.length + 1)
        last, places = [0] * padded, [self.cache.length] * padded
        extras: list[tuple[int, int, int]] = []  # token, slot, position
        for row, slot, more in zip(rows, slots, tokens):
            start = lengths[row]
            extras += [(token, slot, start + i) for i, token in enumerate(more[:-1])]
            last[slot], places[slot] = more[-1], start + len(more) - 1
            lengths[row] = start + len(more)
            self.tokens[row] += more
        extras += [(0, 0, self.cache.length)] * (rounded(len(extras), ROWS) - len(extras))
        columns = last, [*range(padded)], places
        if extras:
            columns = [[*column, *more] for column, more in zip(columns, zip(*extras))]
        ids, where, positions = torch.tensor(columns, device=self.device)
        logits = self.step(
            self.model, self.cache.by_slot(), self.tables, ids, where, positions, padded, length
        )
        return (
            logits[:count]
            if slots == list(range(count))
            else logits[torch.tensor(slots, device=self.device)]
        )


def padded_ids(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Token rows (rows, length) int64, padded with 0 at their ends to a common multiple of 8."""
    length = rounded(max(len(row) for row in rows), ROWS)
    return torch.tensor(
        [[*row, *[0] * (length - len(row))] for row in rows], dtype=torch.int64, device=device
    ).view(len(rows), length)


def length_batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """`order` (by rising length) in batches of at most `tokens` padded tokens, and of lengths that waste at most about a quarter."""
    batches: list[list[int]] = []
    for i in order:
        longest = rounded(max(lengths[i], 1), ROWS)
        fits = (
            batches
            and (len(batches[-1]) + 1) * longest <= tokens
            and longest <= 1.5 * rounded(max(lengths[batches[-1][0]], 1), ROWS)
        )
        if fits:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def check_spans(ids: list[list[int]], spans: list[tuple[int, int]]) -> None:
    """Raises UserError for a span outside its row, or one that starts at the first token, before which there is nothing."""
    for i, (row, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        if not 1 <= start <= end <= len(row):
            raise UserError(
                f"span {i} = ({start}, {end}) does not lie in its row of {len(row)} tokens, start at least 1"
            )


class GPTScorer:
    """The `Scorer` protocol over a GPT: shared beginnings forwarded once, no padding, the head only where a token is scored.

    `positions` counts the token positions forwarded. A row's last scored token is never forwarded: nothing is predicted from it.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.device = model.embedding.weight.device
        self.positions = 0

    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """log p of ids[i][start:end] given ids[i][:start], for (start, end) = spans[i]; raises UserError for a span outside its row.

        `sizes` (None: all 1) says how many consecutive rows are of one example: the tokens with which they all begin are forwarded once.
        """
        check_spans(ids, spans)
        trees, first = [], 0
        for size in sizes or [1] * len(ids):
            trees.append(_tree(ids[first : first + size], spans[first : first + size]))
            first += size
        assert first == len(ids), f"sizes sum to {first}, not to the {len(ids)} rows"
        wanted = [token for row, (start, end) in zip(ids, spans) for token in row[start:end]]
        log_p: list[float] = []
        best: list[bool] = []
        for logits in self._logits(trees):
            tokens = torch.tensor(
                wanted[len(log_p) : len(log_p) + len(logits)], dtype=torch.int64, device=self.device
            )
            log_p += torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0].tolist()
            best += (logits.argmax(-1) == tokens).tolist()
        scores, place = [], 0
        for start, end in spans:
            stop = place + end - start
            scores.append(
                SpanScore(float(sum(log_p[place:stop])), log_p[place:stop], all(best[place:stop]))
            )
            place = stop
        return scores

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32 on the CPU."""
        for i, row in enumerate(ids):
            if not row:
                raise UserError(f"row {i} to score is empty")
        found = [
            logits.cpu()
            for logits in self._logits([Tree(row, [], [(0, len(row) - 1)]) for row in ids])
        ]
        return torch.cat(found) if found else torch.empty(0, self.model.config.vocab_size)

    @torch.no_grad()
    def _logits(self, trees: list[Tree]) -> Iterator[torch.Tensor]:
        """The logits (n, vocab) float32 of all wanted tokens in order, in parts of at most 1,024."""
        limit, batch = SCORE_TOKENS[self.device.type], []
        for tree in [*trees, None]:
            if tree is None or sum(other.size for other in batch) + tree.size > limit:
                if any(other.wanted for other in batch):
                    for hidden in hidden_states(self.model, batch).split(1024):
                        yield self.model.logits(hidden)
                    self.positions += sum(other.size for other in batch)
                batch = []
            if tree is not None:
                batch.append(tree)


def _tree(rows: Sequence[list[int]], spans: Sequence[tuple[int, int]]) -> Tree:
    """The rows of one example as a tree: what no scored token follows is cut off, and of equal rows one is forwarded."""
    needed = [row[: end - 1] for row, (_, end) in zip(rows, spans)]
    shared = common_prefix(needed)
    branches: list[list[int]] = []
    wanted = []
    for row, (start, end) in zip(needed, spans):
        if row[shared:] not in branches:
            branches.append(row[shared:])
        wanted += [
            (branches.index(row[shared:]), position) for position in range(start - 1, end - 1)
        ]
    return Tree(needed[0][:shared], branches, wanted)
