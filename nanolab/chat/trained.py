"""The trained models of a study, for use outside of it: chat, export, other harnesses."""

import torch

from nanolab import files
from nanolab.errors import UserError
from nanolab.evals.subject import Subject, finished_subject, outside_subject
from nanolab.plan.steps import (
    JOB,
    RESULT,
    experiment_name,
    first_command,
    is_aside,
    newest_result,
    read_job,
    require_finished,
)
from nanolab.settings.config import SOURCE_STEPS, ChatEvalConfig
from nanolab.settings.model_source import is_outside

# which model of a study is talked to where none is named: the first that is there
CHAT_SOURCES = ("sft", "rl", "mid", "base")


def load_trained(
    study: str, source: str = "sft", step: int | None = None, device: str = "cpu"
) -> Subject:
    """The model that the newest finished step of `study` (a name or a YAML file) left, with its
    tokenizer; its fact `data` is the study's data source.

    `source` is base, mid, sft or rl; `step` a checkpoint's optimizer step (None: the finished one).
    Raises UserError where there is no such model.
    """
    if source not in SOURCE_STEPS:
        raise UserError(
            f"source = {source!r} is no trained model; valid sources are {', '.join(SOURCE_STEPS)}"
        )
    name = experiment_name(study)
    folder = newest_result(name, SOURCE_STEPS[source])
    if folder is None:
        raise UserError(
            f"study {name!r} has no finished step {SOURCE_STEPS[source]} in "
            f"{files.MLRUNS / 'work'}: run {first_command(study, SOURCE_STEPS[source])}"
        )
    require_finished(folder)
    job = read_job(folder / JOB)
    require_finished(job.inputs["tok_train"])
    subject = finished_subject(folder, job.inputs["tok_train"], source, step, torch.device(device))
    subject.facts["data"] = job.study.data.source
    return subject


def load_for_chat(
    study: str | None,
    source: str | None,
    step: int | None = None,
    device: str = "cpu",
    engine: str = "nanolab",
) -> tuple[Subject, str]:
    """The model to talk to, and its name: `source` (from outside, or one of `study`), by default
    the first of CHAT_SOURCES of the newest study in the store. `engine` is nanolab, or vllm for a
    model from outside.
    """
    asked = ChatEvalConfig(source=source or "sft", engine=engine)
    if is_outside(source):
        return outside_subject(source, torch.device(device), asked), source
    name = experiment_name(study) if study else newest_study()
    there = (one for one in CHAT_SOURCES if newest_result(name, SOURCE_STEPS[one]))
    chosen = source or next(there, "sft")
    subject = load_trained(name, chosen, step, device)
    return subject, f"{name}, {chosen}, step {subject.facts['step']}"


def newest_study() -> str:
    """The study whose chat model, or else base model, was finished last."""
    for sources in (("sft",), ("rl", "mid", "base")):
        found = [
            path
            for source in sources
            for path in (files.MLRUNS / "work").glob(f"*/{SOURCE_STEPS[source]}/*/{RESULT}")
            if not is_aside(path.parent)
        ]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime).parents[2].name
    raise UserError(
        f"no trained model in {files.MLRUNS / 'work'}: run a study first: "
        "make run, or python scripts/run_all.py smoke --only sft"
    )
