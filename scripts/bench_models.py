"""What benchmarks decode with: a model of random weights, and the ids alone of a tokenizer."""

from __future__ import annotations

import torch

NEVER = 2**30  # ids from here on are in no vocabulary: special tokens that no model draws


def randomise(model: torch.nn.Module) -> None:
    """Normal weights of standard deviation width^-1/2 in every matrix: no layer is idle, and logits
    are not all equal.
    """
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)


class PlainTokens:
    """Stands for a tokenizer: sizes and ids only, no special token that can be drawn."""

    assistant_end = python_end = NEVER
    end_tokens = frozenset((NEVER,))

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
