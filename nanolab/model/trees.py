"""Forwarding rows that begin alike: the shared tokens once, then each row's own, as one flat run without padding.

A tree is a trunk (the shared tokens) and branches (the rest of each row). Linear layers see the tokens of many trees as one (N, D) matrix;
attention is made tree by tree, so a tree's numbers do not depend on which others were forwarded with it. The last layer makes queries, its
output and its feed-forward only for the tokens whose hidden state is wanted. Shapes: N tokens, D width, H query heads, K key/value heads,
hd = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from nanolab.model.attention import causal_attention
from nanolab.model.gpt import GPT, Attention, norm, rotate


class Tree(NamedTuple):
    """Token ids of the trunk and of the branches, and the tokens whose final hidden state is wanted: (branch, position in its row).

    A position inside the trunk may be asked for through any branch.
    """

    trunk: list[int]
    branches: list[list[int]]
    wanted: list[tuple[int, int]]

    @property
    def size(self) -> int:
        """Tokens forwarded."""
        return len(self.trunk) + sum(map(len, self.branches))


class _Place(NamedTuple):
    """Where a tree lies in the flat run: first token, end of its trunk, end; what its branches and its wanted tokens may see."""

    start: int
    fork: int
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


@torch.no_grad()
def hidden_states(model: GPT, trees: Sequence[Tree]) -> torch.Tensor:
    """The final normalised hidden states of the wanted tokens (M, D), tree after tree in the order in which each names them."""
    device = model.embedding.weight.device
    ids, positions, places, start = [], [], [], 0
    for tree in trees:
        trunk = len(tree.trunk)
        ids += tree.trunk + [token for branch in tree.branches for token in branch]
        own = [*range(trunk), *(trunk + i for branch in tree.branches for i in range(len(branch)))]
        positions += own
        places.append(_place(tree, start, own, device))
        start += tree.size
    cos, sin = model.rotary(torch.tensor(positions, device=device))
    wanted = torch.cat([place.wanted for place in places])
    x = model.embed(torch.tensor(ids, device=device))
    for i, block in enumerate(model.blocks):
        last = i == len(model.blocks) - 1
        q, k, v = _queries_keys_values(block.attention, norm(x), cos, sin)
        if last:
            parts = [
                _attend(
                    q[place.wanted],
                    k[place.start : place.end],
                    v[place.start : place.end],
                    place.wanted_seen,
                )
                for place in places
            ]
            x = x[wanted]
        else:
            parts = [part for place in places for part in _attend_tree(q, k, v, place)]
        x = x + block.attention.output(torch.cat(parts).flatten(1))
        x = x + block.feed_forward(norm(x))
    return norm(x)


def _place(tree: Tree, start: int, positions: list[int], device: torch.device) -> _Place:
    trunk, firsts = len(tree.trunk), [len(tree.trunk)]
    for branch in tree.branches:
        firsts.append(firsts[-1] + len(branch))
    wanted = torch.tensor(
        [
            place if place < trunk else firsts[branch] + place - trunk
            for branch, place in tree.wanted
        ],
        dtype=torch.int64,
        device=device,
    )
    branch_of = torch.tensor(
        [-1] * trunk + [i for i, branch in enumerate(tree.branches) for _ in branch], device=device
    )
    position = torch.tensor(positions, device=device)

    def seen(rows: torch.Tensor) -> torch.Tensor:
        """A token sees the trunk and its own branch, up to its own position."""
        same = (branch_of == -1) | (branch_of == branch_of[rows, None])
        return same & (position <= position[rows, None])

    branches = torch.arange(trunk, tree.size, device=device)
    return _Place(
        start, start + trunk, start + tree.size, seen(branches), start + wanted, seen(wanted)
    )


def _queries_keys_values(
    attention: Attention, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (N, D), cos and sin (N, hd/2) -> q (N, H, hd), k and v (N, K, hd), rotated and normalised."""
    mixed = attention.qkv(x).view(
        len(x), attention.heads + 2 * attention.kv_heads, attention.head_dim
    )
    queries_keys, v = mixed.split([attention.heads + attention.kv_heads, attention.kv_heads], 1)
    q, k = norm(rotate(queries_keys, cos, sin)).split([attention.heads, attention.kv_heads], 1)
    return q, k, v


def _attend_tree(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, place: _Place
) -> list[torch.Tensor]:
    """Attention of every token of a tree: the trunk causally, the branches over the trunk and themselves."""
    start, fork, end = place[:3]
    parts = []
    if fork > start:
        parts.append(_attend_causally(q[start:fork], k[start:fork], v[start:fork]))
    if end > fork:
        parts.append(_attend(q[fork:end], k[start:end], v[start:end], place.seen))
    return parts


def _attend_causally(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q (T, H, hd), k and v (T, K, hd) -> (T, H, hd)."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return causal_attention(q, k, v)[0].transpose(
            0, 1
        )  # the fused kernel is slow in bfloat16 here
    return functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
    )[0].transpose(0, 1)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """q (M, H, hd), k and v (T, K, hd), seen (M, T) bool -> (M, H, hd)."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1]
    )[0].transpose(0, 1)
