"""One decoding step: a token of every row in, its keys and values into the cache, the logits of the
next token out.

Shapes: N tokens, the first R of them one a row in slot order; D width, H query heads, K key/value
heads, hd = D / H. A CUDA graph can be made of it: no shape, address or branch depends on what the
tensors hold.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from nanolab.inference import kernels
from nanolab.inference.kv_cache import MULTIPLE, rounded
from nanolab.model.gpt import GPT, norm

ROWS = 8  # token batches are padded to a multiple of this
GRAPH_LENGTH = 64  # lengths of CUDA graphs are multiples of this
GATHERED = 128  # extra tokens whose cache is gathered at once

# of layer i: queries, keys and values (N, (H + 2K) hd) before their rotation -> (N, H hd) of the
# values that each token sees; keys and values go into the cache
Attention = Callable[[int, torch.Tensor], torch.Tensor]


class Rotary(NamedTuple):
    """By position, (length, 1, hd): x -> x * cos + (x, its halves swapped) * sin."""

    cos: torch.Tensor
    sin: torch.Tensor


def rotary_tables(model: GPT, length: int) -> Rotary:
    """The tables of the first `length` positions, in the model's dtype and on its device."""
    weight = model.embedding.weight
    cos, sin = model.rotary(torch.arange(length, device=weight.device))
    halves = (cos, cos), (sin, -sin)
    return Rotary(*(torch.cat(each, -1).unsqueeze(1).to(weight.dtype) for each in halves))


class Tokens(NamedTuple):
    """What a step forwards, and the memory it works on.

    Token n goes to position positions[n] of slot slots[n]. The first `rows` = R tokens are of slots
    0 .. R-1, later ones are earlier tokens of those slots (a forced output).
    """

    store: torch.Tensor  # (2, layers, slots, K, room, hd), written in place
    tables: Rotary
    ids: torch.Tensor  # (N,) int64
    slots: torch.Tensor  # (N,) int64
    positions: torch.Tensor  # (N,) int64
    rows: int
    length: int  # positions that a token sees at most, its own included


def step(model: GPT, tokens: Tokens) -> torch.Tensor:
    """Logits (R, V) float32 after each row's token."""
    store = tokens.store
    fused = not torch.compiler.is_compiling() and kernels.usable(
        store.dtype, store.device, tokens.length
    )
    attend = (fused_attention if fused else torch_attention)(tokens)
    x = model.embed(tokens.ids)
    for i, block in enumerate(model.blocks):
        x = x + block.attention.output(attend(i, block.attention.qkv(norm(x))))
        x = x + block.feed_forward(norm(x))
    return model.logits(norm(x[: tokens.rows]))


def fused_attention(tokens: Tokens) -> Attention:
    """As `torch_attention`, by the kernel."""
    found, _ = kernels.library()
    store, tables, _, slots, positions, _, length = tokens
    read = (*tables, slots, positions)
    assert found is not None and all(x.is_contiguous() for x in (store, *read))
    _, layers, _, kv_heads, room, width = store.shape
    layer = store.stride(1) * store.itemsize

    def attend(i: int, mixed: torch.Tensor) -> torch.Tensor:
        heads = mixed.shape[1] // width - 2 * kv_heads
        assert mixed.is_contiguous() and mixed.dtype == store.dtype == torch.float32
        out = torch.empty(len(mixed), heads * width)
        # taken here: what is read must live as long as this function
        cos, sin, slots_at, positions_at = (x.data_ptr() for x in read)
        keys = store.data_ptr() + i * layer
        memory = cos, sin, keys, keys + layers * layer, slots_at, positions_at
        sizes = len(mixed), heads, kv_heads, width, room, length
        found.decode_attention(mixed.data_ptr(), *memory, out.data_ptr(), *sizes)
        return out

    return attend


