"""The trained models of a study, for use outside of it: export, and evaluation by other harnesses."""

from __future__ import annotations

import torch

from nanolab import files
from nanolab.config import SOURCE_STEPS
from nanolab.data.tokenizer import Tokenizer
from nanolab.experiment import load_study
from nanolab.plan import JOB, RESULT, read_job
from nanolab.schema import UserError
from nanolab.stages.models import Subject, trained_subject


def load_trained(study: str, source: str = "sft", step: int | None = None, device: str = "cpu") -> Subject:
    """The model that the newest finished step of `study` (a name or a YAML file) left, with the tokenizer it was trained with.

    `source` is base, mid, sft or rl; `step` a checkpoint's optimizer step (None: the finished one). Raises UserError for an unknown
    source, a step that was not run, and a missing or truncated checkpoint.
    """
    if source not in SOURCE_STEPS:
        raise UserError(f"source = {source!r} is no trained model; valid sources are {', '.join(SOURCE_STEPS)}")
    name = load_study(study).experiment
    trained = files.MLRUNS / "work" / name / SOURCE_STEPS[source]
    found = sorted(trained.glob(f"*/{RESULT}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"study {name!r} has no finished step {SOURCE_STEPS[source]} in {files.MLRUNS / 'work'}: run it first "
                        f"(python -m nanolab run {name} --only {SOURCE_STEPS[source]})")
    folder = found[-1].parent
    tokenizer = Tokenizer.load(read_job(folder / JOB).inputs["tok_train"] / "tokenizer")
    return trained_subject(folder / "checkpoints", tokenizer, source, step, torch.device(device))
