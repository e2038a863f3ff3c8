"""The one training loop, for base training, midtraining and SFT.

Step s is rows [s B, (s + 1) B), B the batch size. Its loss is the sum over all ranks divided by the
number of supervised tokens over all ranks, so the number of processes and the size of a micro-batch
change only rounding. A checkpoint holds weights, optimizers, cursor and random state: a run that
was killed goes on with the losses of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nanolab.data.tokens.batches import Rows
from nanolab.dist import World, barrier, say, sum_gradients, sum_over_ranks
from nanolab.errors import UserError
from nanolab.evals.bpb import BitsPerByte
from nanolab.model import checkpoint
from nanolab.model.gpt import GPT
from nanolab.model.optim import Optimizers
from nanolab.model.scaling import flops_per_token, peak_flops
from nanolab.results import Score, scalars
from nanolab.tracking.journal import Run

PRINT_SECONDS = 2.0  # between two lines
FINAL_SHARE = 0.1  # the final loss is the mean over this last share of the steps
BASE_RATES = "base_train.matrix_lr, base_train.embedding_lr, base_train.head_lr"

Batch = tuple[torch.Tensor, torch.Tensor]  # ids and targets, (rows, T) int64


@dataclass(frozen=True)
class Schedule:
    """How long to train, in what portions, and when to validate and save."""

    steps: int
    batch_size: int  # rows a step, over all ranks
    device_batch_size: int  # rows a rank forwards at once
    warmup_steps: int
    decay_share: float
    eval_every: int
    checkpoint_every: int
    learning_rate_scale: float = 1.0

    def learning_rate_multiplier(self, step: int) -> float:
        """Of step `step` (from 0): linear warm-up, constant, then a linear fall to 5% over the
        last `decay_share` of the steps; times the stage's scale.
        """
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        fall = 1.0
        if self.decay_share:
            left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
            fall = min(1.0, max(0.05, left))
        return self.learning_rate_scale * warm * fall

    def due(self, every: int, done: int) -> bool:
        """Whether what happens every few steps, and at the end, happens after `done` steps."""
        return done == self.steps or done % every == 0


@dataclass(kw_only=True)
class Training:
    """A model that is trained, and its checkpoints."""

    model: GPT
    optimizers: Optimizers
    world: World
    run: Run
    folder: Path  # of its checkpoints
    facts: dict[str, Any]  # kept in each checkpoint; made_by is the step of the study

    # (step, metrics) of every point of the curves, those of earlier attempts included
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list, init=False)

    def record(self, step: int, point: dict[str, float]) -> None:
        """Record metrics of a step (from 1), for the run and for the next checkpoint."""
        self.curve.append((step, point))
        self.run.metrics(point, step)

    def restore(self) -> dict[str, Any] | None:
        """Go back to the newest complete checkpoint, and record its curves again: a power cut may
        have taken some of the journal. Returns its state, None without one.
        """
        step = checkpoint.latest(self.folder)
        if step is None:
            return None
        saved, _ = checkpoint.load_model(
            self.folder, step, tokenizer_digest=self.facts.get("tokenizer_digest")
        )
        self.model.load_state_dict(saved.state_dict())
        state = checkpoint.load_state(self.folder, step)
        self.optimizers.load_state_dict(state["optimizers"])
        torch.set_rng_state(state["random"])
        for done, point in state["curve"]:
            self.record(done, point)
        self.say(f"resuming after step {step}")
        return state

    def check_weights(self, step: int) -> None:
        """Raises UserError when a weight is not finite after `step` optimizer steps, of which a
        finite loss says nothing: so every checkpoint is one to go on from.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise self.diverged(f"weights are not finite after step {step}")

    def diverged(self, seen: str) -> UserError:
        """The error of a training in which something that is not finite was `seen`."""
        name, last = self.facts["made_by"], checkpoint.latest(self.folder)
        rates = BASE_RATES if name == "base_train" else f"{name}.learning_rate_scale"
        kept = (
            f"the checkpoint of step {last} is intact" if last else "no checkpoint was written yet"
        )
        return UserError(f"{seen}: training diverged; lower {rates} and run again ({kept})")

    def save(self, step: int, **state: Any) -> None:
        """Rank 0 writes a checkpoint; all wait for it."""
        if self.world.rank == 0:
            self.run.flush()
            state |= {
                "curve": self.curve,
                "optimizers": self.optimizers.state_dict(),
                "random": torch.get_rng_state(),
            }
            checkpoint.save(self.folder, step, self.model, state, self.facts)
        barrier(self.world)

    def say(self, line: str) -> None:
        """A progress line, from one process only."""
        say(self.world, line)


