"""`bench.py gpu`, training: the losses of 20 steps against float32 on the CPU; tokens a second,
share of the peak, memory.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_gpu import Bench
from bench_gpu_facts import GIB

from nanolab.dist import World
from nanolab.evals.bpb import BitsPerByte
from nanolab.model.gpt import GPT
from nanolab.model.optim import Optimizers, build_optimizers
from nanolab.model.scaling import Scale, derive, flops_per_token, peak_flops
from nanolab.settings.config import BaseTrainConfig
from nanolab.tracking.journal import NullRun
from nanolab.training.loop import Schedule, Trainer, gradients

STEPS = 20
# nats, the largest difference of a loss. Another attention kernel changes it by 4e-7 in float32 on
# a CPU,
# and bfloat16 by 2e-3
FLOAT32, BFLOAT16 = 1e-4, 2e-2
WARM, TIMED, SECONDS = 3, 12, 8.0  # steps before, and at most so many, or for so long
ROWS = 32  # a step, of 2,048 tokens: a GPU's share of 2^19 tokens over eight


class Progressions:
    """Rows of numbers that rise by 1, 2 or 3: learnt within a few steps. A third of the targets
    carry no loss.
    """

    def __init__(self, vocab_size: int, length: int) -> None:
        self.vocab_size, self.length = vocab_size, length

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As nanolab.data.tokens.batches.Rows says."""
        numbers = torch.arange(first, first + count)[:, None]
        ids = (torch.arange(self.length + 1) * (1 + numbers % 3) + 7 * numbers) % self.vocab_size
        targets = ids[:, 1:].clone()
        targets[:, ::3] = -1
        return ids[:, :-1], targets

    def state(self) -> dict[str, int]:
        """Nothing: a row follows from its number."""
        return {}

    def restore(self, state: dict[str, int]) -> None:
        """Nothing."""


def scale_of(tiny: bool) -> tuple[Scale, int]:
    """The model whose losses are compared, in heads as the large ones have, and its vocabulary."""
    if tiny:
        return (
            derive(
                BaseTrainConfig(
                    depth=2, width=64, heads=2, sequence_length=32, batch_size=8, steps=STEPS
                ),
                64,
            ),
            64,
        )
    return (
        derive(
            BaseTrainConfig(
                depth=4, width=256, heads=2, sequence_length=256, batch_size=8, steps=STEPS
            ),
            4096,
        ),
        4096,
    )


def losses(device: str, dtype: torch.dtype, tiny: bool, compiled: bool = False) -> list[float]:
    """The losses of STEPS steps of the lab's own loop, in two micro-batches each, from the same
    weights on the same rows.
    """
    scale, vocab_size = scale_of(tiny)
    torch.manual_seed(0)
    model = GPT(scale.model).to(device)
    if compiled:
        model.trunk = torch.compile(model.trunk)
    schedule = Schedule(STEPS, scale.batch_size, scale.batch_size // 2, 3, 0.5, STEPS + 1, STEPS)
    run, world = NullRun(), World(0, 1, torch.device(device), dtype)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
    ):  # lines of ours only
        Trainer(
            model=model,
            optimizers=build_optimizers(model, scale, dtype),
            rows=Progressions(vocab_size, scale.model.sequence_length),
            schedule=schedule,
            validate=lambda: BitsPerByte(0.0, None, 0, 0),
            world=world,
            run=run,
            folder=Path(folder),
            facts={"made_by": "bench"},
        ).train()
    return [value for key, value, _ in run.logged_metrics if key == "train/loss"]


def compare(
    bench: Bench,
    reference: list[float],
    dtype: torch.dtype,
    tolerance: float,
    compiled: bool = False,
) -> None:
    """A check: how far the device's losses lie from the CPU's in float32, at most."""
    found = losses(bench.device, dtype, bench.tiny, compiled)
    what = (
        f"losses in {str(dtype).removeprefix('torch.')}{', compiled' * compiled}, against float32"
        " on the CPU"
    )
    difference = max(abs(a - b) for a, b in zip(reference, found, strict=True))
    bench.check(
        what,
        difference,
        tolerance,
        unit="nats, largest difference of a step's loss",
        steps=STEPS,
        first=reference[0],
        last=reference[-1],
    )


def check(bench: Bench) -> None:
    """Losses in float32 and in bfloat16."""
    torch.set_float32_matmul_precision("highest")  # no TF32
    reference = losses("cpu", torch.float32, bench.tiny)
    compare(bench, reference, torch.float32, FLOAT32)
    compare(bench, reference, torch.bfloat16, BFLOAT16)


