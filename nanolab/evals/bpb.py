"""Bits per byte: the loss in bits over the bytes that the predicted tokens stand for, so that tokenizers can be compared."""

from __future__ import annotations

import math

import torch

from nanolab.data.batches import Rows
from nanolab.dist import World, sum_over_ranks
from nanolab.model.gpt import GPT

Batch = tuple[torch.Tensor, torch.Tensor]


def batches_of_rank(rows: Rows, count: int, device_batch_size: int, world: World) -> list[Batch]:
    """This rank's share of rows 0 .. count - 1 as (inputs, targets) of at most `device_batch_size` rows, to be evaluated many times."""
    starts = range(0, count, device_batch_size)
    return [
        rows.rows(first, min(device_batch_size, count - first))
        for first in starts[world.rank :: world.size]
    ]


@torch.no_grad()
def evaluate(model: GPT, batches: list[Batch], token_bytes: list[int], world: World) -> float:
    """Bits per byte of the supervised tokens of all ranks' batches, computed in the world's dtype.

    `token_bytes` (vocab) counts the bytes of each token; targets of zero bytes (special tokens) count neither as bits nor as bytes.
    """
    sizes = torch.tensor(token_bytes, device=world.device)
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)
    for batch in batches:
        ids, targets = (tensor.to(world.device) for tensor in batch)
        target_bytes = torch.where(targets >= 0, sizes[targets.clamp(min=0)], 0)
        with torch.autocast(
            world.device.type, torch.bfloat16, enabled=world.dtype == torch.bfloat16
        ):
            nats, _ = model(ids, torch.where(target_bytes > 0, targets, -1))
        sums += torch.stack([nats.double(), target_bytes.sum().double()])
    nats, total = sum_over_ranks(world, sums).tolist()
    assert total > 0, "the rows evaluated have no supervised token that stands for text"
    return nats / math.log(2) / total
