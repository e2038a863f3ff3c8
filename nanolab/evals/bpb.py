"""Bits per byte: the loss in bits over the bytes that the predicted tokens stand for, so that tokenizers can be compared."""

from __future__ import annotations

import math

import torch

from nanolab.data.batches import Rows
from nanolab.dist import World, sum_over_ranks
from nanolab.model.gpt import GPT


@torch.no_grad()
def bits_per_byte(model: GPT, rows: Rows, count: int, device_batch_size: int, token_bytes: list[int], world: World) -> float:
    """Bits per byte of the supervised tokens of rows 0 .. count - 1, shared out over the ranks.

    `token_bytes` (vocab) counts the bytes of each token; targets of zero bytes (special tokens) count neither as bits nor as bytes.
    """
    sizes = torch.tensor(token_bytes, device=world.device)
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)
    batches = [(first, min(device_batch_size, count - first)) for first in range(0, count, device_batch_size)]
    for number, (first, size) in enumerate(batches):
        if number % world.size != world.rank:
            continue
        ids, targets = (tensor.to(world.device) for tensor in rows.rows(first, size))
        bytes_of_targets = torch.where(targets >= 0, sizes[targets.clamp(min=0)], 0)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=world.dtype == torch.bfloat16):
            nats, _ = model(ids, torch.where(bytes_of_targets > 0, targets, -1))
        sums += torch.stack([nats.double(), bytes_of_targets.sum().double()])
    nats, total_bytes = sum_over_ranks(world, sums).tolist()
    return nats / math.log(2) / max(total_bytes, 1)
