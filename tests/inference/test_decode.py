"""A decoding step as CUDA graphs, on graphs that a CPU can replay (tests/fake_graphs.py)."""

import pytest
import torch
from fake_graphs import captured_graphs  # noqa: F401  (a fixture)
from small_models import random_gpt

from nanolab.inference.decode import GraphedStep, Tokens, rotary_tables, step

ROWS, LENGTH = 8, 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return random_gpt(vocab_size=40, sequence_length=64)


def cache(memory, room):
    """A cache of that many positions a row at the start of `memory`."""
    shape = 2, 2, ROWS, 2, room, 8
    return memory[: torch.Size(shape).numel()].view(shape)


def tokens(store, tables, position, ids=0, length=LENGTH):
    rows = torch.arange(ROWS)
    places = torch.full((ROWS,), position)
    return Tokens(store, tables, rows + ids, rows, places, ROWS, length)


@torch.no_grad()
def test_a_graph_gives_the_steps_numbers_and_is_captured_once(model, graphs):
    stores, tables = torch.zeros(2, 2, 2, ROWS, 2, 20, 8), rotary_tables(model, 21)
    captured = GraphedStep()
    for position in range(6):
        found = captured(model, tokens(stores[0], tables, position, position))
        expected = step(model, tokens(stores[1], tables, position, position))
        assert torch.allclose(found, expected, atol=1e-5)
    assert len(graphs) == 1 and torch.allclose(stores[0], stores[1], atol=1e-5)


@torch.no_grad()
def test_graphs_are_captured_anew_when_what_they_read_moves(model, graphs):
    """A larger cache that begins where a freed one lay, and tables whose memory was given to
    others.
    """
    memory, captured = torch.zeros(2, 2**15), GraphedStep()
    tables = rotary_tables(model, 21)

    def agrees(room, tables):
        stores = [cache(part.zero_(), room) for part in memory]
        found = captured(model, tokens(stores[0], tables, 3))
        expected = step(model, tokens(stores[1], tables, 3))
        return torch.allclose(found, expected, atol=1e-5) and torch.allclose(
            memory[0], memory[1], atol=1e-5
        )

    assert agrees(20, tables) and agrees(32, tables)
    moved = rotary_tables(model, 21)
    tables.cos.fill_(float("nan"))
    assert agrees(32, moved)
    assert len(graphs) == 3


@torch.no_grad()
def test_graphs_share_memory_until_they_are_captured_anew(model, graphs):
    """One pool for all of them; a new one afterwards, as torch refuses a pool whose last graph is
    gone.
    """
    stores, tables, captured = (
        [torch.zeros(2, 2, ROWS, 2, room, 8) for room in (20, 32)],
        rotary_tables(model, 33),
        GraphedStep(),
    )
    for store in stores:
        for length in (8, LENGTH):
            captured(model, tokens(store, tables, 3, length=length))
    pools = [graph.pool for graph in graphs]
    assert pools[0] == pools[1] != pools[2] == pools[3] and None not in pools
