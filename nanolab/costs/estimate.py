"""From work to hours and dollars: the table of nanolab/costs/hardware.py, or what this store's own
finished steps took. No torch.
"""

import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nanolab import files
from nanolab.costs.hardware import GIB, Machine, cpu, seconds
from nanolab.costs.work import Work, step_work
from nanolab.errors import UserError
from nanolab.model.scaling import derive
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.model_source import is_outside
from nanolab.settings.study_file import study_from_dict

NARROW = 768  # width below which starting kernels takes longer than running them
OUTSIDE = {
    "cpu": (
        "models from outside: the speed of SmolLM2-135M-Instruct through transformers on one thread"
        " of a busy machine"
    ),
    "cuda": (
        "models from outside: prompts are read at training's share of the peak, a decoding step"
        " takes what nanochat's takes, and the longer of reading weights and cache and of computing"
    ),
}
VLLM = (
    "vLLM: planned at these same speeds, for it was not run on a GPU here; what our draws cost in"
    " it is not counted, and it reserves most of a device's memory, whatever the column says"
)
# of a process: Python and torch, which a CPU process holds; the device's context
PROCESS_BYTES = {"cpu": 0.45 * GIB, "cuda": 1.0 * GIB}


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


COUNTS = ("tokens_read", "tokens_trained", "tokens_generated", "flops")
UNSURE = ("hours", "dollars")
SUMMED = (*COUNTS, "disk_gib", *UNSURE)


@dataclass(frozen=True)
class Finished:
    """A finished step of this store: how much longer it worked than the table says."""

    work: Work
    ratio: float
    ended: float


def finished_steps(root: Path) -> list[Finished]:
    """The finished steps of every study below `root` that say how fast this machine's CPU is."""
    paths = sorted((root / "work").glob("*/*/*/result.json"))
    found = (_finished(path.parent) for path in paths if path.parts[-3] != "report")
    return [one for one in found if one is not None]


def _finished(folder: Path) -> Finished | None:
    """What a step's work folder says of this machine's speed.

    None for a step whose settings this version does not know, for one of several attempts (the last
    did only a part), for one whose time is mostly its start, and for one that is not known to have
    run on a CPU: an old result does not say it, and launch.device "auto" may have meant a GPU.
    """
    attempts = folder / "attempts.json"
    try:  # another study may set the folder aside at any moment
        if attempts.is_file() and len(files.read_json(attempts)) > 1:
            return None
        result, job = (files.read_json(folder / f"{name}.json") for name in ("result", "job"))
        step = job["step"]
        study = study_from_dict({**job["study"], STEPS[step].stage: job["config"]})
        work = step_work(study, step, "cpu", study.launch.nproc)
    except (UserError, KeyError):
        return None
    planned = seconds(work, cpu(work.width or 96))
    if planned is None or result.get("device", study.launch.device) != "cpu":
        return None
    start, working = planned
    worked = result["ended"] - result["started"] - start
    if worked <= start or working <= start / 2:
        return None
    return Finished(work, worked / working, result["ended"])


def own_ratio(work: Work, have: list[Finished]) -> tuple[float, int]:
    """(how much longer than the table this machine works at such a step, from how many finished
    steps): the median of the ten newest of its kind with a model at most twice as wide or narrow,
    of the same step where there is one.
    """
    width = work.width
    near = [one for one in have if one.work.kind == work.kind]
    near = [one for one in near if width <= 2 * one.work.width and one.work.width <= 2 * width]
    same = [one for one in near if one.work.step == work.step] or near
    newest = sorted(same, key=lambda one: one.ended)[-10:]
    return (statistics.median(one.ratio for one in newest), len(newest)) if newest else (1.0, 0)


def plan_costs(
    study: StudyConfig, machine: Machine, own: list[Finished] | None = None
) -> list[Cost]:
    """The cost of every step of a study on a machine, without the report's seconds; `own` (for a
    CPU) are finished steps whose speed stands before the table's.
    """
    launched = study.launch.nproc * study.launch.nnodes
    processes = machine.count if machine.device == "cuda" else launched
    steps = [step for step in study.steps if step != "report"]
    works = [step_work(study, step, machine.device, processes) for step in steps]
    return [_cost(work, machine, own or []) for work in works]


def _cost(work: Work, machine: Machine, own: list[Finished]) -> Cost:
    hours = dollars = None
    ratio, count = own_ratio(work, own)
    if taken := seconds(work, machine):
        hours = (taken[0] + taken[1] * ratio) / 3600
        dollars = None if machine.rate is None else hours * machine.rate
    return Cost(
        memory_gib=(work.memory_bytes + PROCESS_BYTES[machine.device]) / GIB,
        disk_gib=work.disk_bytes / GIB,
        hours=hours,
        dollars=dollars,
        basis=f"{count} finished" if taken and count else "table",
        **{key: getattr(work, key) for key in ("step", "parameters", *COUNTS)},
    )


