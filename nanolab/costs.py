"""From work to hours and dollars: a small table of measured throughputs, and what this store's own finished steps took. No torch.

Speeds of a GPU are not ours. They come from training reports of nanochat's depth-20 run on 8 H100 80 GB that its users published (two
complete ones and one up to the base evaluation: October 2025 at commits 4346536 and dd6ff9a, January 2026 at f2211ff): 3.9177e19
operations, by its count, in 170 to 175 minutes; tokenizer 54 to 59 s for 2e9 characters; CORE 3.6 to 4.4 minutes; five chat tasks, one
answer at a time, in 6.6 to 7.1 minutes. Those of a CPU are our own, on two cores: the default study
(README) and experiments/results/local_real.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.config import STEPS, StudyConfig
from nanolab.experiment import study_from_dict
from nanolab.model.scaling import PEAK_FLOPS, derive, flops_per_token
from nanolab.schema import UserError
from nanolab.work import Work, cache_bytes, step_work, study_work

GIB = 1024**3
NANOCHAT = (
    "from published reports of nanochat's depth-20 run on 8 H100 (1.085 million tokens/s in training, 43.6% of the maker's "
    "peak by our count of operations); decoding from its evaluations, batched as ours is, is the least certain part; "
    "nothing here was measured with this code on a GPU"
)
TWO_CORES = "measured on two shared CPU cores with this code (the default study and experiments/results/local_real)"


@dataclass(frozen=True)
class Speeds:
    """What one device does (a CPU: the whole machine)."""

    source: str
    training: float  # operations a second of base training
    chat_training: float  # the same where most targets carry no loss
    reading: float  # operations a second of a forward pass over text
    prompts: float  # the same over the prompts of tasks, which come in small lots
    step_seconds: (
        float  # of a decoding step, before the bytes it reads (GPU); of a decoded position (CPU)
    )
    decoding: float  # bytes a second that a decoding step reads (GPU); operations a second (CPU)
    characters: float  # a second, of training a tokenizer: the machine's, whatever its devices
    start: float  # seconds before a step works
    compile_start: float = 0.0  # more of them where it compiles its model
    memory_gib: float | None = None


@dataclass(frozen=True)
class Hardware:
    """A machine that a study may run on."""

    name: str  # as a person writes it: 8xH100, cpu
    device: str  # "cuda" or "cpu"
    count: int
    speeds: Speeds
    rate: float | None = None  # dollars an hour, all devices


@dataclass(frozen=True)
class Cost:
    """A step's row of the plan; memory and disk in GiB, None where nothing can be said."""

    step: str
    parameters: int | None
    tokens_read: float
    tokens_trained: float
    tokens_generated: float
    flops: float
    memory_gib: float
    disk_gib: float
    hours: float | None
    dollars: float | None
    basis: str  # "table", or how many finished steps of this store its speed comes from


# by width of the model, our own at both; a width between them is interpolated in its logarithm
CPU_TRAINING = ((96, 118e9), (256, 188e9))
CPU_CHAT_TRAINING = ((96, 136e9), (256, 310e9))
CPU_PROMPTS = ((96, 40e9), (256, 188e9))
GPUS = {
    "H100": (79.6, 3.35e12),
    "H200": (140.4, 4.8e12),
    "A100": (79.3, 2.0e12),
}  # GiB, and bytes a second, as the makers state
TRAINING_SHARE = (
    0.436  # of the peak: 11.22e9 tokens in 172 minutes on 8 H100, 3.18e9 operations each
)
TASK_READING = 11e12  # operations a second: CORE, 9,345 examples of about 2,100 positions, in 4 minutes on 8 H100
DECODING_STEP = (
    1 / 80
)  # s: about 185 problems of 150 tokens for each of 8 GPUs, one at a time, in about 6 of those 7 minutes
NARROW = 768  # width below which starting kernels takes longer than running them
READ_SHARE = 0.5  # of the memory's speed that a decoding step reaches: an assumption


def hardware(name: str, rates: dict[str, float], width: int) -> Hardware:
    """The machine of a name such as 8xH100, 1xH100 or cpu, for models of `width`; raises UserError for an unknown one.

    `rates` gives dollars an hour of one device by a part of its name.
    """
    found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9]+)", name)
    count, device = int(found[1] or 1) if found else 0, found[2] if found else ""
    if device.lower() == "cpu" and count == 1:
        return Hardware("cpu", "cpu", 1, cpu_speeds(width), rate_of("cpu", rates))
    if device.upper() not in GPUS or count < 1:
        raise UserError(
            f"--hardware {name!r} is not in the table: give cpu, or a number and one of {', '.join(GPUS)}, for example 8xH100"
        )
    device, rate = device.upper(), rate_of(device, rates)
    memory, bandwidth = GPUS[device]
    achieved = TRAINING_SHARE * PEAK_FLOPS[device]
    source = (
        NANOCHAT if device == "H100" else f"{NANOCHAT}; {device}: the same share of its own peak"
    )
    speeds = Speeds(
        source,
        achieved,
        achieved,
        achieved,
        TASK_READING,
        DECODING_STEP,
        READ_SHARE * bandwidth,
        35e6,
        20.0,
        60.0,
        memory,
    )
    return Hardware(
        f"{count}x{device}", "cuda", count, speeds, None if rate is None else rate * count
    )