@dataclass(kw_only=True)
class Trainer(Training):
    """A training on given rows."""

    rows: Rows
    schedule: Schedule
    validate: Callable[[], BitsPerByte]

    losses: list[float] = field(default_factory=list, init=False)  # nats a token, of each step
    supervised: list[int] = field(default_factory=list, init=False)  # the tokens of each loss
    bits: BitsPerByte | None = field(default=None, init=False)  # of the last validation
    speed: dict[str, float] = field(default_factory=dict, init=False)

    def train(self) -> list[Score]:
        """Train to the schedule's last step, from the newest complete checkpoint if there is one,
        and return what was measured: the loss (nats) is the mean over the last tenth of the steps,
        tokens_per_second leaves out validation and checkpoints.
        """
        schedule = self.schedule
        if schedule.batch_size % self.world.size:
            raise UserError(
                f"batch_size = {schedule.batch_size} sequences must divide evenly over"
                f" {self.world.size} processes"
            )
        self.resume()
        first, working, printed = self.done, 0.0, 0.0
        started = begun = time.perf_counter()
        for batch, cursor in self.batches():
            self.step(batch)
            working += time.perf_counter() - begun
            validates = schedule.due(schedule.eval_every, self.done)
            saves = schedule.due(schedule.checkpoint_every, self.done)
            if validates or saves:
                self.check_weights(self.done)
            self.measure_speed(self.done - first, working)
            self.run.progress("training", self.done, schedule.steps, "steps")
            self.log()
            if validates:
                self.measure()
            if saves:
                self.save(self.done, rows=cursor, losses=self.losses, supervised=self.supervised)
            begun = time.perf_counter()
            if self.done == schedule.steps or begun - printed >= PRINT_SECONDS:
                printed = begun
                self.print_progress((begun - started) / (self.done - first))
        return self.results()

    @property
    def done(self) -> int:
        """Steps done, those of earlier attempts included."""
        return len(self.losses)

    def resume(self) -> None:
        """Go on after the newest complete checkpoint, if there is one."""
        if (state := self.restore()) is None:
            return
        self.rows.restore(state["rows"])
        self.losses, self.supervised = list(state["losses"]), list(state["supervised"])

    def batches(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """This rank's batch of each step to come, and the rows' cursor after it. A thread makes the
        next one while a step computes: tokenising does not hold up a GPU.
        """
        steps, batch_size = self.schedule.steps, self.schedule.batch_size
        share = batch_size // self.world.size

        def make(step: int) -> tuple[Batch, dict[str, Any]]:
            first_row = step * batch_size + self.world.rank * share
            return self.rows.rows(first_row, share), self.rows.state()

        with ThreadPoolExecutor(1) as thread:
            coming = None
            for step in range(self.done, steps + 1):
                ready, coming = coming, thread.submit(make, step) if step < steps else None
                if ready is not None:
                    yield ready.result()

    def step(self, batch: Batch) -> None:
        ids, targets = batch
        rows = self.schedule.device_batch_size
        loss, tokens = gradients(self.model, ids, targets, self.world, rows)
        if not math.isfinite(loss):
            raise self.diverged(f"the loss of step {self.done + 1} is {loss}")
        self.optimizers.step(self.schedule.learning_rate_multiplier(self.done))
        self.optimizers.zero_grad()
        self.losses.append(loss)
        self.supervised.append(tokens)

    def measure_speed(self, steps: int, seconds: float) -> None:
        """Tokens a second of this attempt's steps, and the share of a known GPU's bfloat16 peak."""
        speed = steps * self.schedule.batch_size * self.rows.length / seconds
        self.speed = {"tokens_per_second": speed}
        device = self.world.device
        if device.type != "cuda" or self.world.dtype != torch.bfloat16:
            return
        if peak := peak_flops(torch.cuda.get_device_name(device)):
            used = speed * flops_per_token(self.model.config)
            self.speed["mfu"] = used / (peak * self.world.size)

    def log(self) -> None:
        """Record the step that was just done."""
        multiplier = self.schedule.learning_rate_multiplier(self.done - 1)
        point = {"loss": self.losses[-1], "learning_rate_multiplier": multiplier, **self.speed}
        self.record(self.done, {f"train/{key}": value for key, value in point.items()})

    def measure(self) -> None:
        """Validate the model and record a point of the validation curve."""
        self.bits = self.validate()
        point = {"validation/bits_per_byte": self.bits.value}
        if self.bits.standard_error is not None:
            point["validation/bits_per_byte_se"] = self.bits.standard_error
        self.record(self.done, point)

    def print_progress(self, seconds_per_step: float) -> None:
        steps = self.schedule.steps
        bits = f", validation {self.bits.value:.3f} bits per byte" if self.bits else ""
        self.say(
            f"step {self.done}/{steps}: loss {self.losses[-1]:.3f}{bits},"
            f" {self.speed['tokens_per_second']:,.0f} tokens/s,"
            f" {(steps - self.done) * seconds_per_step:.0f} s left"
        )

    def results(self) -> list[Score]:
        """What `train` returns."""
        tail = max(1, round(FINAL_SHARE * self.schedule.steps))
        losses = self.losses[-tail:]
        mean = sum(losses) / len(losses)
        error = None
        if len(losses) > 1:
            squares = math.fsum((loss - mean) ** 2 for loss in losses)
            error = math.sqrt(squares / (len(losses) - 1) / len(losses))
        counts = {"n": len(losses), "tokens": sum(self.supervised[-tail:])}
        tokens = self.schedule.steps * self.schedule.batch_size * self.rows.length
        return [
            *scalars(steps=self.schedule.steps, batch_size=self.schedule.batch_size),
            Score("loss", mean, standard_error=error, **counts),
            (self.bits or self.validate()).score("validation"),
            *scalars(tokens=tokens, **self.speed),
        ]


def backward(
    world: World, model: GPT, losses: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Add the gradients of every rank's losses to the model's. Beside each loss stands what is
    counted of it: returns the sum of that over all ranks.
    """
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for loss, counted in losses:
        loss.backward()
        total += counted.detach().double()
    sum_gradients(world, model)
    return float(sum_over_ranks(world, total))


def gradients(
    model: GPT, ids: torch.Tensor, targets: torch.Tensor, world: World, device_batch_size: int
) -> tuple[float, int]:
    """Set the gradients of a step's mean loss over all ranks, from this rank's ids and targets
    (rows, T) int64; returns that loss in nats, and the tokens that it is a mean of.
    """
    counts = sum_over_ranks(world, (targets >= 0).sum().to(world.device, torch.float64))
    tokens = max(1.0, float(counts))

    def losses() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in zip(ids.split(device_batch_size), targets.split(device_batch_size)):
            with world.autocast():
                nats, _ = model(*(tensor.to(world.device) for tensor in batch))
            yield nats / tokens, nats

    return backward(world, model, losses()) / tokens, int(counts)
