"""The policy gradient equals an obvious reference token by token, and leaves forced tokens and
equal groups alone.
"""

import itertools

import pytest
import torch

from nanolab.dist import World
from nanolab.training import grpo

WORLD = World(0, 1, torch.device("cpu"), torch.float32)


class TinyModel(torch.nn.Module):
    """Causal: the hidden state is the running mean of the embeddings."""

    def __init__(self, vocabulary=11, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(vocabulary, width)
        self.head = torch.nn.Linear(width, vocabulary, bias=False)

    def trunk(self, ids):
        total = self.embedding(ids).cumsum(1)
        return torch.tanh(total / torch.arange(1, ids.shape[1] + 1)[:, None])

    def logits(self, hidden):
        return self.head(hidden)


ROLLOUTS = [
    grpo.Rollout([1, 2, 3], [4, 5, 6, 7], [False, True, True, False], 0.75),
    grpo.Rollout([1, 2], [8, 9], [False, False], -0.25),
    grpo.Rollout([3], [2, 2, 10, 1, 1], [False, False, True, False, False], -0.5),
    grpo.Rollout([5, 5, 5, 5], [1], [False], 0.0),
]


def reference(model, temperature):
    """One token at a time, one forward each."""
    loss, count = 0.0, 0
    for rollout in ROLLOUTS:
        for position, (token, forced) in enumerate(zip(rollout.tokens, rollout.forced)):
            if forced:
                continue
            ids = torch.tensor([rollout.prompt + rollout.tokens[:position]])
            log_p = torch.log_softmax(model.logits(model.trunk(ids))[0, -1] / temperature, -1)[
                token
            ]
            loss, count = loss - rollout.advantage * log_p, count + 1
    return loss / count, count


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_equals_the_token_by_token_reference(rows, temperature):
    model, other = TinyModel(), TinyModel()
    facts = grpo.policy_gradient(WORLD, model, ROLLOUTS, temperature=temperature, rows=rows)
    loss, count = reference(other, temperature)
    loss.backward()
    assert facts["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
    assert facts["tokens"] == count == 9 and facts["useful"] == 3
    for got, expected in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(got.grad, expected.grad)


def test_a_step_along_the_gradient_makes_rewarded_tokens_likelier():
    model = TinyModel()

    def log_p(rollout):
        inputs, targets = grpo.pad([rollout], 0)
        logits = model.logits(model.trunk(inputs))
        return -torch.nn.functional.cross_entropy(
            logits[0], targets[0], ignore_index=-1, reduction="sum"
        ).item()

    before = [log_p(r) for r in ROLLOUTS]
    grpo.policy_gradient(WORLD, model, ROLLOUTS, temperature=1.0, rows=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    assert log_p(ROLLOUTS[0]) > before[0] and log_p(ROLLOUTS[1]) < before[1]


def test_forced_and_padded_positions_have_no_target():
    inputs, targets = grpo.pad(ROLLOUTS[:2], 0)
    assert inputs.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 8, 0, 0, 0]]
    assert targets.tolist() == [[-1, -1, 4, -1, -1, 7], [-1, 8, 9, -1, -1, -1]]


def test_equal_rewards_have_no_advantage_and_no_gradient():
    assert grpo.advantages([1.0, 1.0, 1.0]) == [0, 0, 0]
    assert grpo.advantages([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]
    for reward, count in itertools.product((0.1, 0.7, -1 / 3, 1e-5), range(1, 33)):  # rounded means
        assert grpo.advantages([reward] * count) == [0.0] * count
    unequal = [0.3, 0.1, 0.1, 0.7]
    assert grpo.advantages(unequal) == [reward - sum(unequal) / 4 for reward in unequal]
    model = TinyModel()
    facts = grpo.policy_gradient(WORLD, model, ROLLOUTS[3:], temperature=1.0, rows=2)
    assert facts == {"loss": 0, "tokens": 1, "useful": 0} and all(
        p.grad is None for p in model.parameters()
    )


def test_updates_pass_over_all_problems_before_one_comes_again():
    drawn = [grpo.problems_of_update(7, update, 3, 9) for update in range(6)]
    first, second = [[i for update in half for i in update] for half in (drawn[:3], drawn[3:])]
    assert sorted(first) == list(range(9)) == sorted(second)
    assert drawn[:3] != drawn[3:] and drawn[4] == grpo.problems_of_update(7, 4, 3, 9)
