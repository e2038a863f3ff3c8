"""The one training loop, for base training, midtraining and SFT.

Step s is rows [s B, (s + 1) B). Its loss is the sum over all ranks divided by the number of supervised tokens over all ranks, so the
number of processes and the size of a micro-batch change only rounding. A checkpoint holds weights, optimizers, cursor and random state:
a run that was killed goes on with the losses of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanolab import checkpoint
from nanolab.data.batches import Rows
from nanolab.dist import World, barrier, sum_over_ranks
from nanolab.journal import Run
from nanolab.model.gpt import GPT
from nanolab.model.optim import Optimizers
from nanolab.model.scaling import flops_per_token, peak_flops
from nanolab.schema import UserError

PROGRESS_SECONDS = 2.0
FINAL_SHARE = 0.1  # the final loss is the mean over this last share of the steps


@dataclass(frozen=True)
class Schedule:
    """How long to train, in what portions, and when to look."""

    steps: int
    batch_size: int  # rows a step, over all ranks
    device_batch_size: int  # rows a rank forwards at once
    warmup_steps: int
    decay_share: float
    eval_every: int
    checkpoint_every: int
    learning_rate_scale: float = 1.0


def learning_rate_multiplier(schedule: Schedule, step: int) -> float:
    """Linear warm-up, constant, then a linear fall to 5% over the last `decay_share` of the steps; times the stage's scale."""
    warm = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    decay_steps = max(1.0, schedule.decay_share * schedule.steps)
    fall = (
        min(1.0, max(0.05, (schedule.steps - step) / decay_steps)) if schedule.decay_share else 1.0
    )
    return schedule.learning_rate_scale * warm * fall


