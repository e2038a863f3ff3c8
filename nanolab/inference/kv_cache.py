"""The key/value cache of a decoder: rows that grow, are forked, rewound and compacted.

A row is a stable number; a slot is where its keys and values lie. Rows decoded together lie in
slots 0 .. n-1, so that attention reads a prefix of the cache as it stands; of a fork the child
takes the lower slot. The last position of every slot belongs to no row: what a step computes for
rows that only pad its batch goes there.
"""

import math
import mmap

import torch

MULTIPLE = 16  # positions: lengths are rounded up to this
# a new cache has its full length at once where that takes no more address space than this
FIRST_BYTES = 2**30


def rounded(count: int, multiple: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros as `like` is; on a CPU memory is taken only where something is written.

    Not `torch.empty`: a masked position has weight 0, and 0 times whatever lay there may not be a
    number. Not `numpy.zeros`: it asks for huge pages, each of which is taken whole.
    """
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    memory = mmap.mmap(-1, math.prod(shape) * like.itemsize)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)


class KVCache:
    """Keys and values of all layers: `store` (2, layers, slots, kv_heads, length + 1, head_dim).

    `layers` is (layers, kv_heads, head_dim); the dtype and device are those of `like`. `length`
    positions a row are expected; longer rows, and more slots, make it grow.
    """

    def __init__(
        self, layers: tuple[int, int, int], like: torch.Tensor, slots: int, length: int = MULTIPLE
    ) -> None:
        depth, kv_heads, width = layers
        slots = rounded(slots, 8)
        fits = FIRST_BYTES // (2 * depth * slots * kv_heads * width * like.itemsize)
        room = rounded(min(length, fits) + 1, MULTIPLE)
        self.store = zeros((2, depth, slots, kv_heads, room, width), like)
        self.slots: dict[int, int] = {}  # row -> slot
        self.lengths: dict[int, int] = {}  # row -> positions held
        self.free = list(range(slots))  # ascending
        self.next_row = 0

    @property
    def length(self) -> int:
        """Positions that a row has room for."""
        return self.store.shape[4] - 1

    def reserve(self, length: int, slots: int = 0) -> None:
        """Make room for `length` positions a row, and for `slots` slots."""
        two, depth, count, kv_heads, room, width = old = self.store.shape
        if length <= self.length and slots <= count:
            return
        if length > self.length:
            room = rounded(max(length, self.length * 3 // 2) + 1, MULTIPLE)
        store = zeros((two, depth, max(count, slots), kv_heads, room, width), self.store)
        for row, slot in self.slots.items():  # nothing else: memory is taken by what is written
            held = min(self.lengths[row], old[4])
            store[:, :, slot, :, :held] = self.store[:, :, slot, :, :held]
        self.store = store
        self.free += range(count, slots)

    def allocate(self, length: int, lowest: bool = True) -> int:
        """A new row of `length` positions to be written, in the lowest or the highest free slot."""
        self._make_free(1)
        row, self.next_row = self.next_row, self.next_row + 1
        self.lengths[row] = length
        self.slots[row] = self.free.pop(0 if lowest else -1)
        return row

    def _make_free(self, count: int) -> None:
        """See to it that so many slots are free."""
        slots = self.store.shape[2]
        if len(self.free) < count:
            wanted = slots - len(self.free) + count
            self.reserve(0, rounded(max(wanted, slots * 3 // 2), 8))

    def release(self, row: int) -> None:
        """Give a row's slot back."""
        del self.lengths[row]
        self.free.append(self.slots.pop(row))
        self.free.sort()

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """As `LanguageModel.fork` in nanolab/inference/protocol.py."""
        self._make_free(rows.count(-1))  # growing copies rows as they lie, which changes below
        copies: dict[int, tuple[int, int]] = {}  # target slot -> (source slot, positions)
        source = {row: (self.slots[row], self.lengths[row]) for row in parents if row != -1}
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
                    self.slots[row], self.slots[parent] = there, here
                    copies[here] = slot, held
                    if there != slot:
                        copies[there] = slot, length
                else:
                    copies[here] = slot, length
            self.lengths[row] = length
            new.append(row)
        self._copy(copies)
        return new

    def arrange(self, rows: list[int]) -> list[int]:
        """Move `rows` (n, all different) into slots 0 .. n-1, in any order; their slots."""
        count = len(rows)
        outside = [row for row in rows if self.slots[row] >= count]
        if outside:
            wanted, owner = set(rows), {slot: row for row, slot in self.slots.items()}
            holes = [slot for slot in range(count) if owner.get(slot) not in wanted]
            copies = {}
            for row, hole in zip(outside, holes, strict=True):
                slot, other = self.slots[row], owner.get(hole)
                copies[hole] = slot, self.lengths[row]
                self.slots[row] = hole
                if other is None:
                    self.free.remove(hole)
                    self.free.append(slot)
                else:
                    copies[slot] = hole, self.lengths[other]
                    self.slots[other] = slot
            self.free.sort()
            self._copy(copies)
        return [self.slots[row] for row in rows]

    def _copy(self, copies: dict[int, tuple[int, int]]) -> None:
        """(source slot, positions) to each target slot; all are read before any is written."""
        kept = {
            source: self.store[:, :, source, :, :length].clone()
            for source, length in sorted(copies.values(), key=lambda copy: copy[1])
            if source in copies
        }
        for target, (source, length) in copies.items():
            held = kept[source] if source in kept else self.store[:, :, source]
            self.store[:, :, target, :, :length] = held[..., :length, :]
