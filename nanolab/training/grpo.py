"""GRPO, on-policy: groups of rollouts of the same problem, advantage over the group's mean, one
update a batch, no KL term.

    loss = -(sum over sampled tokens of advantage * log p) / (sampled tokens of the whole batch)

Forced tokens (tool output) are context: they carry no loss and are not counted. Source: Shao et al.
2024, "DeepSeekMath" (arXiv 2402.03300), without the division by the group's standard deviation, and
with the sum normalised over the batch's tokens as in Yu et al. 2025, "DAPO" (arXiv 2503.14476).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from nanolab import seeds
from nanolab.dist import World, sum_over_ranks
from nanolab.training.loop import backward


@dataclass(frozen=True)
class Rollout:
    """A sampled completion of a prompt, in token ids."""

    prompt: list[int]
    tokens: list[int]
    forced: list[bool]  # by the environment, of each token
    advantage: float

    @property
    def sampled(self) -> int:
        """Number of tokens that the policy chose."""
        return len(self.tokens) - sum(self.forced)


def advantages(rewards: Sequence[float]) -> list[float]:
    """Each reward of a group less the group's mean; all zero when the rewards are equal.

    Zero exactly: the mean of equal rewards may be rounded, and Muon makes a full step of any rest.
    """
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def problems_of_update(seed: int, update: int, per_update: int, available: int) -> list[int]:
    """Indexes of an update's problems: passes over all of them, each in an order of its own."""
    chosen = []
    for position in range(update * per_update, (update + 1) * per_update):
        epoch, place = divmod(position, available)
        chosen.append(int(seeds.generator(seed, "grpo", epoch).permutation(available)[place]))
    return chosen


def pad(rollouts: Sequence[Rollout], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets), both (B, T) int64; a target is -1 where the next token was not sampled."""
    length = max(len(r.prompt) + len(r.tokens) for r in rollouts) - 1
    inputs = torch.full((len(rollouts), length), pad_token)
    targets = torch.full((len(rollouts), length), -1)
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
    """Add the gradient of the loss over all ranks' rollouts to the model's, `rows` rollouts at
    once. Returns the loss, its tokens, and `useful`, the number of rollouts with an advantage (0:
    take no optimizer step). Probabilities are those sampled from, softmax(logits / temperature).
    """
    useful = [rollout for rollout in rollouts if rollout.advantage != 0 and rollout.sampled]
    useful.sort(key=lambda r: (len(r.prompt) + len(r.tokens), r.tokens))  # little padding
    counts = [sum(rollout.sampled for rollout in rollouts), len(useful)]
    counts = torch.tensor(counts, dtype=torch.float64, device=world.device)
    tokens, with_advantage = sum_over_ranks(world, counts).tolist()

    def losses() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(useful), rows):
            part = useful[first : first + rows]
            inputs, targets = (tensor.to(world.device) for tensor in pad(part, 0))
            advantage = torch.tensor([rollout.advantage for rollout in part], device=world.device)
            chosen = targets >= 0
            with world.autocast():  # (sampled, V) float32: logits only where there is a loss
                logits = model.logits(model.trunk(inputs)[chosen])
            nats = cross_entropy(logits.float() / temperature, targets[chosen], reduction="none")
            weights = advantage[:, None].expand_as(targets)[chosen]
            loss = (weights * nats).sum() / max(1.0, tokens)
            yield loss, loss

    loss = backward(world, model, losses())
    return {"loss": loss, "tokens": tokens, "useful": with_advantage}