def total(rows: list[Cost]) -> Cost:
    """The sum of the steps; memory is the largest, parameters the model's."""
    known = {key: [getattr(row, key) for row in rows] for key in SUMMED}
    known = {key: [one for one in values if one is not None] for key, values in known.items()}
    return Cost(
        "total",
        max((row.parameters or 0 for row in rows), default=0) or None,
        memory_gib=max((row.memory_gib for row in rows), default=0.0),
        basis="",
        **{key: sum(values) for key, values in known.items() if key not in UNSURE},
        **{key: sum(known[key]) if known[key] else None for key in UNSURE},
    )


def of_all_seeds(study: StudyConfig, one: Cost) -> Cost:
    """The total of a study that is run whole for each of its seeds, from the total of one."""
    values = {key: getattr(one, key) for key in SUMMED}
    times = max(1, len(study.seeds))
    return replace(one, **{key: value and times * value for key, value in values.items()})


def notes(study: StudyConfig, machine: Machine, rows: list[Cost]) -> Iterator[str]:
    """What to know before believing the plan."""
    yield f"speeds: {machine.speeds.source}"
    on_cpu = machine.device == "cpu"
    if on_cpu:
        yield _basis(rows)
    yield (
        "lengths of prompts and answers are typical ones (nanolab/costs/work.py); a queue,"
        " downloads and kernels' starts are not counted"
    )
    if on_cpu and any(row.step in ("mid_train", "sft", "rl") for row in rows):
        yield (
            "memory: conversations, which chat training and rl hold, are not counted; the default"
            " study's peak there is 1.2 to 1.7 GiB where 0.5 is planned (experiments/results/smoke)"
        )
    yield from _of_models(study, machine, rows)
    limit = machine.speeds.memory_gib or math.inf
    if over := {row.step: row.memory_gib for row in rows if row.memory_gib > limit}:
        yield (
            f"{', '.join(over)}: about {max(over.values()):.0f} GiB a GPU is more than its"
            f" {limit:.0f}: lower device_batch_size or batch_rows"
        )
    processes = study.launch.nproc * study.launch.nnodes
    if not on_cpu and processes != machine.count:
        yield (
            f"launch.nproc x launch.nnodes = {processes}, a GPU each: the study uses {machine.name}"
            f" only with {machine.count}"
        )
    if (seeds := len(study.seeds)) > 1:
        yield f"{seeds} seeds: every step {seeds} times; the rows are of one seed"
    if machine.rate is None:
        yield f"no hourly rate for {machine.name} in the study's hourly_rates: no dollars"


def _basis(rows: list[Cost]) -> str:
    """Whether the speeds of a CPU are those of finished steps, or the table's."""
    measured = sum(row.basis != "table" for row in rows)
    if measured:
        return f"{measured} of {len(rows)} steps at the speed of finished steps in this store"
    cores = os.cpu_count() or 1
    here = f"; this machine has {cores}" if cores != 2 else ""
    return f"no finished step in this store is like these: the table's two cores{here}"


def _of_models(study: StudyConfig, machine: Machine, rows: list[Cost]) -> Iterator[str]:
    """What is supposed of the models, those from outside included."""
    configs = {
        step: replace(study.stage(STEPS[step].stage), **STEPS[step].fixed)
        for step in study.steps
        if step != "report"
    }
    outside = {
        step: config
        for step, config in configs.items()
        if is_outside(getattr(config, "source", None))
    }
    width = derive(study.base_train, study.tokenizer.vocab_size).model.width
    if machine.device == "cuda" and width < NARROW and outside.keys() != configs.keys():
        yield (
            f"a model narrower than {NARROW} cannot fill a GPU: expect several times these times in"
            " training"
        )
    tags = {getattr(config, "model_tag", "default") for config in configs.values()}
    if others := sorted(tags - {"default", study.experiment}):
        yield f"models of {', '.join(others)} are taken to have the shape that this study states"
    unknown = [row.step for row in rows if row.hours is None]
    if unknown:
        yield (
            f"{', '.join(unknown)}: nothing is known of the time of a model from outside without"
            " its shape, and no total has it; a folder with its config.json tells it"
        )
    if planned := [step for step in outside if step not in unknown]:
        yield (
            f"{', '.join(planned)}: tokens are an upper bound. Every answer of a model from outside"
            " is taken to fill max_new_tokens, and no proposal to be given up early; how many fewer"
            " they are, is known only once it has run"
        )
        yield OUTSIDE[machine.device]
    if any(getattr(config, "engine", "") == "vllm" for config in outside.values()):
        yield VLLM
