"""Checkpoints: safetensors weights and a training state in one folder a step, complete or not there.

A checkpoint is written to a temporary folder, marked complete with the size and sha256 of each part, and renamed. "Newest" counts
complete ones only, and loading verifies every part.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nanolab.files import is_complete, mark_complete, verify_complete
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.schema import UserError

WEIGHTS, STATE = "model.safetensors", "state.pt"


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"step-{step:06d}"


def save(folder: Path, step: int, model: GPT, state: dict[str, Any], facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` (optimizer steps done) and return its folder.

    `facts` (JSON-able) come back from `load_model`, `state` (tensors and plain values) from `load_state`.
    """
    final = step_folder(folder, step)
    temporary = final.with_name(final.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    safetensors.torch.save_file(weights, temporary / WEIGHTS)
    torch.save(state, temporary / STATE)
    mark_complete(
        temporary, [WEIGHTS, STATE], step=step, model=dataclasses.asdict(model.config), **facts
    )
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    return final


def steps(folder: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    found = []
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and is_complete(path):
            found.append(int(match[1]))
    return sorted(found)


def latest(folder: Path) -> int | None:
    """The newest step with a complete checkpoint, or None."""
    return max(steps(folder), default=None)


def find(folder: Path, step: int | None) -> Path:
    """The folder of checkpoint `step` (None: the newest); raises UserError naming the steps that are there."""
    have = steps(folder)
    if not have:
        raise UserError(
            f"no complete checkpoint in {folder}: run the step that trains this model first"
        )
    if step is not None and step not in have:
        raise UserError(
            f"no complete checkpoint of step {step} in {folder}; there are: {', '.join(map(str, have))}"
        )
    return step_folder(folder, have[-1] if step is None else step)


def load_model(
    folder: Path,
    step: int | None = None,
    device: torch.device | str = "cpu",
    tokenizer_digest: str | None = None,
) -> tuple[GPT, dict[str, Any]]:
    """The model of a checkpoint (None: the newest complete one) on `device`, and its facts.

    Raises UserError for a missing or truncated checkpoint, and when `tokenizer_digest` is not the digest it was trained with.
    """
    path = find(folder, step)
    facts = verify_complete(path)
    trained = facts.get("tokenizer_digest")
    if tokenizer_digest is not None and trained != tokenizer_digest:
        raise UserError(
            f"{path} was trained with tokenizer {str(trained)[:12]}, not with the tokenizer given ({tokenizer_digest[:12]}): "
            "use the tokenizer of its own study, or train the model again"
        )
    with torch.random.fork_rng(devices=[]):  # building the model draws numbers that nobody needs
        model = GPT(GPTConfig(**facts["model"]))
    model.load_state_dict(safetensors.torch.load_file(path / WEIGHTS))
    return model.to(device), facts


def load_state(folder: Path, step: int) -> dict[str, Any]:
    """The training state saved with the checkpoint of `step`, tensors on the CPU."""
    path = find(folder, step)
    verify_complete(path)
    return torch.load(path / STATE, map_location="cpu", weights_only=True)
