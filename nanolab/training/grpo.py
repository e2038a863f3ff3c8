"""GRPO, on-policy: groups of rollouts of the same problem, advantage over the group's mean, one update a batch, no KL term.

    loss = -(sum over sampled tokens of advantage * log p) / (number of sampled tokens of the whole batch)

Forced tokens (tool output) are context: they carry no loss and are not counted.
Source: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), without the division by the group's standard deviation, and
with the sum normalised over the batch's tokens as in Yu et al. 2025, "DAPO" (arXiv 2503.14476).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nanolab import seeds
from nanolab.dist import World, sum_over_ranks


@dataclass(frozen=True)
class Rollout:
    """One sampled completion of a prompt: token ids, which of them the environment forced, and its advantage."""

    prompt: list[int]
    tokens: list[int]
    forced: list[bool]
    advantage: float

    @property
    def sampled(self) -> int:
        """Number of tokens that the policy chose."""
        return len(self.tokens) - sum(self.forced)


def advantages(rewards: Sequence[float]) -> list[float]:
    """Each reward of a group less the group's mean; all zero when the rewards are equal."""
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def problems_of_update(seed: int, update: int, per_update: int, available: int) -> list[int]:
    """The indexes of the problems of an update (counted from 0): passes over all of them, each in an order of its own."""
    first = update * per_update
    chosen = []
    for position in range(first, first + per_update):
        epoch, place = divmod(position, available)
        chosen.append(int(seeds.generator(seed, "grpo", epoch).permutation(available)[place]))
    return chosen


def pad(rollouts: Sequence[Rollout], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets), both (B, T) int64; a target is -1 wherever the next token was not sampled by the policy."""
    length = max(len(r.prompt) + len(r.tokens) for r in rollouts) - 1
    inputs = torch.full((len(rollouts), length), pad_token, dtype=torch.int64)
    targets = torch.full((len(rollouts), length), -1, dtype=torch.int64)
    for row, rollout in enumerate(rollouts):
        ids = [*rollout.prompt, *rollout.tokens]
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        start = len(rollout.prompt) - 1  # the position whose logits gave the first completion token
        chosen = [-1 if forced else token for token, forced in zip(rollout.tokens, rollout.forced)]
        targets[row, start : start + len(chosen)] = torch.tensor(chosen)
    return inputs, targets


def policy_gradient(
    world: World, model: Any, rollouts: Sequence[Rollout], *, temperature: float, rows: int
) -> dict[str, float]:
    """Adds the gradient of the loss over all ranks' rollouts to the model's parameters; gives the batch's loss, its tokens,
    and `useful`, the number of rollouts with an advantage (0: there is nothing to learn, take no optimizer step).

    `rows` rollouts are forwarded at once. Log-probabilities are those of the distribution sampled from, softmax(logits /
    temperature) over the whole vocabulary. A rollout with advantage 0 adds no gradient and is not forwarded.
    """
    # neighbours of like length waste little padding
    useful = sorted(
        (r for r in rollouts if r.advantage != 0 and r.sampled),
        key=lambda r: (len(r.prompt) + len(r.tokens), r.tokens),
    )
    own = torch.tensor(
        [sum(r.sampled for r in rollouts), len(useful)], dtype=torch.float64, device=world.device
    )
    tokens, with_advantage = sum_over_ranks(world, own).tolist()
    total = max(1.0, tokens)
    loss_sum = torch.zeros(1, dtype=torch.float64, device=world.device)
    for first in range(0, len(useful), rows):
        part = useful[first : first + rows]
        inputs, targets = (tensor.to(world.device) for tensor in pad(part, 0))
        weights = torch.tensor(
            [r.advantage for r in part], dtype=torch.float32, device=world.device
        )
        chosen = targets >= 0
        with torch.autocast(
            world.device.type, torch.bfloat16, enabled=world.dtype == torch.bfloat16
        ):
            logits = model.logits(
                model.trunk(inputs)[chosen]
            )  # (sampled, vocab) float32: only where there is a loss
        log_p = -torch.nn.functional.cross_entropy(
            logits.float() / temperature, targets[chosen], reduction="none"
        )
        loss = -(weights[:, None].expand_as(targets)[chosen] * log_p).sum() / total
        loss.backward()
        loss_sum += loss.detach().double()
    _sum_gradients(world, model)
    return {
        "loss": float(sum_over_ranks(world, loss_sum)),
        "tokens": tokens,
        "useful": with_advantage,
    }


def _sum_gradients(world: World, model: Any) -> None:
    """Every rank ends with the sum of all ranks' gradients; a rank without a useful rollout takes part with zeros."""
    if world.size == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    )
    flat = sum_over_ranks(world, flat)
    for parameter, summed in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad = summed.view_as(parameter)
