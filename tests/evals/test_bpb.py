"""Bits per byte against its definition."""

import math

import pytest
import torch
from torch.nn import functional

from nanolab.dist import World
from nanolab.evals.bpb import batches_of_rank, evaluate
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig

WORLD = World(0, 1, torch.device("cpu"), torch.float32)


class SomeRows:
    length = 12

    def rows(self, first, count):
        torch.manual_seed(100)
        ids = torch.randint(0, 30, (20, 13))[first : first + count]
        targets = ids[:, 1:].clone()
        targets[:, :2] = -1
        return ids[:, :-1], targets


def test_bits_per_byte_is_bits_over_bytes_of_ordinary_supervised_tokens():
    torch.manual_seed(0)
    model = GPT(GPTConfig(30, 12, 1, 16, 2, 2))
    torch.nn.init.normal_(model.head.weight)
    sizes = [1 + token % 4 for token in range(27)] + [0, 0, 0]
    ids, targets = SomeRows().rows(0, 10)
    nats, total = 0.0, 0
    losses = functional.cross_entropy(
        model.logits(model.trunk(ids)).flatten(0, 1),
        targets.flatten().clamp(min=0),
        reduction="none",
    )
    for loss, target in zip(losses.tolist(), targets.flatten().tolist()):
        if target >= 0 and sizes[target] > 0:
            nats, total = nats + loss, total + sizes[target]
    assert evaluate(
        model, batches_of_rank(SomeRows(), 10, 4, WORLD), sizes, WORLD
    ) == pytest.approx(nats / math.log(2) / total, rel=1e-5)


def test_a_model_that_knows_nothing_needs_log_vocabulary_bits_a_token():
    model = GPT(GPTConfig(32, 12, 1, 16, 2, 2))
    assert evaluate(
        model, batches_of_rank(SomeRows(), 3, 2, WORLD), [2] * 32, WORLD
    ) == pytest.approx(5 / 2)


def test_ranks_share_out_the_rows():
    alone = batches_of_rank(SomeRows(), 10, 3, WORLD)
    shares = [
        batches_of_rank(SomeRows(), 10, 3, World(rank, 3, torch.device("cpu"), torch.float32))
        for rank in range(3)
    ]
    assert (
        sum(len(ids) for share in shares for ids, _ in share)
        == sum(len(ids) for ids, _ in alone)
        == 10
    )
    assert torch.equal(shares[1][0][0], alone[1][0]) and len(shares[0]) == 2