def cpu_speeds(width: int) -> Speeds:
    """Two cores, with a model of `width`."""
    return Speeds(
        TWO_CORES,
        _at(CPU_TRAINING, width),
        _at(CPU_CHAT_TRAINING, width),
        _at(CPU_TRAINING, width),
        _at(CPU_PROMPTS, width),
        66e-6,
        174e9,
        8e6,
        3.0,
    )


def _at(table: tuple[tuple[int, float], ...], width: int) -> float:
    (low, slow), (high, fast) = table
    share = min(1.0, max(0.0, math.log(width / low) / math.log(high / low)))
    return slow + share * (fast - slow)


def rate_of(name: str, hourly_rates: dict[str, float]) -> float | None:
    """Dollars an hour of device `name`: the longest key of `hourly_rates` in it decides."""
    keys = sorted((key for key in hourly_rates if key.lower() in name.lower()), key=len)
    return hourly_rates[keys[-1]] if keys else None


def seconds(work: Work, machine: Hardware) -> tuple[float, float] | None:
    """(before the step works, working) as the table has it; None for a model whose size is not known."""
    if work.kind != "tokenizer" and work.model is None:
        return None
    speeds, count = machine.speeds, machine.count
    start = speeds.start + (speeds.compile_start if work.compiled else 0.0)
    working = work.characters / speeds.characters
    training = speeds.chat_training if work.kind == "chat training" else speeds.training
    reading = speeds.prompts if work.decodings else speeds.reading
    working += work.training_flops / training / count + work.reading_flops / reading / count
    if work.model is None:
        return start, working
    per_token = flops_per_token(work.model) / 3
    for one in work.decodings:
        if machine.device == "cpu":
            working += one.rows * one.tokens * (speeds.step_seconds + per_token / speeds.decoding)
        else:  # every row that fits is decoded at once
            rows = max(1.0, min(work.batch_rows, one.rows / count))
            weights = (work.parameters or 0) * work.bytes_per_value
            read = weights + rows * one.length / 2 * cache_bytes(work)
            steps = one.tokens * max(1.0, one.rows / count / work.batch_rows)
            working += steps * (speeds.step_seconds + read / speeds.decoding)
    return start, working


# ---- what this machine took


@dataclass(frozen=True)
class Finished:
    """A finished step of this store: how much longer it worked than the table says."""

    kind: str
    step: str
    width: int
    ratio: float
    ended: float


def finished_steps(root: Path | None = None) -> list[Finished]:
    """The finished steps of every study in the store that say how fast this machine is, for a CPU's plan.

    Left out are steps of another version, whose settings this one does not know, those that took more than one attempt (their last one
    did only a part), and those too small: most of their time is the start. A step ran on a CPU if its result says so; one of a version
    whose results do not say it, only if it was launched on one by name (launch.device "auto" may have meant a GPU).
    """
    found = []
    for path in sorted(((root or files.MLRUNS) / "work").glob("*/*/*/result.json")):
        result, given, attempts = (
            _read(path.with_name(name)) for name in ("result.json", "job.json", "attempts.json")
        )
        if result is None or given is None or path.parts[-3] == "report" or len(attempts or []) > 1:
            continue
        try:
            study = study_from_dict({**given["study"], STEPS[given["step"]].stage: given["config"]})
            work = step_work(study, given["step"], "cpu", study.launch.nproc)
        except (UserError, KeyError):
            continue
        machine = Hardware("cpu", "cpu", 1, cpu_speeds(work.model.width if work.model else 96))
        planned = seconds(work, machine)
        if result.get("device", study.launch.device) != "cpu" or planned is None:
            continue
        worked = result["ended"] - result["started"] - planned[0]
        if worked > planned[0] and planned[1] > planned[0] / 2:
            found.append(
                Finished(
                    work.kind,
                    given["step"],
                    work.model.width if work.model else 0,
                    worked / planned[1],
                    result["ended"],
                )
            )
    return found