def check_compiled(bench: Bench) -> None:
    """Losses of the compiled model, in bfloat16 as it is trained."""
    if bench.device == "cpu":
        bench.emit(
            what="losses of the compiled model",
            left_out="on a CPU compiling takes longer than all the rest",
        )
        return
    compare(
        bench, losses("cpu", torch.float32, bench.tiny), torch.bfloat16, BFLOAT16, compiled=True
    )


def speed_12(bench: Bench) -> None:
    """Depth 12."""
    speed(bench, 12)


def speed_20(bench: Bench) -> None:
    """Depth 20."""
    speed(bench, 20)


def speed(bench: Bench, depth: int) -> None:
    """Lines of a depth: eager, then compiled. Width 64 a layer, heads of 128, vocabulary 65,536,
    rows of 2,048 tokens, bfloat16.
    """
    if bench.tiny:
        scale = derive(
            BaseTrainConfig(
                depth=depth // 6, width=64, heads=2, sequence_length=32, batch_size=4, steps=1
            ),
            256,
        )
    else:
        scale = derive(
            BaseTrainConfig(depth=depth, sequence_length=2048, batch_size=ROWS, steps=1), 65_536
        )
    rows = scale.batch_size
    for compiled in (False, True):
        if compiled and bench.device == "cpu":
            bench.emit(
                what="training",
                depth=depth,
                compiled=True,
                left_out="on a CPU compiling takes longer than all the rest",
            )
            continue
        while rows and not timed(bench, depth, scale, rows, compiled):
            rows //= 2  # what did not fit eagerly is not tried compiled
            release(bench)
        release(bench)
        if not rows:
            bench.emit(
                what="training",
                depth=depth,
                compiled=compiled,
                error="not even one row fits into memory",
                ok=False,
            )
            return


def timed(bench: Bench, depth: int, scale: Scale, rows: int, compiled: bool) -> bool:
    """A line of the steps' speed at `rows` rows forwarded at once; False, without a line, where
    they do not fit into memory.
    """
    torch.manual_seed(0)
    world = World(0, 1, torch.device(bench.device), torch.bfloat16)
    model = GPT(scale.model).to(bench.device)
    if compiled:
        torch.compiler.reset()
        model.trunk = torch.compile(model.trunk)
    begun = time.perf_counter()
    try:
        seconds, loss = steps(
            model, build_optimizers(model, scale, world.dtype), scale, world, rows, bench.tiny
        )
    except torch.OutOfMemoryError:
        return False
    median = statistics.median(seconds)
    speed, peak = scale.batch_size * scale.model.sequence_length / median, peak_of(bench)
    bench.emit(
        what="training",
        depth=depth,
        compiled=compiled,
        dtype="bfloat16",
        tokens_per_second=speed,
        mfu=None if peak is None else speed * flops_per_token(scale.model) / peak,
        **memory(bench),
        device_rows=rows,
        step_rows=scale.batch_size,
        row_tokens=scale.model.sequence_length,
        step_seconds=median,
        slowest_step=max(seconds),
        steps=len(seconds),
        seconds_before=time.perf_counter() - begun - sum(seconds),
        loss=loss,
        width=scale.model.width,
        vocab_size=scale.model.vocab_size,
    )
    return True


def steps(
    model: GPT, optimizers: Optimizers, scale: Scale, world: World, rows: int, tiny: bool
) -> tuple[list[float], float]:
    """Seconds of each timed step, and the last loss; each waits for the device, as the loop does to
    look at its loss.
    """
    ids, _ = Progressions(scale.model.vocab_size, scale.model.sequence_length).rows(
        0, scale.batch_size
    )
    targets = ids.roll(-1, 1)  # all of them: operations are counted for each token
    seconds: list[float] = []
    loss = 0.0
    for step in range(WARM + (2 if tiny else TIMED)):
        begun = time.perf_counter()
        loss, _ = gradients(model, ids, targets, world, rows)
        optimizers.step(0.1)
        optimizers.zero_grad()
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        if step >= WARM:
            seconds.append(time.perf_counter() - begun)
        if sum(seconds) > SECONDS:
            break
    return seconds, loss


def peak_of(bench: Bench) -> float | None:
    """Operations a second that the device's maker states; None where it is not known."""
    return peak_flops(torch.cuda.get_device_name(0)) if bench.device == "cuda" else None


def memory(bench: Bench) -> dict[str, float | None]:
    """The device's memory at its peak: of tensors, and what torch took for them."""
    if bench.device == "cpu":
        return {"peak_gib": None, "reserved_gib": None}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
    }


def release(bench: Bench) -> None:
    """Gives back the device's memory of what is no longer used, and counts its peak anew from here
    on.
    """
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
