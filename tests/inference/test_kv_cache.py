"""The cache against the obvious thing: a dictionary from rows to lists."""

import numpy
import torch

from nanolab.inference.kv_cache import KVCache
from nanolab.seeds import generator

LAYERS, HEADS, WIDTH = 2, 2, 3


def write(cache, row, position, value):
    cache.reserve(position + 1)
    cache.store[:, :, cache.slots[row], :, position] = value
    cache.lengths[row] = position + 1


def read(cache, row):
    content = cache.store[
        :, :, cache.slots[row], :, : cache.lengths[row]
    ]  # (2, layers, heads, length, width)
    assert (content == content[:1, :1, :1, :, :1]).all()
    return content[0, 0, 0, :, 0].tolist()


def test_random_work_equals_a_dictionary_of_lists():
    """Growth, forks onto new and old rows, rewinds, releases, several at once, and compaction
    before every write.
    """
    random = generator("cache")
    for trial in range(15):
        cache = KVCache((LAYERS, HEADS, WIDTH), torch.empty(0), 8)
        rows: dict[int, list[float]] = {}
        counter = 0.0
        for _ in range(60):
            action = random.integers(5)
            if action == 0 or not rows:
                rows[cache.allocate(0)] = []
            elif (
                action == 1
            ):  # several children of live rows, some of one parent, some over a dead row
                parents = random.choice(list(rows), random.integers(1, 4)).tolist()
                dead = [row for row in rows if row not in parents][:1]
                targets = (dead + [-1] * len(parents))[: len(parents)]
                lengths = [int(random.integers(0, len(rows[parent]) + 1)) for parent in parents]
                contents = [rows[parent][:length] for parent, length in zip(parents, lengths)]
                new = cache.fork(targets, parents, lengths)
                assert new[: len(dead)] == dead[: len(new)]
                rows.update(zip(new, contents))
            elif action == 2:
                row = int(random.choice(list(rows)))
                length = int(random.integers(0, len(rows[row]) + 1))
                assert cache.fork([row], [row], [length]) == [row]
                rows[row] = rows[row][:length]
            elif action == 3 and len(rows) > 2:
                row = int(random.choice(list(rows)))
                assert cache.fork([row], [-1], [0]) == [-1]
                del rows[row]
            else:
                for _ in range(int(random.integers(1, 12))):
                    some = random.choice(
                        list(rows), random.integers(1, len(rows) + 1), replace=False
                    ).tolist()
                    assert sorted(cache.arrange(some)) == list(range(len(some)))
                    for row in some:
                        counter += 1
                        write(cache, row, len(rows[row]), counter)
                        rows[row].append(counter)
            assert {row: read(cache, row) for row in rows} == rows
            used = sorted(cache.slots.values()) + cache.free
            assert (
                sorted(used) == list(range(cache.store.shape[2]))
                and cache.slots.keys() == rows.keys()
            ), trial


def test_growth_keeps_what_is_there():
    cache = KVCache((LAYERS, HEADS, WIDTH), torch.empty(0), 8, 32)
    rows = [cache.allocate(0) for _ in range(8)]
    for i, row in enumerate(rows):
        write(cache, row, 0, float(i))
    rows += [cache.allocate(0) for _ in range(3)]
    write(cache, rows[0], 1, 50.0)
    write(cache, rows[10], 39, 9.0)
    cache.lengths[rows[10]] = 0
    assert cache.length >= 40 and cache.store.shape[2] == 16
    assert [read(cache, row) for row in rows[:8]] == [
        [0.0, 50.0],
        *[[float(i)] for i in range(1, 8)],
    ]


def test_a_child_takes_the_lower_slot():
    """So a proposal is decoded where its state was, and compaction has nothing to move."""
    cache = KVCache((LAYERS, HEADS, WIDTH), torch.empty(0), 16)
    state = cache.allocate(0)
    cache.arrange([state])
    write(cache, state, 0, 1.0)
    (child,) = cache.fork([-1], [state], [1])
    assert cache.slots[child] == 0 and numpy.array_equal(read(cache, state), [1.0])
