"""Forwarding rows that begin alike: the shared tokens once, then each row's own, as one flat run
without padding.

Attention is made tree by tree, so a tree's numbers do not depend on which others were forwarded
with it; the last layer works for the wanted tokens only. Shapes: N tokens, D width, H query heads,
K key/value heads, hd = D / H.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch.nn import functional

from nanolab.model.attention import causal_attention
from nanolab.model.gpt import GPT, Attention, norm, rotate


class Tree(NamedTuple):
    """Rows that begin alike, and the tokens whose final hidden state is wanted."""

    trunk: list[int]  # token ids that all share
    branches: list[list[int]]  # the rest of each row
    # (branch, position in its row); one inside the trunk through any branch
    wanted: list[tuple[int, int]]

    @property
    def size(self) -> int:
        """Tokens forwarded."""
        return len(self.trunk) + sum(map(len, self.branches))


class _Place(NamedTuple):
    """Where a tree lies in the flat run, and what its tokens may see."""

    start: int
    fork: int  # end of its trunk
    end: int
    seen: torch.Tensor  # (branch tokens, tree tokens) bool
    wanted: torch.Tensor  # (M,) places in the flat run
    wanted_seen: torch.Tensor  # (M, tree tokens) bool


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share."""
    for position, tokens in enumerate(zip(*rows)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, rows))


def example_trees(
    ids: Sequence[list[int]], spans: Sequence[tuple[int, int]], sizes: Sequence[int] | None
) -> list[Tree]:
    """A tree for each example of `sizes` (None: all 1) consecutive rows, whose wanted tokens are
    those that spans[i] = (start, end) of ids[i] are predicted from, in order.
    """
    trees, first = [], 0
    for size in sizes or [1] * len(ids):
        trees.append(_tree(ids[first : first + size], spans[first : first + size]))
        first += size
    assert first == len(ids), f"sizes sum to {first}, not to the {len(ids)} rows"
    return trees


def _tree(rows: Sequence[list[int]], spans: Sequence[tuple[int, int]]) -> Tree:
    """The rows of one example as a tree: what no scored token follows is cut off, and of equal rows
    one is forwarded.
    """
    needed = [row[: end - 1] for row, (_, end) in zip(rows, spans)]
    shared = common_prefix(needed)
    branches: list[list[int]] = []
    wanted = []
    for row, (start, end) in zip(needed, spans):
        if row[shared:] not in branches:
            branches.append(row[shared:])
        branch = branches.index(row[shared:])
        wanted += [(branch, position) for position in range(start - 1, end - 1)]
    return Tree(needed[0][:shared], branches, wanted)


@torch.no_grad()
def hidden_states(model: GPT, trees: Sequence[Tree]) -> torch.Tensor:
    """The final normalised hidden states of the wanted tokens (M, D), tree after tree in the order
    in which each names them.
    """
    device = model.embedding.weight.device
    ids, positions, places, start = [], [], [], 0
    for tree in trees:
        trunk = len(tree.trunk)
        ids += chain(tree.trunk, *tree.branches)
        own = [*range(trunk)]
        for branch in tree.branches:
            own += range(trunk, trunk + len(branch))
        positions += own
        places.append(_place(tree, start, own, device))
        start += tree.size
    cos, sin = model.rotary(torch.tensor(positions, device=device))
    wanted = torch.cat([place.wanted for place in places])
    x = model.embed(torch.tensor(ids, device=device))
    for i, block in enumerate(model.blocks):
        q, k, v = _queries_keys_values(block.attention, norm(x), cos, sin)
        parts = []
        for start, fork, end, seen, chosen, chosen_seen in places:
            if i == len(model.blocks) - 1:
                parts.append(_attend(q[chosen], k[start:end], v[start:end], chosen_seen))
                continue
            if fork > start:
                parts.append(_attend_causally(q[start:fork], k[start:fork], v[start:fork]))
            if end > fork:
                parts.append(_attend(q[fork:end], k[start:end], v[start:end], seen))
        if i == len(model.blocks) - 1:
            x = x[wanted]
        x = x + block.attention.output(torch.cat(parts).flatten(1))
        x = x + block.feed_forward(norm(x))
    return norm(x)


def _place(tree: Tree, start: int, positions: list[int], device: torch.device) -> _Place:
    trunk, lengths = len(tree.trunk), [*map(len, tree.branches)]
    wanted = torch.tensor(
        [at if at < trunk else at + sum(lengths[:branch]) for branch, at in tree.wanted],
        dtype=torch.int64,
        device=device,
    )
    branches = torch.arange(-1, len(lengths), device=device)
    branch_of = branches.repeat_interleave(torch.tensor([trunk, *lengths], device=device))
    position = torch.tensor(positions, device=device)

    def seen(rows: torch.Tensor) -> torch.Tensor:
        """A token sees the trunk and its own branch, up to its own position."""
        same = (branch_of == -1) | (branch_of == branch_of[rows, None])
        return same & (position <= position[rows, None])

    own = seen(torch.arange(trunk, tree.size, device=device))
    fork, end = start + trunk, start + tree.size
    return _Place(start, fork, end, own, start + wanted, seen(wanted))


def _queries_keys_values(
    attention: Attention, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (N, D), cos and sin (N, hd/2) -> q (N, H, hd), k and v (N, K, hd), rotated and
    normalised.
    """
    heads, kv_heads = attention.heads, attention.kv_heads
    mixed = attention.qkv(x).view(len(x), heads + 2 * kv_heads, attention.head_dim)
    queries_keys, v = mixed.split([heads + kv_heads, kv_heads], 1)
    q, k = norm(rotate(queries_keys, cos, sin)).split([heads, kv_heads], 1)
    return q, k, v


def _attend_causally(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q (T, H, hd), k and v (T, K, hd) -> (T, H, hd)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":  # the fused kernel is slow here
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        return causal_attention(q, k, v)[0].transpose(0, 1)
    return _attend(q, k, v, None)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """q (M, H, hd), k and v (T, K, hd), seen (M, T) bool, None: causal -> (M, H, hd)."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=grouped
    )[0].transpose(0, 1)
