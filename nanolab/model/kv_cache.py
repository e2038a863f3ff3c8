"""The key/value cache of a decoder: rows that grow, are forked, rewound and compacted.

A row is a stable number; a slot is where its keys and values lie. The rows decoded together lie in slots 0 .. n-1 (`arrange`), so a
layer's attention reads a prefix of the cache as it stands and gathers nothing. When a row is forked, the child takes the lower of
the two slots and the parent the higher: a proposal goes on where its state was decoded, and the parked state moves out of the way.
Slots and length grow when more are needed.
"""

from __future__ import annotations

import torch

MULTIPLE = 32  # positions: lengths are rounded up to this


def rounded(count: int, multiple: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // multiple) * multiple


class KVCache:
    """Keys and values of all layers: each (layers, slots * kv_heads, length, head_dim), on one device and of one dtype."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device, slots: int = 16,
                 length: int = MULTIPLE) -> None:
        self.kv_heads = kv_heads
        shape = (2, layers, rounded(slots, 8) * kv_heads, rounded(length, MULTIPLE), head_dim)
        self.store = torch.zeros(shape, dtype=dtype, device=device)
        self.slots: dict[int, int] = {}  # row -> slot
        self.lengths: dict[int, int] = {}  # row -> positions held
        self.owner: dict[int, int] = {}  # slot -> row
        self.free = list(range(shape[2] // kv_heads))  # ascending; the highest is given out
        self.next_row = 0

    @property
    def keys(self) -> torch.Tensor:
        """(layers, slots * kv_heads, length, head_dim)."""
        return self.store[0]

    @property
    def values(self) -> torch.Tensor:
        """(layers, slots * kv_heads, length, head_dim)."""
        return self.store[1]

    @property
    def length(self) -> int:
        """Positions that a slot has room for."""
        return self.store.shape[3]

    def by_slot(self) -> torch.Tensor:
        """The store as (2, layers, slots, kv_heads, length, head_dim)."""
        two, layers, flat, length, width = self.store.shape
        return self.store.view(two, layers, flat // self.kv_heads, self.kv_heads, length, width)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions a slot."""
        if length > self.length:
            more = rounded(max(length, self.length * 5 // 4), MULTIPLE) - self.length
            self.store = torch.nn.functional.pad(self.store, (0, 0, 0, more))

    def allocate(self, length: int) -> int:
        """A new row of `length` positions whose contents the caller writes."""
        if not self.free:
            count = self.store.shape[2] // self.kv_heads
            self.store = torch.nn.functional.pad(self.store, (0, 0, 0, 0, 0, count * self.kv_heads))
            self.free = list(range(count, 2 * count))
        row, self.next_row = self.next_row, self.next_row + 1
        self.lengths[row] = length
        self._place(row, self.free.pop())
        return row

    def _place(self, row: int, slot: int) -> None:
        self.slots[row], self.owner[slot] = slot, row

    def release(self, row: int) -> None:
        """Give a row's slot back."""
        slot = self.slots.pop(row)
        del self.lengths[row], self.owner[slot]
        self.free.append(slot)
        self.free.sort()

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """As `LanguageModel.fork` in nanolab/generation.py."""
        copies: dict[int, tuple[int, int]] = {}  # target slot -> (source slot, positions), all read before any is written
        source = {parent: (self.slots[parent], self.lengths[parent]) for parent in parents if parent != -1}
        new = []
        for row, parent, length in zip(rows, parents, lengths, strict=True):
            if parent == -1:
                self.release(row)
                new.append(-1)
                continue
            slot, held = source[parent]
            assert length <= held, f"row {parent} holds {held} positions, not {length}"
            if row != parent:
                if row == -1:
                    row = self.allocate(length)
                here, there = self.slots[row], self.slots[parent]
                if there < here:
                    self._place(row, there)
                    self._place(parent, here)
                    copies[here] = slot, held
                    if there != slot:
                        copies[there] = slot, length
                else:
                    copies[here] = slot, length
            self.lengths[row] = length
            new.append(row)
        self._copy([(start, target, length) for target, (start, length) in copies.items()])
        return new

    def arrange(self, rows: list[int]) -> list[int]:
        """Move `rows` (n, all different) into slots 0 .. n-1, in any order; their slots."""
        count = len(rows)
        wanted = set(rows)
        outside = [row for row in rows if self.slots[row] >= count]
        if outside:
            holes = [slot for slot in range(count) if self.owner.get(slot) not in wanted]
            moves = []
            for row, hole in zip(outside, holes, strict=True):
                slot, other = self.slots[row], self.owner.pop(hole, None)
                moves.append((slot, hole, self.lengths[row]))
                self._place(row, hole)
                if other is None:
                    del self.owner[slot]
                    self.free.remove(hole)
                    self.free.append(slot)
                else:
                    moves.append((hole, slot, self.lengths[other]))
                    self._place(other, slot)
            self.free.sort()
            self._copy(moves)
        return [self.slots[row] for row in rows]

    def _copy(self, moves: list[tuple[int, int, int]]) -> None:
        """Copy (source slot, target slot, positions), all sources read before any target is written."""
        length = max((positions for _, _, positions in moves), default=0)
        if length:
            store = self.by_slot()
            sources, targets = ([move[i] for move in moves] for i in (0, 1))
            store[:, :, targets, :, :length] = store[:, :, sources, :, :length]
