"""The key/value cache of a decoder: rows that grow, are forked, rewound and compacted.

A row is a stable number; a slot is where its keys and values lie. The rows decoded together lie in slots 0 .. n-1 (`arrange`), so a
layer's attention reads a prefix of the cache as it stands and gathers nothing. When a row is forked, the child takes the lower of
the two slots and the parent the higher: a proposal goes on where its state was decoded, and the parked state moves out of the way.
Slots and length grow when more are needed. The last position of every slot belongs to no row: what a step computes for rows that only
pad its batch goes there.
"""

from __future__ import annotations

import math
import mmap

import torch

MULTIPLE = 16  # positions: lengths are rounded up to this
FIRST_BYTES = (
    2**30
)  # a new cache has its full length at once where that takes no more address space than this


def rounded(count: int, multiple: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU from the system's fresh pages, so that memory is taken only where something is written.

    Not `torch.empty`: a masked position has weight 0, and 0 times whatever lay there may not be a number. Not `numpy.zeros`: it asks
    for huge pages, each of which is taken whole.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(
        shape
    )


class KVCache:
    """Keys and values of all layers, (2, layers, slots * kv_heads, length + 1, head_dim), on one device and of one dtype.

    `length` positions a row are expected; a longer row makes it grow.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        slots: int = 16,
        length: int = MULTIPLE,
    ) -> None:
        self.kv_heads = kv_heads
        slots = rounded(slots, 8)
        fits = FIRST_BYTES // (2 * layers * slots * kv_heads * head_dim * dtype.itemsize)
        self.store = zeros(
            (2, layers, slots * kv_heads, rounded(min(length, fits) + 1, MULTIPLE), head_dim),
            dtype,
            device,
        )
        self.slots: dict[int, int] = {}  # row -> slot
        self.lengths: dict[int, int] = {}  # row -> positions held
        self.owner: dict[int, int] = {}  # slot -> row
        self.free = list(range(slots))  # ascending
        self.next_row = 0

    @property
    def length(self) -> int:
        """Positions that a row has room for."""
        return self.store.shape[3] - 1

    @property
    def count(self) -> int:
        """Slots."""
        return self.store.shape[2] // self.kv_heads

    def by_slot(self) -> torch.Tensor:
        """The store as (2, layers, slots, kv_heads, length, head_dim)."""
        two, layers, flat, length, width = self.store.shape
        return self.store.view(two, layers, flat // self.kv_heads, self.kv_heads, length, width)

    def reserve(self, length: int, slots: int = 0) -> None:
        """Make room for `length` positions a row, and for `slots` slots."""
        if length > self.length:
            self._grow(0, rounded(max(length, self.length * 3 // 2) + 1, MULTIPLE))
        if slots > self.count:
            self._grow(slots, 0)

    def _grow(self, slots: int, length: int) -> None:
        """Room for so many slots and positions, or as many as there are."""
        two, layers, old_flat, old_length, width = self.store.shape
        self.free += range(self.count, slots)
        shape = two, layers, max(old_flat, slots * self.kv_heads), max(old_length, length), width
        store = zeros(shape, self.store.dtype, self.store.device)
        store[:, :, :old_flat, :old_length] = self.store
        self.store = store

    def allocate(self, length: int, lowest: bool = True) -> int:
        """A new row of `length` positions whose contents the caller writes, in the lowest or the highest free slot."""
        if not self.free:
            self._grow(2 * self.count, 0)
        row, self.next_row = self.next_row, self.next_row + 1
        self.lengths[row] = length
        self._place(row, self.free.pop(0 if lowest else -1))
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
        copies: dict[
            int, tuple[int, int]
        ] = {}  # target slot -> (source slot, positions), all read before any is written
        source = {
            parent: (self.slots[parent], self.lengths[parent]) for parent in parents if parent != -1
        }
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
                    row = self.allocate(length, lowest=False)
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
        """Copy (source slot, target slot, positions), as if all sources were read before any target is written."""
        store = self.by_slot()
        targets = {target for _, target, _ in moves}
        kept = {
            source: store[:, :, source, :, :length].clone()
            for source, _, length in sorted(moves, key=lambda move: move[2])
            if source in targets
        }
        for source, target, length in moves:
            held = kept[source] if source in kept else store[:, :, source]
            store[:, :, target, :, :length] = held[..., :length, :]
