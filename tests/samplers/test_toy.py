"""The enumerable model: a proper law, spread widely enough that a test on it can fail."""

import math

import pytest
from toy import END, TOOL, ToyModel, tool_output


def shares(toy, law):
    """Mass of each (length, uses the tool)."""
    found = {}
    for completion, mass in law.items():
        kind = (len(completion), toy.uses_tool(completion))
        found[kind] = found.get(kind, 0.0) + mass
    return found


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("alpha", [1, 2, 4])
def test_the_target_is_spread(alpha, top_k):
    """Effective support of at least 8, and at least 2% for every length, with and without the
    tool.
    """
    toy = ToyModel()
    law = toy.law(alpha, toy.max_new_tokens, top_k)
    assert 1 / sum(mass**2 for mass in law.values()) >= 8
    found = shares(toy, law)
    assert set(found) == {(1, False), (2, False), (3, False), (4, False), (4, True)}
    assert min(found.values()) >= 0.02


@pytest.mark.parametrize("alpha", [1, 2, 4])
def test_the_longer_toy_is_spread_too(alpha):
    toy = ToyModel(5, seed=0, main=3, rest=0.1)
    law = toy.law(alpha, 5)
    assert 1 / sum(mass**2 for mass in law.values()) >= 8
    assert set(shares(toy, law)) == {(n, False) for n in range(1, 6)} | {(4, True), (5, True)}
    assert min(shares(toy, law).values()) >= 0.02


def test_p_sums_to_one():
    toy = ToyModel(5)
    assert math.isclose(sum(math.exp(toy.log_p(x)) for x in toy.completions(5)), 1, abs_tol=1e-12)


def test_the_tool_output_is_forced_and_cut_by_the_limit():
    toy = ToyModel(4)
    found = toy.completions(4)
    assert (TOOL, *tool_output((TOOL,)), END) in found
    assert (2, 2, TOOL, tool_output((2, 2, TOOL))[0]) in found  # cut after one token
    assert (2, 2, 2, TOOL) in found  # cut whole
    assert toy.model_positions((TOOL, *tool_output((TOOL,)), END)) == [0, 3]


def test_a_block_completes_a_forced_output():
    """An inner limit of 2 lets a tool output that has begun run past it; the final limit does
    not.
    """
    found = ToyModel(4).completions(2)
    assert (TOOL, *tool_output((TOOL,))) in found and (2, TOOL, *tool_output((2, TOOL))) in found


def test_rows_fork_rewind_and_leave():
    toy = ToyModel()
    (row,) = toy.prefill([toy.prompt])
    first = toy.decode([row], [toy.prompt])
    toy.decode([row], [[2]])
    copy, same = toy.fork([-1, row], [row, row], [2, 1])
    assert same == row and toy.rows[copy] == (2, 2) and toy.rows[row] == (2,)
    assert (toy.table[toy.number[()]] == first[0]).all()
    assert toy.fork([copy, row], [-1, -1], [0, 0]) == [-1, -1] and not toy.rows
