"""Muon for the matrices of the blocks, AdamW for the embedding and the head.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Loshchilov
and Hutter 2019, "Decoupled weight decay regularization" (arXiv 1711.05101).
"""

from collections.abc import Iterable
from typing import Any

import torch

from nanolab.model.gpt import GPT
from nanolab.model.scaling import Scale

# of the quintic iteration; they bring singular values into about [0.7, 1.2] in five steps
COEFFICIENTS = (3.4445, -4.775, 2.0315)
MOMENTUM = 0.95


def orthogonalise(x: torch.Tensor, dtype: torch.dtype, steps: int = 5) -> torch.Tensor:
    """The nearest matrices with equal singular values, about, by Newton-Schulz iteration; x (N,
    rows, columns), computed in `dtype`.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape together. A tall matrix's step grows with
    sqrt(rows / columns).

    The update of torch.optim.Muon, which however iterates in bfloat16 always: that turns rounding
    (the order of a sum over ranks) into differences of 1e-4 in the loss within 20 steps.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                states = [(self.state[p], p) for p in parameters]
                buffers = [state.setdefault("momentum", torch.zeros_like(p)) for state, p in states]
                gradients = [p.grad for p in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
                ahead = torch._foreach_lerp(gradients, buffers, MOMENTUM)  # Nesterov
                updates = orthogonalise(torch.stack(ahead), self._dtype).to(parameters[0].dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rate = -group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=rate)


class Optimizers:
    """Both optimizers as one."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members
        for member in members:
            for group in member.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, learning_rate_multiplier: float = 1.0) -> None:
        """One step at the base learning rates times the multiplier."""
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = group["base_lr"] * learning_rate_multiplier
            member.step()

    def zero_grad(self) -> None:
        """Frees all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both states, by the optimizer's number."""
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])


def build_optimizers(model: GPT, scale: Scale, dtype: torch.dtype = torch.float32) -> Optimizers:
    """Muon, iterating in `dtype`, for the blocks, and fused AdamW for embedding and head."""
    groups = [
        {"params": [model.embedding.weight], "lr": scale.embedding_lr},
        {"params": [model.head.weight], "lr": scale.head_lr},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True)
    muon = Muon(model.blocks.parameters(), scale.matrix_lr, scale.weight_decay, dtype)
    return Optimizers([muon, adamw])
