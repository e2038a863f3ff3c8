"""The trained models of a study, for use outside of it: chat, export, the registered model, and evaluation by other harnesses."""

from __future__ import annotations

from pathlib import Path

import torch

from nanolab import files, hf
from nanolab.config import SOURCE_STEPS
from nanolab.data.tokenizer import Tokenizer
from nanolab.model_source import is_outside
from nanolab.plan import JOB, RESULT, experiment_name, read_job
from nanolab.schema import UserError
from nanolab.stages.models import HFSubject, Subject, trained_subject

CHAT_SOURCES = (
    "sft",
    "rl",
    "mid",
    "base",
)  # which model of a study is talked to where none is named: the first that is there


def load_trained(
    study: str, source: str = "sft", step: int | None = None, device: str = "cpu"
) -> Subject:
    """The model that the newest finished step of `study` (a name or a YAML file) left, with the tokenizer it was trained with.

    `source` is base, mid, sft or rl; `step` a checkpoint's optimizer step (None: the finished one). Raises UserError for an unknown
    source, a step that was not run, and a missing or truncated checkpoint.
    """
    if source not in SOURCE_STEPS:
        raise UserError(
            f"source = {source!r} is no trained model; valid sources are {', '.join(SOURCE_STEPS)}"
        )
    name = experiment_name(study)
    found = _finished(name, source)
    if not found:
        raise UserError(
            f"study {name!r} has no finished step {SOURCE_STEPS[source]} in {files.MLRUNS / 'work'}: run it first "
            f"(python -m nanolab run {name} --only {SOURCE_STEPS[source]})"
        )
    return load_step(found[-1].parent, source, step, device)


def load_step(folder: Path, source: str, step: int | None = None, device: str = "cpu") -> Subject:
    """The model in the work folder of a finished training step, with its tokenizer; its fact `data` is the study's data source."""
    job = read_job(folder / JOB)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    subject = trained_subject(folder / "checkpoints", tokenizer, source, step, torch.device(device))
    subject.facts["data"] = job.study.data.source
    return subject


def load_outside(source: str, device: str = "cpu") -> HFSubject:
    """A Hugging Face model, hf:NAME-or-folder; raises what `hf.load` does."""
    model, tokenizer = hf.load(source, torch.device(device))
    return HFSubject(
        model, tokenizer, {"tokenizer_digest": tokenizer.digest, "source": source}, source
    )


def load_for_chat(
    study: str | None, source: str | None, step: int | None = None, device: str = "cpu"
) -> tuple[Subject, str]:
    """The model to talk to, and its name: `source` of `study`, by default the first of CHAT_SOURCES of the newest study in the store.

    Raises UserError when there is none, and what `load_trained` and `hf.load` do.
    """
    if is_outside(source):
        return load_outside(source, device), source
    name = experiment_name(study) if study else newest_study()
    chosen = source or next((one for one in CHAT_SOURCES if _finished(name, one)), "sft")
    subject = load_trained(name, chosen, step, device)
    return subject, f"{name}, {chosen}, step {subject.facts['step']}"


def newest_study() -> str:
    """The study whose chat model, or else base model, was finished last; raises UserError when the store has none."""
    for sources in (("sft",), ("rl", "mid", "base")):
        found = [
            path
            for source in sources
            for path in (files.MLRUNS / "work").glob(f"*/{SOURCE_STEPS[source]}/*/{RESULT}")
        ]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime).parents[2].name
    raise UserError(
        f"no trained model in {files.MLRUNS / 'work'}: run a study first (make run, or python -m nanolab run smoke --only sft)"
    )


def _finished(name: str, source: str) -> list[Path]:
    """The results of the finished steps that make a model, the newest last."""
    folder = files.MLRUNS / "work" / name / SOURCE_STEPS[source]
    return sorted(folder.glob(f"*/{RESULT}"), key=lambda path: path.stat().st_mtime)
