"""The GPT behind the `LanguageModel` and `Scorer` protocols.

Decoding feeds a flat batch: one token of every row, in slot order, then the earlier tokens of
forced outputs. On CPU in float32 the decisions of a chain must not depend on its batch, so token
batches are padded to multiples of 8 and lengths to multiples of 16: shapes whose results were
measured to agree bitwise for heads of 32 or more dimensions. On CUDA a step is a CUDA graph, and
shapes are its.
"""

from collections.abc import Iterator, Sequence

import torch

from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.errors import UserError
from nanolab.inference import decode, kernels
from nanolab.inference.decode import ROWS, graph_shape, padded_shape, step
from nanolab.inference.engine import CachedRows, New, check_rows, span_scores, token_scores
from nanolab.inference.kv_cache import KVCache, rounded
from nanolab.inference.protocol import SpanScore
from nanolab.inference.trees import Tree, example_trees, hidden_states
from nanolab.model.attention import causal_attention
from nanolab.model.gpt import GPT, norm
from nanolab.sandbox.programs import Tools

# tokens of one scoring forward at most, unless a single tree has more
SCORE_TOKENS = {"cpu": 2_048, "cuda": 16_384}
SCORE_LOGITS = 1024  # positions whose logits are made together

kernels.in_use = True


class GPTLanguageModel(CachedRows):
    """Rows of a GPT, which is used as it is: put it on its device, in its dtype, and do not train
    it while rows are alive. `max_length` None: the model's sequence length; a larger one
    extrapolates the rotary positions.
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
        config, weight = model.config, model.embedding.weight
        self.vocab_size = tokenizer.vocab_size
        if self.vocab_size != config.vocab_size:
            raise UserError(
                f"the tokenizer has {self.vocab_size} tokens and the model {config.vocab_size}:"
                " they are not of one study"
            )
        super().__init__(tokenizer, tools, tool_max_output_tokens)
        self.model, self.device = model.eval(), weight.device
        self.max_length = max_length or config.sequence_length
        self.shape, self.step = padded_shape, step
        if self.device.type == "cuda":
            self.shape, self.step = graph_shape, decode.GraphedStep()
        # that a step reads: the last tokens of a row do not make the cache grow
        _, longest = self.shape(rows, self.max_length)
        layers = len(model.blocks), config.kv_heads, config.width // config.heads
        self.cache = KVCache(layers, weight, 2 * rows, longest)
        self.tables: decode.Rotary | None = None

    def _prefill(self, ids: torch.Tensor, slots: torch.Tensor) -> None:
        length, store = ids.shape[1], self.cache.store
        rotary = self.model.rotary(torch.arange(length, device=self.device))
        x = self.model.embed(ids)
        for i, block in enumerate(self.model.blocks):
            q, k, v = block.attention.queries_keys_values(norm(x), *rotary)
            store[0, i, slots, :, :length] = k
            store[1, i, slots, :, :length] = v
            if i == len(self.model.blocks) - 1:
                break  # nothing reads the last layer's output
            x = x + block.attention.project(causal_attention(q, k, v))
            x = x + block.feed_forward(norm(x))

    def _decode(self, new: list[New], longest: int) -> torch.Tensor:
        count = len(new)
        padded, length = self.shape(count, longest)
        self.cache.reserve(length, padded)
        room = self.cache.length
        if self.tables is None or len(self.tables.cos) <= room:
            self.tables = decode.rotary_tables(self.model, room + 1)
        # token, slot, position; what only pads goes to a position that no row has
        last = [(0, slot, room) for slot in range(padded)]
        extras: list[tuple[int, int, int]] = []
        for slot, start, more in new:
            *earlier, last[slot] = ((token, slot, start + i) for i, token in enumerate(more))
            extras += earlier
        extras += [(0, 0, room)] * (rounded(len(extras), ROWS) - len(extras))
        columns = torch.tensor([*zip(*last, *extras)], device=self.device)
        tokens = decode.Tokens(self.cache.store, self.tables, *columns, padded, length)
        logits = self.step(self.model, tokens)
        slots = [slot for slot, _, _ in new]
        if slots == list(range(count)):
            return logits[:count]
        return logits[torch.tensor(slots, device=self.device)]


class GPTScorer:
    """The `Scorer` protocol over a GPT: shared beginnings forwarded once, no padding, the head only
    where a token is scored. `positions` counts the token positions forwarded.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.device = model.embedding.weight.device
        self.positions = 0

    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """As the protocol says."""
        check_rows(ids, spans)
        trees = example_trees(ids, spans, sizes)
        wanted = [token for row, (start, end) in zip(ids, spans) for token in row[start:end]]
        log_p: list[float] = []
        best: list[bool] = []
        for logits in self._logits(trees):
            some = token_scores(logits, wanted[len(log_p) : len(log_p) + len(logits)])
            log_p += some[0]
            best += some[1]
        return span_scores(spans, log_p, best)

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32 on the CPU."""
        check_rows(ids)
        trees = [Tree(row, [], [(0, len(row) - 1)]) for row in ids]
        found = [logits.cpu() for logits in self._logits(trees)]
        return torch.cat(found) if found else torch.empty(0, self.model.config.vocab_size)

    @torch.no_grad()
    def _logits(self, trees: list[Tree]) -> Iterator[torch.Tensor]:
        """The logits (n, vocab) float32 of all wanted tokens in order, part by part."""
        batches: list[list[Tree]] = [[]]
        size, limit = 0, SCORE_TOKENS[self.device.type]
        for tree in trees:
            if size + tree.size > limit:
                batches.append([])
                size = 0
            batches[-1].append(tree)
            size += tree.size
        for batch in batches:
            if any(tree.wanted for tree in batch):
                for hidden in hidden_states(self.model, batch).split(SCORE_LOGITS):
                    yield self.model.logits(hidden)
                self.positions += sum(tree.size for tree in batch)
