"""Bits per byte: a loss that does not depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from nanolab.data.tokens.batches import Rows
from nanolab.dist import World, sum_over_ranks
from nanolab.model.gpt import GPT
from nanolab.results import Score

WINDOW = 2048  # tokens that a row of an outside model has at most, where its context is longer
AT_ONCE = 64  # rows handed to a scorer together
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
    unit: str = "rows"  # what the rows are

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
        of = f"{self.tokens:,} tokens of {self.rows} {self.unit}"
        return f"{self.value:.4f}{error} bits per byte ({of})"


@torch.no_grad()
def evaluate(model: GPT, batches: list[Batch], token_bytes: list[int], world: World) -> BitsPerByte:
    """Bits per byte of the supervised tokens of all ranks' batches, computed in the world's dtype.

    `token_bytes` (vocab) counts the bytes of each token; tokens of zero bytes (special ones) do not
    count.
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
        sums += _sums(nats, target_bytes.sum(1).double(), counted.sum(1))
    return _bits(sums, world)


def _sums(nats: torch.Tensor, size: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of rows' nats and bytes, float64 (n,), and tokens (n,): the sums of nats and bytes, of their
    squares and product; tokens; rows.
    """
    parts = [nats, size, nats * nats, nats * size, size * size, tokens, size > 0]
    return torch.stack([part.double().sum() for part in parts])


def _bits(sums: torch.Tensor, world: World) -> BitsPerByte:
    """Of all ranks' sums; the standard error is that of a ratio of sums over rows, by linearisation
    (Cochran 1977, "Sampling Techniques", section 6.3).
    """
    nats, total, nats_2, both, total_2, tokens, rows = sum_over_ranks(world, sums).tolist()
    assert total > 0, "the rows evaluated have no supervised token that stands for text"
    ratio = nats / total
    squares = max(0.0, nats_2 - 2 * ratio * both + ratio**2 * total_2)  # of the rows' residuals
    error = math.sqrt(squares * rows / (rows - 1)) / total / math.log(2) if rows > 1 else None
    return BitsPerByte(ratio / math.log(2), error, int(tokens), int(rows))


def of_documents(subject: Any, texts: Iterable[str], tokens: int, world: World) -> BitsPerByte:
    """Bits per byte of an outside model (evals/subject.py) on whole documents, the first that have
    `tokens` tokens together: log p of every token of a text, over the text's bytes in UTF-8.

    A document is read in rows of at most `WINDOW` tokens, or of the model's context. The first
    token of a row is context only: what a text starts with, or the last token of the row before.
    The standard error is over documents.
    """
    scorer, tokenizer, documents = subject.scorer, subject.tokenizer, []
    for text in texts:
        documents.append((text, tokenizer.encode(text)))
        tokens -= len(documents[-1][1])
        if tokens <= 0:
            break
    owners, rows, length = [], [], min(WINDOW, subject.context)
    for number in range(world.rank, len(documents), world.size):
        for row in windows(documents[number][1], tokenizer.document_start, length):
            owners.append(number)
            rows.append(row)
    nats = torch.zeros(len(documents), dtype=torch.float64)
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        scores = scorer.score(some, [(1, len(row)) for row in some])
        for owner, score in zip(owners[first:], scores):
            nats[owner] -= score.log_p
    own = slice(world.rank, None, world.size)
    size = torch.tensor([len(text.encode()) for text, _ in documents], dtype=torch.float64)
    counts = torch.tensor([len(ids) for _, ids in documents])
    sums = _sums(nats[own], size[own], counts[own])
    return replace(_bits(sums.to(world.device), world), unit="documents")


def windows(ids: list[int], start: int, length: int) -> Iterator[list[int]]:
    """A document in rows of at most `length` tokens that overlap by one: each token but `start` is
    in exactly one row behind its first.
    """
    whole = [start, *ids]
    for first in range(0, len(ids), length - 1):
        yield whole[first : first + length]
