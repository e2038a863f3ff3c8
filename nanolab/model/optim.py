"""Muon for the matrices of the blocks, AdamW for the embedding and the head."""

from __future__ import annotations

from typing import Any

import torch

from nanolab.model.gpt import GPT
from nanolab.model.scaling import Scale


class Optimizers:
    """Both optimizers as one; `step(m)` takes a step at m times the base learning rates."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members
        for member in members:
            for group in member.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, learning_rate_multiplier: float = 1.0) -> None:
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = group["base_lr"] * learning_rate_multiplier
            member.step()

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])


def build_optimizers(model: GPT, scale: Scale) -> Optimizers:
    """Torch's Muon (momentum 0.95, Nesterov, five Newton-Schulz steps; a matrix's step grows with sqrt(rows / columns) when it is tall)
    and fused AdamW (betas 0.8 and 0.95)."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(matrices, lr=scale.matrix_lr, weight_decay=scale.weight_decay, momentum=0.95, nesterov=True,
                            adjust_lr_fn="original")
    groups = [{"params": [model.embedding.weight], "lr": scale.embedding_lr}, {"params": [model.head.weight], "lr": scale.head_lr}]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True)
    return Optimizers([muon, adamw])
