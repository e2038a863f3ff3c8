"""What the steps of a study ask of its data: checked when it is planned, and brought ahead by `data
fetch`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nanolab.data.sources.published import published_task
from nanolab.data.sources.source import DataSource
from nanolab.data.tasks.catalogue import TASKS, usual
from nanolab.errors import UserError
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.evaluation_stages import CHAT_TASKS

# kinds of conversation of a mixture, and the tasks that each is made of
KINDS = {
    "chats": (),
    "problems": usual("problem"),
    "choices": usual("choice"),
    "programs": usual("program"),
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
    """Everything that `steps` read; what a source lacks of a mixture's choices is left out."""
    for step in steps:
        stage = STEPS[step].stage
        config = study.stage(stage)
        fixed = STEPS[step].fixed
        if step in ("tok_train", "tok_eval", "base_train", "base_loss"):
            for split in ("train", "validation"):
                yield Requirement("text", split, f"step {step}")
            if step == "tok_eval":
                yield from _compared(config, source)
        elif stage in ("base_eval", "chat_eval"):
            if stage == "base_eval":
                yield Requirement("core", "test", f"step {step}")
            for task in config.tasks:
                yield Requirement(task, "test", f"{stage}.tasks")
                if TASKS[task].shown and getattr(config, "num_shots", 0):
                    yield from _shots(task, source, f"{stage}.num_shots")
        elif stage in ("mid_train", "sft"):
            yield from _mixture(stage, config, source)
        elif stage in ("power_eval", "power_ablation"):
            task = fixed.get("task", config.task)
            subset = config.subset if task == "gsm8k" else None
            yield Requirement(task, config.split, f"{stage}.split", subset)
            plain = fixed.get("source", config.source) not in ("mid", "sft", "rl")
            if plain and TASKS[task].shown and config.num_shots:
                yield from _shots(task, source, f"{stage}.num_shots")
        elif stage == "rl":
            yield from (Requirement("gsm8k", split, "step rl") for split in ("train", "test"))


def _compared(config: Any, source: DataSource) -> Iterator[Requirement]:
    """What a tokenizer evaluation measures code on (data/checks/text_kinds.py) and compares
    training data with (data/checks/overlap.py).
    """
    wanted = [("humaneval", "test"), ("chat", "test")]
    if config.overlap_chars:
        wanted += [("core", "test"), ("chat", "train")]
        wanted += itertools.product(CHAT_TASKS, ("test", "train"))
    for what, split in wanted:
        if source.has(what, split):
            yield Requirement(what, split, "step tok_eval", optional=True)


def shots_split(task: str, source: DataSource) -> str:
    """Where solved examples to show are taken from: the first of the task's splits of shots that
    the source has, never the test split.
    """
    splits = TASKS[task].shots
    return next((split for split in splits if source.has(task, split)), splits[-1])


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
    """Raises UserError naming the setting whose task, subset or split the source does not have;
    reaches no network.
    """
    for needed in requirements(study, steps, source):
        if needed.optional:
            continue
        name = needed.what
        if name not in ("text", "chat", "core"):
            published_task(name, needed.subset)
        have = source.splits(name)
        if needed.split not in have:
            fix = "choose one of them" if have else "add it, or leave the step out"
            fix = f"set {needed.setting} to 0" if ".share_" in needed.setting else fix
            raise UserError(
                f"{needed.setting}: the data ({study.data.source}) has no {name} {needed.split}; it"
                f" has {', '.join(have) or 'none of it'}: {fix}"
            )