def _read(path: Path) -> Any:
    """What a JSON file holds; None without one: another study may set its folder aside at any moment."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def own_ratio(work: Work, have: list[Finished]) -> tuple[float, int]:
    """(how much longer than the table this machine works at such a step, from how many finished steps); (1, 0) without any.

    Counted are steps of its kind with a model at most twice as wide or narrow, the same step where there is one; the median of
    the ten newest.
    """
    width = work.model.width if work.model else 0
    near = [
        one
        for one in have
        if one.kind == work.kind
        and (one.width == width or (one.width and 0.5 <= one.width / max(1, width) <= 2))
    ]
    same = [one for one in near if one.step == work.step] or near
    newest = sorted(same, key=lambda one: one.ended)[-10:]
    return (statistics.median(one.ratio for one in newest), len(newest)) if newest else (1.0, 0)


# ---- the plan


def plan_costs(
    study: StudyConfig, machine: Hardware, own: list[Finished] | None = None
) -> list[Cost]:
    """The cost of every step of a study on a machine; `own` (for a CPU) are finished steps whose speed stands before the table's."""
    processes = (
        machine.count if machine.device == "cuda" else study.launch.nproc * study.launch.nnodes
    )
    rows = []
    for work in study_work(study, machine.device, processes):
        taken, basis = seconds(work, machine), "table"
        if taken is not None and own:
            ratio, count = own_ratio(work, own)
            taken, basis = (taken[0], taken[1] * ratio), f"{count} finished" if count else "table"
        hours = None if taken is None else sum(taken) / 3600
        dollars = None if hours is None or machine.rate is None else hours * machine.rate
        rows.append(
            Cost(
                work.step,
                work.parameters,
                work.tokens_read,
                work.tokens_trained,
                work.tokens_generated,
                work.flops,
                (work.memory_bytes + PROCESS_BYTES[machine.device]) / GIB,
                work.disk_bytes / GIB,
                hours,
                dollars,
                basis,
            )
        )
    return rows


PROCESS_BYTES = {
    "cpu": 0.45 * GIB,
    "cuda": 1.0 * GIB,
}  # Python and torch, which a CPU process holds; the device's context


def total(rows: list[Cost]) -> Cost:
    """The sum of the steps; memory is the largest, parameters the model's."""
    known = [row.hours for row in rows if row.hours is not None]
    paid = [row.dollars for row in rows if row.dollars is not None]
    return Cost(
        "total",
        max((row.parameters or 0 for row in rows), default=0) or None,
        sum(row.tokens_read for row in rows),
        sum(row.tokens_trained for row in rows),
        sum(row.tokens_generated for row in rows),
        sum(row.flops for row in rows),
        max((row.memory_gib for row in rows), default=0.0),
        sum(row.disk_gib for row in rows),
        sum(known) if known else None,
        sum(paid) if paid else None,
        "",
    )


def of_all_seeds(study: StudyConfig, one: Cost) -> Cost:
    """The total of a study that is run whole for each of its seeds, from the total of one."""
    times = max(1, len(study.seeds))
    return replace(
        one,
        **{
            key: None if getattr(one, key) is None else times * getattr(one, key)
            for key in (
                "tokens_read",
                "tokens_trained",
                "tokens_generated",
                "flops",
                "disk_gib",
                "hours",
                "dollars",
            )
        },
    )


def notes(study: StudyConfig, machine: Hardware, rows: list[Cost]) -> list[str]:
    """What to know before believing the plan."""
    said = [f"speeds: {machine.speeds.source}"]
    measured = [row for row in rows if row.basis != "table"]
    if machine.device == "cpu":
        cores = os.cpu_count() or 1
        said.append(
            f"{len(measured)} of {len(rows)} steps at the speed of finished steps in this store"
            if measured
            else "no finished step in this store is like these: the table's two cores"
            + (f"; this machine has {cores}" if cores != 2 else "")
        )
    said.append(
        "lengths of prompts and answers are typical ones (nanolab/work.py); a queue, downloads and kernels' starts are not counted"
    )
    if machine.device == "cpu" and any(row.step in ("mid_train", "sft", "rl") for row in rows):
        said.append(
            "memory: conversations, which chat training and rl hold, are not counted; the default study's peak there is 1.2 to 1.7 "
            "GiB where 0.5 is planned (experiments/results/smoke)"
        )
    if (
        machine.device == "cuda"
        and derive(study.base_train, study.tokenizer.vocab_size).model.width < NARROW
    ):
        said.append(
            f"a model narrower than {NARROW} cannot fill a GPU: expect several times these times in training"
        )
    others = {
        study.stage(STEPS[step].stage).model_tag
        for step in study.steps
        if hasattr(study.stage(STEPS[step].stage), "model_tag")
    }
    others -= {"default", study.experiment}
    if others:
        said.append(
            f"models of {', '.join(sorted(others))} are taken to have the shape that this study states"
        )
    limit = machine.speeds.memory_gib
    over = [row for row in rows if limit is not None and row.memory_gib > limit]
    if over:
        worst = max(over, key=lambda row: row.memory_gib)
        said.append(
            f"{', '.join(row.step for row in over)}: about {worst.memory_gib:.0f} GiB a GPU is more than its {limit:.0f}: "
            "lower device_batch_size or batch_rows"
        )
    processes = study.launch.nproc * study.launch.nnodes
    if machine.device == "cuda" and processes != machine.count:
        said.append(
            f"launch.nproc x launch.nnodes = {processes}, a GPU each: the study uses {machine.name} only with {machine.count}"
        )
    unknown = [row.step for row in rows if row.hours is None]
    if unknown:
        said.append(
            f"{', '.join(unknown)}: nothing is known of the time of a model from outside, and no total has it"
        )
    if len(study.seeds) > 1:
        said.append(
            f"{len(study.seeds)} seeds: every step {len(study.seeds)} times; the rows are of one seed"
        )
    if machine.rate is None:
        said.append(f"no hourly rate for {machine.name} in the study's hourly_rates: no dollars")
    return said
