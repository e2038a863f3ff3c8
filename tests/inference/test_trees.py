"""A tree's hidden states are those of its rows, each forwarded whole, and do not depend on which
trees are forwarded with it.
"""

import pytest
import torch

from nanolab.inference.trees import Tree, common_prefix, hidden_states
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig


@pytest.fixture(scope="module", params=[4, 2], ids=["all heads", "grouped"])
def model(request):
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            vocab_size=97, sequence_length=300, depth=3, width=64, heads=4, kv_heads=request.param
        )
    ).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    return model


def tokens(seed, count):
    return torch.randint(0, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def trees():
    """Trunk and branches, a trunk alone, branches alone, an empty branch, wanted tokens in the
    trunk, at its end and out of order.
    """
    return [
        Tree(
            tokens(0, 150),
            [tokens(1, 5), [], tokens(2, 9)],
            [(0, 149), (0, 150), (0, 154), (1, 149), (2, 155), (2, 30)],
        ),
        Tree(tokens(3, 21), [], [(0, 20), (0, 3)]),
        Tree([], [tokens(4, 7), tokens(5, 30)], [(1, 29), (0, 0), (0, 6)]),
        Tree(tokens(6, 4), [tokens(7, 2)], []),
        Tree(tokens(8, 140), [tokens(9, 1)] * 2, [(1, 140)]),
    ]


def whole_rows(model, tree):
    """Each wanted state by a plain forward of its whole row."""
    with torch.no_grad():
        states = [
            model.trunk(torch.tensor([tree.trunk + branch]))[0] for branch in tree.branches or [[]]
        ]
    return [states[branch][position] for branch, position in tree.wanted]


def test_a_tree_equals_its_whole_rows(model):
    found = hidden_states(model, trees())
    expected = torch.stack([state for tree in trees() for state in whole_rows(model, tree)])
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)


def test_a_tree_does_not_depend_on_its_company(model):
    together, first = hidden_states(model, trees()), 0
    for tree in trees():
        if tree.wanted:
            assert torch.allclose(
                hidden_states(model, [tree]), together[first : first + len(tree.wanted)], atol=1e-6
            )
        first += len(tree.wanted)


def test_bfloat16_is_close_to_float32(model):
    exact = hidden_states(model, trees())
    coarse = GPT(model.config).eval()
    coarse.load_state_dict(model.state_dict())
    found = hidden_states(coarse.to(torch.bfloat16), trees())
    assert found.dtype == torch.bfloat16 and float((found - exact).abs().mean()) < 0.03 * float(
        exact.std()
    )


def test_common_prefix():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2 and common_prefix([[1, 2], [1, 2, 3]]) == 2
    assert common_prefix([[1], [2]]) == 0 and common_prefix([[7, 8]]) == 2
