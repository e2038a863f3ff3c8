"""Checkpoints: safetensors weights and a training state in one folder a step, complete (every part
there, with its size and SHA-256) or not there.
"""

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nanolab import artefacts
from nanolab.errors import UserError
from nanolab.files import is_complete, mark_complete, sync, verify_complete
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig

WEIGHTS, STATE = "model.safetensors", "state.pt"


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / artefacts.checkpoint_name(step)


def save(folder: Path, step: int, model: GPT, state: dict[str, Any], facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` (optimizer steps done) and return its folder.

    `facts` (JSON-able) come back from `load_model`, `state` (tensors and plain values) from
    `load_state`.
    """
    final = step_folder(folder, step)
    temporary = final.with_name(final.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = model.state_dict().items()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
    safetensors.torch.save_file(weights, temporary / WEIGHTS)
    torch.save(state, temporary / STATE)
    for name in (WEIGHTS, STATE):
        sync(temporary / name)
    mark_complete(temporary, [WEIGHTS, STATE], step=step, model=vars(model.config), **facts)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(folder)
    return final


def latest(folder: Path) -> int | None:
    """The newest step with a complete checkpoint, or None."""
    return max(artefacts.checkpoint_steps(folder), default=None)


def find(folder: Path, step: int | None) -> Path:
    """The folder of checkpoint `step` (None: the newest)."""
    if step is not None and is_complete(step_folder(folder, step)):
        return step_folder(folder, step)  # that its parts are whole is seen when they are loaded
    have = artefacts.checkpoint_steps(folder)
    if not have:
        raise UserError(
            f"no complete checkpoint in {folder}: run the step that trains this model first"
        )
    if step is None:
        return step_folder(folder, have[-1])
    raise UserError(
        f"no complete checkpoint of step {step} in {folder}; there are:"
        f" {', '.join(map(str, have))}; set step to one of them"
    )


def load_model(
    folder: Path,
    step: int | None = None,
    device: torch.device | str = "cpu",
    tokenizer_digest: str | None = None,
) -> tuple[GPT, dict[str, Any]]:
    """The model of a checkpoint (None: the newest complete one) on `device`, and its facts.

    Raises UserError for a damaged one, and for one of another tokenizer.
    """
    path = find(folder, step)
    facts = verify_complete(path)
    if facts["step"] != int(path.name.rpartition("-")[2]):
        raise UserError(
            f"{path} holds the checkpoint of step {facts['step']}: remove it, {artefacts.AGAIN}"
        )
    trained = facts.get("tokenizer_digest")
    if tokenizer_digest is not None and trained != tokenizer_digest:
        mend = (
            f"train it again: {artefacts.command(folder.parent, True)}"
            if (folder.parent / artefacts.JOB).is_file()
            else "use its own"
        )
        raise UserError(
            f"{path} was trained with tokenizer {str(trained)[:12]}, not with the tokenizer given "
            f"({tokenizer_digest[:12]}): {mend}"
        )
    with torch.random.fork_rng(devices=[]):  # building the model draws numbers that nobody needs
        model = GPT(GPTConfig(**facts["model"]))
    model.load_state_dict(safetensors.torch.load_file(path / WEIGHTS))
    return model.to(device), facts


def load_finished(
    folder: Path,
    step: int | None = None,
    device: torch.device | str = "cpu",
    tokenizer_digest: str | None = None,
) -> tuple[GPT, dict[str, Any]]:
    """`load_model` of what the finished step of a work folder left (or its checkpoint of `step`).

    Raises UserError when that is not the checkpoint that the step's result describes, too.
    """
    step = artefacts.require_checkpoint(folder, step)
    return load_model(folder / artefacts.CHECKPOINTS, step, device, tokenizer_digest)


def load_state(folder: Path, step: int) -> dict[str, Any]:
    """The `state` that was saved with the checkpoint of `step`, tensors on the CPU."""
    path = find(folder, step)
    verify_complete(path)
    return torch.load(path / STATE, map_location="cpu", weights_only=True)
