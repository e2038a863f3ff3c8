"""What machines do a second, what they cost, and how long they take for a step's work. No torch.

Speeds of a GPU come from reports that users of nanochat published of its depth-20 run on 8 H100
80 GB (two complete ones and one up to the base evaluation: October 2025 at commits 4346536 and
dd6ff9a, January 2026 at f2211ff): 3.9177e19 operations, by its count, in 170 to 175 minutes;
tokenizer 54 to 59 s for 2e9 characters; CORE 3.6 to 4.4 minutes; five chat tasks, one answer at a
time, in 6.6 to 7.1 minutes. Those of a CPU are our own.
"""

import math
import re
from dataclasses import dataclass

from nanolab.costs.work import Decoding, Work
from nanolab.errors import UserError
from nanolab.model.scaling import PEAK_FLOPS

GIB = 1024**3
NANOCHAT = (
    "from published reports of nanochat's depth-20 run on 8 H100 (1.085 million tokens/s in"
    " training, 43.6% of the maker's peak by our count of operations); decoding from its"
    " evaluations, batched as ours is, is the least certain part; nothing here was measured with"
    " this code on a GPU"
)
TWO_CORES = (
    "measured on two shared CPU cores with this code (the default study and"
    " experiments/results/local_real)"
)
# of a model from outside on one CPU thread: operations a second, and bytes of weights that a step
# reads. SmolLM2-135M-Instruct through transformers in float32, processor time on a busy machine:
# 130 to 155 positions a second of 32 and more rows, 24 tokens a second of one row. bfloat16 is
# faster where the processor has it, elsewhere slower (9 GFLOP/s in the same products, float32 40
# to 70): it is planned as float32 is
OUTSIDE_FLOPS = 40e9
OUTSIDE_BYTES = 13e9
# GiB, and bytes a second, as the makers state
GPUS = {"H100": (79.6, 3.35e12), "H200": (140.4, 4.8e12), "A100": (79.3, 2.0e12)}
# of the peak: 11.22e9 tokens in 172 minutes on 8 H100, 3.18e9 operations each
TRAINING_SHARE = 0.436
# operations a second: CORE, 9,345 examples of about 2,100 positions, in 4 minutes on 8 H100
TASK_READING = 11e12
# s: about 185 problems of 150 tokens for each of 8 GPUs, one at a time, in about 6 of those 7
# minutes
DECODING_STEP = 1 / 80
READ_SHARE = 0.5  # of the memory's speed that a decoding step reaches: an assumption


@dataclass(frozen=True)
class Speeds:
    """What one device (a CPU: the whole machine) does, in operations and characters a second."""

    source: str
    training: float
    chat_training: float  # where most targets carry no loss
    reading: float  # of a forward pass over text
    prompts: float  # the same over the prompts of tasks, which come in small lots
    # a decoding step, before the bytes that it reads (GPU); a decoded position (CPU)
    step_seconds: float
    decoding: float  # bytes that a decoding step reads (GPU); operations (CPU)
    characters: float  # of training a tokenizer: the machine's, whatever its devices
    start: float  # seconds before a step works
    compile_start: float = 0.0  # more of them where it compiles its model
    memory_gib: float | None = None


@dataclass(frozen=True)
class Machine:
    """A machine that a study may run on."""

    name: str  # as a person writes it: 8xH100, cpu
    device: str  # "cuda" or "cpu"
    count: int
    speeds: Speeds
    rate: float | None = None  # dollars an hour, all devices


