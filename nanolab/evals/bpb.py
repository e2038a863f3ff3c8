"""Bits per byte: a loss that does not depend on the tokenizer."""

import math
from dataclasses import dataclass

import torch

from nanolab.data.tokens.batches import Rows
from nanolab.dist import World, sum_over_ranks
from nanolab.model.gpt import GPT
from nanolab.results import Score

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs, targets: (rows, positions)


def batches_of_rank(rows: Rows, count: int, device_batch_size: int, world: World) -> list[Batch]:
    """This rank's share of rows 0 .. count - 1, in batches of `device_batch_size` at most."""
    starts = range(0, count, device_batch_size)
    return [
        rows.rows(first, min(device_batch_size, count - first))
        for first in starts[world.rank :: world.size]
    ]


@dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of some rows."""

    value: float
    standard_error: float | None  # over rows; None of a single row
    tokens: int  # predicted tokens that stand for bytes
    rows: int

    def score(self, split: str) -> Score:
        """The row of a split's text."""
        return Score(
            "bits_per_byte",
            self.value,
            split=split,
            n=self.rows,
            standard_error=self.standard_error,
            tokens=self.tokens,
        )

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        return f"{self.value:.4f}{error} bits per byte ({self.tokens:,} tokens of {self.rows} rows)"


@torch.no_grad()
def evaluate(model: GPT, batches: list[Batch], token_bytes: list[int], world: World) -> BitsPerByte:
    """Bits per byte of the supervised tokens of all ranks' batches, computed in the world's dtype.

    `token_bytes` (vocab) counts the bytes of each token; tokens of zero bytes (special ones) do not
    count. The standard error is that of a ratio of sums over rows, by linearisation (Cochran 1977,
    "Sampling Techniques", section 6.3).
    """
    sizes = torch.tensor(token_bytes, device=world.device)
    sums = torch.zeros(7, dtype=torch.float64, device=world.device)
    for batch in batches:
        ids, targets = (tensor.to(world.device) for tensor in batch)
        target_bytes = torch.where(targets >= 0, sizes[targets.clamp(min=0)], 0)
        counted = target_bytes > 0
        with world.autocast():
            losses = model.losses(ids, torch.where(counted, targets, -1))
        nats = losses.sum(1, dtype=torch.float64)
        size = target_bytes.sum(1).double()
        # sums of the rows' nats and bytes, of their squares and product; tokens; rows
        parts = [nats, size, nats * nats, nats * size, size * size, counted.sum(1), size > 0]
        sums += torch.stack([part.double().sum() for part in parts])
    nats, total, nats_2, both, total_2, tokens, rows = sum_over_ranks(world, sums).tolist()
    assert total > 0, "the rows evaluated have no supervised token that stands for text"
    ratio = nats / total
    squares = max(0.0, nats_2 - 2 * ratio * both + ratio**2 * total_2)  # of the rows' residuals
    error = math.sqrt(squares * rows / (rows - 1)) / total / math.log(2) if rows > 1 else None
    return BitsPerByte(ratio / math.log(2), error, int(tokens), int(rows))
