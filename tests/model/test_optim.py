"""The optimizers: which parameter belongs to which, learning rates, and that a saved state goes on
exactly.
"""

import copy

import pytest
import torch

from nanolab.model.gpt import GPT
from nanolab.model.optim import Muon, build_optimizers
from nanolab.model.scaling import derive
from nanolab.settings.config import BaseTrainConfig

SCALE = derive(
    BaseTrainConfig(depth=2, width=32, heads=2, steps=10, batch_size=2, sequence_length=16), 40
)


def made(seed=0):
    torch.manual_seed(seed)
    model = GPT(SCALE.model)
    return model, build_optimizers(model, SCALE)


def step(model, optimizers, seed, multiplier=1.0):
    torch.manual_seed(seed)
    ids = torch.randint(0, 40, (2, 17))
    loss, count = model(ids[:, :-1], ids[:, 1:])
    (loss / count).backward()
    optimizers.step(multiplier)
    optimizers.zero_grad()
    return float(loss.detach()) / count


def test_every_parameter_has_exactly_one_optimizer_and_only_block_matrices_have_muon():
    model, optimizers = made()
    owned = [
        p for member in optimizers.members for group in member.param_groups for p in group["params"]
    ]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))
    muon = optimizers.members[0].param_groups[0]
    assert {id(p) for p in muon["params"]} == {id(p) for p in model.blocks.parameters()} and muon[
        "weight_decay"
    ] == 0


def test_a_step_follows_the_multiplier():
    moved = {}
    for multiplier in (1.0, 0.5, 0.0):
        model, optimizers = made()
        before = model.head.weight.clone()
        step(model, optimizers, 1, multiplier)
        moved[multiplier] = float((model.head.weight - before).detach().norm())
    assert moved[0.0] == 0 and abs(moved[0.5] / moved[1.0] - 0.5) < 1e-3


def test_muon_steps_are_near_orthogonal():
    model, optimizers = made()
    for i in range(2):  # the first gradient stops at the head, which is zero
        step(model, optimizers, i)
    before = model.blocks[0].feed_forward.down.weight.detach().clone()
    step(model, optimizers, 3)
    values = torch.linalg.svdvals(
        (model.blocks[0].feed_forward.down.weight - before) / SCALE.matrix_lr
    )
    assert 0.5 < float(values[len(values) // 2]) < 1.5


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_muon_is_torchs_but_for_the_dtype(shape):
    torch.manual_seed(0)
    start = [torch.randn(shape) for _ in range(3)]
    mine, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    members = [
        Muon(mine, 0.02, 0.1, torch.bfloat16),
        torch.optim.Muon(theirs, 0.02, weight_decay=0.1, adjust_lr_fn="original"),
    ]
    for _ in range(4):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        for member in members:
            member.step()
    for a, b, x in zip(mine, theirs, start):
        assert (a - b).norm() < 0.02 * (b - x).norm()


def test_a_saved_state_goes_on_exactly():
    model, optimizers = made()
    for i in range(3):
        step(model, optimizers, i)
    other, restored = made(seed=5)
    other.load_state_dict(model.state_dict())
    restored.load_state_dict(
        copy.deepcopy(optimizers.state_dict())
    )  # torch's own would share its tensors
    assert [step(model, optimizers, i) for i in range(3, 6)] == [
        step(other, restored, i) for i in range(3, 6)
    ]


def test_training_on_one_batch_learns_it():
    model, optimizers = made()
    losses = [step(model, optimizers, 0) for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]
