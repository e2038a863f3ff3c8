"""One decoding step: a token of every row in, its keys and values into the cache, the logits of the next token out.

Shapes: N tokens, the first R of them one a row in slot order; D width, H query heads, K key/value heads, hd = D / H. A CUDA graph can be
made of it: no shape, address or branch depends on what the tensors hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from nanolab.model import kernels
from nanolab.model.gpt import GPT, norm
from nanolab.model.kv_cache import MULTIPLE, rounded

ROWS = 8  # token batches are padded to a multiple of this
GRAPH_LENGTH = 64  # lengths of CUDA graphs are multiples of this
GATHERED = 128  # extra tokens whose cache is gathered at once


class Rotary(NamedTuple):
    """Rotary tables by position, (length, 1, hd): x -> x * cos + (x with its halves exchanged) * sin."""

    cos: torch.Tensor
    sin: torch.Tensor


def rotary_tables(model: GPT, length: int) -> Rotary:
    """The tables of the first `length` positions, in the model's dtype and on its device."""
    weight = model.embedding.weight
    cos, sin = model.rotary(torch.arange(length, device=weight.device))
    return Rotary(
        *(
            torch.cat(halves, -1).unsqueeze(1).to(weight.dtype)
            for halves in ((cos, cos), (sin, -sin))
        )
    )


Attention = Callable[
    [int, torch.Tensor], torch.Tensor
]  # of layer i: mixed (N, (H + 2K) hd) -> (N, H hd)


def step(
    model: GPT,
    store: torch.Tensor,
    tables: Rotary,
    ids: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    rows: int,
    length: int,
) -> torch.Tensor:
    """Logits (R, V) float32 after each row's token.

    store (2, layers, slots, K, room, hd) is written in place. ids, slots and positions (N,) int64: token n goes to position
    positions[n] of slot slots[n]; the first `rows` = R are slots 0 .. R-1, and later ones are earlier tokens of those slots (a forced
    output). Every token sees the positions up to its own, of which there are at most `length` <= room.
    """
    fused = not torch.compiler.is_compiling() and kernels.usable(store.dtype, store.device, length)
    attend = (kernels.fused_attention if fused else torch_attention)(
        tables, store, slots, positions, rows, length
    )
    x = model.embed(ids)
    for i, block in enumerate(model.blocks):
        x = x + block.attention.output(attend(i, block.attention.qkv(norm(x))))
        x = x + block.feed_forward(norm(x))
    return model.logits(norm(x[:rows]))


def torch_attention(
    tables: Rotary,
    store: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    rows: int,
    length: int,
) -> Attention:
    """A step's attention in torch's operators: for layer i, from queries, keys and values side by side before their rotation, the values
    that each token sees; keys and values go into the cache. Arguments are those of `step`."""
    _, _, _, kv_heads, room, width = store.shape
    cos, sin = tables.cos[positions], tables.sin[positions]
    later = torch.arange(length, device=slots.device) > positions[:, None]
    mask = torch.zeros((), dtype=store.dtype, device=slots.device).masked_fill(
        later, float("-inf")
    )[:, None, None]  # (N, 1, 1, length)
    places = (
        (slots[:, None] * kv_heads + torch.arange(kv_heads, device=slots.device)) * room
        + positions[:, None]
    ).flatten()

    def attend(i: int, mixed: torch.Tensor) -> torch.Tensor:
        mixed = mixed.view(len(mixed), -1, width)
        turned, v = mixed[:, :-kv_heads], mixed[:, -kv_heads:]
        turned = norm(torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin))
        q, k = turned[:, :-kv_heads], turned[:, -kv_heads:]
        store[0, i].view(-1, width)[places] = k.reshape(-1, width)
        store[1, i].view(-1, width)[places] = v.reshape(-1, width)
        q = (q * width**-0.5).reshape(len(mixed), kv_heads, -1, width)
        parts = [
            _attend(
                q[:rows],
                store[0, i, :rows, :, :length],
                store[1, i, :rows, :, :length],
                mask[:rows],
            )
        ]
        for start in range(rows, len(mixed), GATHERED):
            some = slice(start, start + GATHERED)
            parts.append(
                _attend(
                    q[some],
                    store[0, i, slots[some], :, :length],
                    store[1, i, slots[some], :, :length],
                    mask[some],
                )
            )
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1)

    return attend


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """One scaled query position a token against its slot: q (n, K, H / K, hd), keys and values (n, K, length, hd), mask (n, 1, 1, length)
    added to the scores. Returns (n, H, hd)."""
    count, kv_heads, group, width = q.shape
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    scores = torch.bmm(q.view(count * kv_heads, group, width), keys.transpose(1, 2))
    weights = torch.softmax(scores.view(count, kv_heads, group, -1) + mask, -1)
    return torch.bmm(weights.view(count * kv_heads, group, -1), values).view(
        count, kv_heads * group, width
    )


def padded_shape(rows: int, length: int) -> tuple[int, int]:
    """Rows and length that a step is run with: the next of those whose results were measured to agree bitwise on a CPU in float32."""
    return rounded(rows, ROWS), rounded(length, MULTIPLE)


def graph_shape(rows: int, length: int) -> tuple[int, int]:
    """Rows and length of the CUDA graph that serves a step: few enough that each is captured once."""
    return max(ROWS, 1 << (rows - 1).bit_length()), rounded(length, GRAPH_LENGTH)


class GraphedStep:
    """`step` as CUDA graphs, one for each number of rows and length: a tick is a copy of its inputs and one launch.

    Logits are overwritten by the next call. Steps with extra tokens, whose number varies, run without a graph. Graphs are captured
    anew when the cache moves.
    """

    def __init__(self) -> None:
        self.graphs: dict[
            tuple[int, int], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]
        ] = {}
        self.address = 0

    def __call__(
        self,
        model: GPT,
        store: torch.Tensor,
        tables: Rotary,
        ids: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        rows: int,
        length: int,
    ) -> torch.Tensor:
        if len(ids) > rows:
            return step(model, store, tables, ids, slots, positions, rows, length)
        if store.data_ptr() != self.address:
            self.graphs, self.address = {}, store.data_ptr()
        if (rows, length) not in self.graphs:
            self.graphs[rows, length] = self._capture(
                model, store, tables, [ids.clone(), slots.clone(), positions.clone()], rows, length
            )
        graph, inputs, logits = self.graphs[rows, length]
        for place, values in zip(inputs, (ids, slots, positions)):
            place.copy_(values)
        graph.replay()
        return logits

    def _capture(
        self,
        model: GPT,
        store: torch.Tensor,
        tables: Rotary,
        inputs: list[torch.Tensor],
        rows: int,
        length: int,
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        """A graph of the step over `inputs`; what is run beforehand, for libraries to set themselves up, writes what the replay writes."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            step(model, store, tables, *inputs, rows, length)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = step(model, store, tables, *inputs, rows, length)
        return graph, inputs, logits
