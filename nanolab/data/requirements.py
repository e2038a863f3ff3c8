"""What the steps of a study ask of its data: checked when it is planned, and brought ahead by `data fetch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nanolab.config import CHAT_TASKS, STEPS, StudyConfig
from nanolab.data.published import published_task
from nanolab.data.sources import DataSource
from nanolab.schema import UserError

# kinds of conversation of a mixture, and the tasks that each is made of
KINDS = {
    "chats": (),
    "problems": ("gsm8k",),
    "choices": ("arc_easy", "arc_challenge", "mmlu"),
    "programs": ("humaneval",),
}


@dataclass(frozen=True)
class Requirement:
    """A split that a setting asks for: `what` is a task, "text", "chat" or "core"."""

    what: str
    split: str
    setting: str
    subset: str | None = None
    optional: bool = False  # read where the source has it, and said to be missing where it does not


def requirements(
    study: StudyConfig, steps: Iterable[str], source: DataSource
) -> Iterator[Requirement]:
    """Everything that `steps` read, each with the setting that asks for it; what a source lacks of a mixture's choices is left out."""
    for step in steps:
        stage = STEPS[step].stage
        config = study.stage(stage)
        fixed = STEPS[step].fixed
        if step in ("tok_train", "tok_eval", "base_train", "base_loss"):
            yield from (
                Requirement("text", split, f"step {step}") for split in ("train", "validation")
            )
            if step == "tok_eval":
                yield from _compared(config, source)
        elif stage in ("base_eval", "chat_eval"):
            if stage == "base_eval":
                yield Requirement("core", "test", f"step {step}")
            for task in config.tasks:
                yield Requirement(task, "test", f"{stage}.tasks")
                if task != "humaneval" and getattr(config, "num_shots", 0):
                    yield from _shots(task, source, f"{stage}.num_shots")
        elif stage in ("mid_train", "sft"):
            yield from _mixture(stage, config, source)
        elif stage in ("power_eval", "power_ablation"):
            task = fixed.get("task", config.task)
            yield Requirement(
                task, config.split, f"{stage}.split", config.subset if task == "gsm8k" else None
            )
            if (
                task != "humaneval"
                and config.num_shots
                and fixed.get("source", config.source) not in ("mid", "sft", "rl")
            ):
                yield from _shots(task, source, f"{stage}.num_shots")
        elif stage == "rl":
            yield from (Requirement("gsm8k", split, "step rl") for split in ("train", "test"))


def _compared(config: Any, source: DataSource) -> Iterator[Requirement]:
    """What a tokenizer evaluation measures code on (data/text_kinds.py) and compares training data with (data/contamination.py)."""
    wanted = [("humaneval", "test"), ("chat", "test")]
    if config.overlap_chars:
        wanted += [
            ("core", "test"),
            ("chat", "train"),
            *((task, split) for task in CHAT_TASKS for split in ("test", "train")),
        ]
    yield from (
        Requirement(what, split, "step tok_eval", optional=True)
        for what, split in wanted
        if source.has(what, split)
    )


def shots_split(task: str, source: DataSource) -> str:
    """Where solved examples to show are taken from: the development split where there is one, never the test split."""
    return "validation" if source.has(task, "validation") else "train"


def _shots(task: str, source: DataSource, setting: str) -> Iterator[Requirement]:
    yield Requirement(task, shots_split(task, source), setting)


def _mixture(stage: str, config: Any, source: DataSource) -> Iterator[Requirement]:
    if config.share_text:
        yield Requirement("text", "train", f"{stage}.share_text")
    for kind, tasks in KINDS.items():
        setting = f"{stage}.share_{kind}"
        if not getattr(config, f"share_{kind}"):
            continue
        if kind == "chats":
            yield Requirement("chat", "train", setting)
        present = [task for task in tasks if source.has(task, "train")]
        for task in present or tasks[:1]:
            yield Requirement(task, "train", setting)
            if source.has(task, "validation"):
                yield Requirement(task, "validation", setting)


def check_data(study: StudyConfig, steps: Iterable[str], source: DataSource) -> None:
    """Raises UserError naming the setting whose task, subset or split the source does not have; reaches no network."""
    for needed in (needed for needed in requirements(study, steps, source) if not needed.optional):
        if needed.what in ("text", "chat", "core"):
            name, have = (
                needed.what,
                [
                    split
                    for split in ("train", "validation", "test")
                    if source.has(needed.what, split)
                ],
            )
        else:
            published_task(needed.what, needed.subset)
            name, have = needed.what, list(source.task_splits(needed.what))
        if not source.has(needed.what, needed.split):
            fix = "choose one of them" if have else "add it, or leave the step out"
            fix = f"set {needed.setting} to 0" if ".share_" in needed.setting else fix
            raise UserError(
                f"{needed.setting}: the data ({study.data.source}) has no {name} {needed.split}; it has "
                f"{', '.join(have) or 'none of it'}: {fix}"
            )