def torch_attention(tokens: Tokens) -> Attention:
    """A step's attention in torch's operators: for layer i, from queries, keys and values side by
    side before their rotation, the values that each token sees; keys and values go into the cache.
    Arguments are those of `step`.
    """
    store, tables, _, slots, positions, rows, length = tokens
    _, _, _, kv_heads, room, width = store.shape
    cos, sin = tables.cos[positions], tables.sin[positions]
    later = torch.arange(length, device=slots.device) > positions[:, None]
    mask = torch.zeros((), dtype=store.dtype, device=slots.device)
    mask = mask.masked_fill(later, float("-inf"))[:, None, None]  # (N, 1, 1, length)
    heads = slots[:, None] * kv_heads + torch.arange(kv_heads, device=slots.device)
    places = (heads * room + positions[:, None]).flatten()
    extras = (slice(i, i + GATHERED) for i in range(rows, len(slots), GATHERED))
    parts = [(slice(rows), slice(rows)), *((some, slots[some]) for some in extras)]

    def attend(i: int, mixed: torch.Tensor) -> torch.Tensor:
        mixed = mixed.view(len(mixed), -1, width)
        turned, v = mixed[:, :-kv_heads], mixed[:, -kv_heads:]
        turned = norm(torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin))
        q, k = turned[:, :-kv_heads], turned[:, -kv_heads:]
        store[0, i].view(-1, width)[places] = k.reshape(-1, width)
        store[1, i].view(-1, width)[places] = v.reshape(-1, width)
        q = (q * width**-0.5).reshape(len(mixed), kv_heads, -1, width)
        seen = [
            _attend(q[some], *store[:, i, where, :, :length], mask[some]) for some, where in parts
        ]
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).flatten(1)

    return attend


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """One scaled query position a token against its slot: q (n, K, H / K, hd), keys and values (n,
    K, length, hd), mask (n, 1, 1, length) added to the scores. Returns (n, H, hd).
    """
    count, kv_heads, group, width = q.shape
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    scores = torch.bmm(q.view(count * kv_heads, group, width), keys.transpose(1, 2))
    weights = torch.softmax(scores.view(count, kv_heads, group, -1) + mask, -1)
    return torch.bmm(weights.flatten(0, 1), values).view(count, kv_heads * group, width)


def padded_shape(rows: int, length: int) -> tuple[int, int]:
    """Rows and length that a step is run with: the next of those whose results were measured to
    agree bitwise on a CPU in float32.
    """
    return rounded(rows, ROWS), rounded(length, MULTIPLE)


def graph_shape(rows: int, length: int) -> tuple[int, int]:
    """Rows and length of the CUDA graph that serves a step: few, as each is captured once."""
    return max(ROWS, 1 << (rows - 1).bit_length()), rounded(length, GRAPH_LENGTH)


class GraphedStep:
    """`step` as CUDA graphs, one for each number of rows and length.

    Logits are overwritten by the next call, for all graphs share one pool of memory. Steps with
    extra tokens, whose number varies, run without a graph. Graphs are captured anew when the cache
    or the rotary tables move: a graph reads and writes where they lay.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple[int, int], tuple[Any, Tokens, torch.Tensor]] = {}
        self.place: tuple[Any, ...] = ()  # of the memory that the graphs were captured over
        self.pool: tuple[int, int] | None = None

    def __call__(self, model: GPT, tokens: Tokens) -> torch.Tensor:
        store, tables, ids, slots, positions, rows, length = tokens
        if len(ids) > rows:
            return step(model, tokens)
        # with the shape: a larger cache may begin where a smaller one lay, which was freed in
        # between
        place = store.data_ptr(), store.shape, tables.cos.data_ptr(), tables.sin.data_ptr()
        if place != self.place:
            self.graphs.clear()  # before the new pool: the memory of the old one can then be had
            self.place, self.pool = place, torch.cuda.graph_pool_handle()
        if (rows, length) not in self.graphs:
            own = tokens._replace(ids=ids.clone(), slots=slots.clone(), positions=positions.clone())
            self.graphs[rows, length] = self._capture(model, own)
        graph, own, logits = self.graphs[rows, length]
        own.ids.copy_(ids)
        own.slots.copy_(slots)
        own.positions.copy_(positions)
        graph.replay()
        return logits

    def _capture(self, model: GPT, tokens: Tokens) -> tuple[Any, Tokens, torch.Tensor]:
        """A graph of the step; run beforehand, for libraries to set themselves up."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            step(model, tokens)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits = step(model, tokens)
        return graph, tokens, logits