def machine_named(name: str, rates: dict[str, float], width: int) -> Machine:
    """The machine of a name such as 8xH100, 1xH100 or cpu, for models of `width`; `rates` are
    dollars an hour of one device. Raises UserError for an unknown machine.
    """
    found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9]+)", name)
    count, device = (int(found[1] or 1), found[2].upper()) if found else (0, "")
    if device == "CPU" and count == 1:
        return cpu(width, rate_of("cpu", rates))
    if device not in GPUS or count < 1:
        raise UserError(
            f"--hardware {name!r} is not in the table: give cpu, or a number and one of"
            f" {', '.join(GPUS)}, for example 8xH100"
        )
    memory, bandwidth = GPUS[device]
    achieved = TRAINING_SHARE * PEAK_FLOPS[device]
    another = "" if device == "H100" else f"; {device}: the same share of its own peak"
    speeds = Speeds(
        NANOCHAT + another,
        training=achieved,
        chat_training=achieved,
        reading=achieved,
        prompts=TASK_READING,
        step_seconds=DECODING_STEP,
        decoding=READ_SHARE * bandwidth,
        characters=35e6,
        start=20.0,
        compile_start=60.0,
        memory_gib=memory,
    )
    rate = rate_of(device, rates)
    return Machine(f"{count}x{device}", "cuda", count, speeds, rate and rate * count)


def cpu(width: int, rate: float | None = None) -> Machine:
    """Two cores, with a model of `width`: measured at widths 96 and 256, between them interpolated
    in the logarithm.
    """
    share = min(1.0, max(0.0, math.log(width / 96) / math.log(256 / 96)))

    def between(narrow: float, wide: float) -> float:
        return narrow + share * (wide - narrow)

    speeds = Speeds(
        TWO_CORES,
        training=between(118e9, 188e9),
        chat_training=between(136e9, 310e9),
        reading=between(118e9, 188e9),
        prompts=between(40e9, 188e9),
        step_seconds=66e-6,
        decoding=174e9,
        characters=8e6,
        start=3.0,
    )
    return Machine("cpu", "cpu", 1, speeds, rate)


def rate_of(name: str, hourly_rates: dict[str, float]) -> float | None:
    """Dollars an hour of device `name`: the longest key of `hourly_rates` in it decides."""
    keys = [key for key in hourly_rates if key.lower() in name.lower()]
    return hourly_rates[sorted(keys, key=len)[-1]] if keys else None


def seconds(work: Work, machine: Machine) -> tuple[float, float] | None:
    """(before the step works, working) as the table has it; None for a model whose size is not
    known.
    """
    if work.kind != "tokenizer" and work.parameters is None:
        return None
    speeds = machine.speeds
    compiles = getattr(work.config, "compile", False)
    training = speeds.chat_training if work.kind == "chat training" else speeds.training
    each = work.forward_flops / machine.count
    working = work.characters / speeds.characters
    working += each * 3 * work.tokens_trained / training
    working += each * work.tokens_read / _reading(work, machine)
    working += sum(_decoding(work, machine, one) for one in work.decodings)
    return speeds.start + compiles * speeds.compile_start, working


def _reading(work: Work, machine: Machine) -> float:
    """Operations a second over text or prompts; those of a large model fill a GPU as text does."""
    if work.outside and machine.device == "cpu":
        return OUTSIDE_FLOPS
    small_lots = work.decodings and not work.outside
    return machine.speeds.prompts if small_lots else machine.speeds.reading


def _decoding(work: Work, machine: Machine, one: Decoding) -> float:
    """Seconds of sequences side by side: of as many as `batch_rows` allows, the others after
    them.
    """
    speeds, flops = machine.speeds, work.forward_flops
    weights = (work.parameters or 0) * work.bytes_per_value
    if machine.device == "cpu" and work.outside:
        step = weights / OUTSIDE_BYTES / min(work.config.batch_rows, one.rows)
        return one.rows * one.tokens * (step + flops / OUTSIDE_FLOPS)
    if machine.device == "cpu":
        return one.rows * one.tokens * (speeds.step_seconds + flops / speeds.decoding)
    share = one.rows / machine.count
    rows = max(1.0, min(work.config.batch_rows, share))
    read = (weights + rows * one.length / 2 * work.cache_bytes) / speeds.decoding
    steps = one.tokens * max(1.0, share / work.config.batch_rows)
    return steps * (speeds.step_seconds + max(read, rows * flops / speeds.reading))