def train(
    model: GPT,
    optimizers: Optimizers,
    rows: Rows,
    world: World,
    run: Run,
    folder: Path,
    schedule: Schedule,
    validate: Callable[[], float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Train to `schedule.steps` steps, from the newest complete checkpoint in `folder` if there is one.

    `validate` gives bits per byte; `facts` go into each checkpoint. Returns steps, batch_size, loss (nats, mean over the last tenth of
    the steps), validation_bits_per_byte, tokens, tokens_per_second (validation and checkpoints not counted) and, where the
    device's peak is known, mfu (share of it used).
    Raises UserError when the batch does not divide over the ranks, and when a loss is not finite.
    """
    if schedule.batch_size % world.size:
        raise UserError(
            f"batch_size = {schedule.batch_size} sequences must divide evenly over {world.size} processes"
        )
    losses, started = _resume(model, optimizers, rows, folder), time.perf_counter()
    first, shown, spent, peak = len(losses), 0.0, 0.0, _peak(world)
    if first and world.rank == 0:
        print(f"resuming after step {first}", flush=True)
    bits, begun = None, time.perf_counter()
    for step, (ids, targets, cursor) in enumerate(_batches(rows, world, schedule, first), first):
        multiplier = learning_rate_multiplier(schedule, step)
        loss = _gradients(model, ids, targets, world, schedule.device_batch_size)
        if not math.isfinite(loss):
            last = checkpoint.latest(folder)
            raise UserError(
                f"the loss of step {step + 1} is {loss}: training diverged; lower the learning rates and run again "
                f"({f'the checkpoint of step {last} is intact' if last else 'no checkpoint was written yet'})"
            )
        optimizers.step(multiplier)
        optimizers.zero_grad()
        losses.append(loss)
        spent += time.perf_counter() - begun
        speeds = _speeds(
            (step + 1 - first) * schedule.batch_size * rows.length / spent, model, peak
        )
        done = step + 1 == schedule.steps
        run.progress("training", step + 1, schedule.steps, "steps")
        run.metrics(
            {"train/loss": loss, "train/learning_rate_multiplier": multiplier}
            | {f"train/{k}": v for k, v in speeds.items()},
            step + 1,
        )
        if done or (step + 1) % schedule.eval_every == 0:
            bits = validate()
            run.metrics({"validation/bits_per_byte": bits}, step + 1)
        if cursor is not None:
            if world.rank == 0:
                state = {
                    "optimizers": optimizers.state_dict(),
                    "rows": cursor,
                    "random": torch.get_rng_state(),
                    "losses": losses,
                }
                checkpoint.save(folder, step + 1, model, state, facts)
            barrier(world)
        if world.rank == 0 and (done or time.perf_counter() - shown >= PROGRESS_SECONDS):
            shown = time.perf_counter()
            left = (schedule.steps - step - 1) * (shown - started) / (step + 1 - first)
            seen = "" if bits is None else f", validation {bits:.3f} bits per byte"
            print(
                f"step {step + 1}/{schedule.steps}: loss {loss:.3f}{seen}, {speeds['tokens_per_second']:,.0f} tokens/s, "
                f"{left:.0f} s left",
                flush=True,
            )
        begun = time.perf_counter()
    tail = losses[-max(1, round(FINAL_SHARE * schedule.steps)) :]
    metrics = {
        "steps": schedule.steps,
        "batch_size": schedule.batch_size,
        "loss": sum(tail) / len(tail),
        "validation_bits_per_byte": bits if bits is not None else validate(),
        "tokens": schedule.steps * schedule.batch_size * rows.length,
    }
    return metrics | (speeds if schedule.steps > first else {})


def _peak(world: World) -> float | None:
    """Operations a second that all ranks' devices could do at most, where that is known (bfloat16 on a known GPU)."""
    if world.device.type != "cuda" or world.dtype != torch.bfloat16:
        return None
    peak = peak_flops(torch.cuda.get_device_name(world.device))
    return None if peak is None else peak * world.size


def _speeds(tokens_per_second: float, model: GPT, peak: float | None) -> dict[str, float]:
    speeds = {"tokens_per_second": tokens_per_second}
    return (
        speeds
        if peak is None
        else speeds | {"mfu": tokens_per_second * flops_per_token(model.config) / peak}
    )


def _resume(model: GPT, optimizers: Optimizers, rows: Rows, folder: Path) -> list[float]:
    """Set everything to the newest complete checkpoint and return the losses so far."""
    step = checkpoint.latest(folder)
    if step is None:
        return []
    trained, _ = checkpoint.load_model(folder, step)
    model.load_state_dict(trained.state_dict())
    state = checkpoint.load_state(folder, step)
    optimizers.load_state_dict(state["optimizers"])
    rows.restore(state["rows"])
    torch.set_rng_state(state["random"])
    return list(state["losses"])


def _batches(
    rows: Rows, world: World, schedule: Schedule, first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict | None]]:
    """This rank's inputs and targets of steps `first`, first + 1, ..., and the cursor after each step that ends in a checkpoint.

    A thread makes the next step's rows while this step computes: reading and tokenising do not hold up a GPU.
    """
    share = schedule.batch_size // world.size

    def make(step: int) -> tuple[torch.Tensor, torch.Tensor, dict | None]:
        ids, targets = rows.rows(step * schedule.batch_size + world.rank * share, share)
        is_checkpoint = (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps
        return ids, targets, rows.state() if is_checkpoint else None

    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(make, step) for step in range(first, schedule.steps)[:1]]
        for step in range(first, schedule.steps):
            batch = ahead.pop().result()
            if step + 1 < schedule.steps:
                ahead.append(thread.submit(make, step + 1))
            yield batch


def _gradients(
    model: GPT, ids: torch.Tensor, targets: torch.Tensor, world: World, device_batch_size: int
) -> float:
    """Set the gradients of a step's mean loss over all ranks, and return that loss in nats."""
    counts = sum_over_ranks(world, (targets >= 0).sum().to(world.device, torch.float64))
    tokens = max(1.0, float(counts))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for start in range(0, len(ids), device_batch_size):
        part = slice(start, start + device_batch_size)
        with torch.autocast(
            world.device.type, torch.bfloat16, enabled=world.dtype == torch.bfloat16
        ):
            nats, _ = model(ids[part].to(world.device), targets[part].to(world.device))
        (nats / tokens).backward()
        total += nats.detach().double()
    if world.size > 1:  # in one piece: a call costs more than its bytes
        gradients = [
            parameter.grad for parameter in model.parameters() if parameter.grad is not None
        ]
        summed = sum_over_ranks(world, torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(
            gradients, summed.split([gradient.numel() for gradient in gradients])
        ):
            gradient.copy_(part.view_as(gradient))
    return float(sum_over_ranks(world, total)) / tokens
