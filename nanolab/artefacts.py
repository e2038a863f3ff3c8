"""What a finished step left, named in its result.json with sizes and SHA-256.

A step is finished while every artefact that its result names is there with its size. Whoever reads
one requires the very bytes that the result describes (`verified`, `require_checkpoint`).
"""

import re
import shlex
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.errors import UserError
from nanolab.files import AGAIN, file_sum
from nanolab.settings.config import SOURCE_STEPS
from nanolab.tracking.journal import JOURNAL

JOB = "job.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
READ = ("artifacts", "records", TOKENIZER)  # what others read of a step, beside its checkpoint
Sums = dict[str, dict[str, Any] | None]  # name -> files.file_sum; None: the content may change


def write_result(
    folder: Path, step: str, metrics: dict[str, Any], started: float, **facts: Any
) -> None:
    """Writes result.json, last of all: with it the step is finished."""
    times = {"started": started, "ended": time.time()}
    result = {"step": step, "metrics": metrics, **times, **facts}
    files.write_json(folder / RESULT, {**result, "artefacts": artefacts_in(folder)})


def artefacts_in(folder: Path) -> Sums:
    """The sums of what a step leaves to others. Weights are not read once more: their checkpoint's
    marker has them.
    """
    found = [path for name in READ for path in sorted((folder / name).rglob("*")) if path.is_file()]
    found += [path for path in sorted(folder.glob("*.jsonl")) if path.name != JOURNAL]
    sums: Sums = {path.relative_to(folder).as_posix(): file_sum(path) for path in found}
    steps = checkpoint_steps(folder / CHECKPOINTS)
    return sums | (_checkpoint_sums(folder, steps[-1]) if steps else {})


def _checkpoint_sums(folder: Path, step: int) -> Sums:
    """Of a checkpoint's marker, and what that says of the parts."""
    place = f"{CHECKPOINTS}/{checkpoint_name(step)}"
    marker = folder / place / files.COMPLETE
    parts = files.read_marker(marker.parent)["files"]
    sums = {f"{place}/{name}": entry for name, entry in parts.items()}
    return {f"{place}/{marker.name}": file_sum(marker), **sums}


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:06d}"


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder of checkpoints, ascending."""
    found = []
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and files.is_complete(path) and not _lost(path, files.read_marker(path)["files"]):
            found.append(int(match[1]))
    return sorted(found)


# ---- is it finished?


def is_finished(folder: Path) -> bool:
    """Whether a work folder has a result and all that it names, each with its size."""
    return (folder / RESULT).is_file() and not _lost(folder, _described(folder))


def why_again(folder: Path) -> str:
    """Why a step that has a result runs again, and from where, in one line; "" for one that is
    finished or has no result.
    """
    gone = _lost(folder, _described(folder)) if (folder / RESULT).is_file() else []
    if not gone:
        return ""
    final = final_checkpoint(folder)
    if final is None or not gone[0].startswith(CHECKPOINTS):
        what = "is damaged" if (folder / gone[0]).exists() else "is missing"
        more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
        return f"its {gone[0]}{more} {what}: run again"
    earlier = [step for step in checkpoint_steps(folder / CHECKPOINTS) if step < final]
    what = "damaged" if (folder / CHECKPOINTS / checkpoint_name(final)).is_dir() else "missing"
    start = f"from step {earlier[-1]}" if earlier else "from the start"
    return f"its checkpoint {checkpoint_name(final)} is {what}: trained again {start}"


def final_checkpoint(folder: Path) -> int | None:
    """The step of the checkpoint that a work folder's result describes, if it has one."""
    matches = (re.match(rf"{CHECKPOINTS}/step-(\d+)/", name) for name in _described(folder))
    return max((int(match[1]) for match in matches if match), default=None)


def command(folder: Path, fresh: bool = False) -> str:
    """The command line that runs the step of a work folder again, with the settings that it had."""
    study, step = folder.parts[-3:-1]
    job, which = folder / JOB, f"--only {step}"
    others = sorted(folder.parent.parent.glob(f"*/*/{JOB}"), key=lambda path: path.stat().st_mtime)
    if not job.is_file() and others:  # any step of the study knows its settings
        job, which = others[-1], f"--set 'steps=[{step}]'"
    near = job.relative_to(Path.cwd()) if job.is_relative_to(Path.cwd()) else job
    what = shlex.quote(str(near)) if job.is_file() else study
    return f"python scripts/run_all.py {what} {which}{' --fresh' if fresh else ''}"


# ---- reading


def read_result(folder: Path) -> dict[str, Any]:
    """What the result of a work folder says. Not to be changed: it is read once."""
    path = folder / RESULT
    try:
        return _cached(path, path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {RESULT}: its step is not finished; run the same command again"
        ) from error


def verified(folder: Path, part: str = "") -> Path:
    """folder / part, after every artefact named below it, but for checkpoints, was read and found
    to be the one that the result describes.
    """
    step = read_result(folder)["step"]
    for name, expected in _described(folder).items():
        path, inside = folder / name, not part or f"{name}/".startswith(f"{part}/")
        if not inside or expected is None or name.startswith(CHECKPOINTS):
            continue
        if not path.is_file():
            raise UserError(f"{path} is missing, which {step} left: run the same command again")
        if (found := file_sum(path)) != expected:
            raise UserError(
                f"{path} was altered: it has {found['bytes']} bytes with SHA-256 "
                f"{found['sha256'][:12]}, and {step} left {expected['bytes']} with "
                f"{expected['sha256'][:12]}; remove it, {AGAIN}"
            )
    return folder / part


def require_checkpoint(folder: Path, step: int | None) -> int:
    """The step of the checkpoint to read: `step`, or for None the final one, which must be what the
    result says. Whoever loads it reads its parts.
    """
    final = final_checkpoint(folder)
    if final is None:
        raise UserError(f"{folder / RESULT} names no checkpoint: remove it, {AGAIN}")
    if step not in (None, final):
        return step
    path, step_name = folder / CHECKPOINTS / checkpoint_name(final), read_result(folder)["step"]
    if final not in checkpoint_steps(folder / CHECKPOINTS):
        raise UserError(
            f"{path} is missing or damaged, the checkpoint that {step_name} ended with: run "
            "the same command again"
        )
    described = _described(folder)
    for name, entry in _checkpoint_sums(folder, final).items():
        expected = described.get(name, entry)
        if expected not in (None, entry):
            raise UserError(
                f"{path} is not the checkpoint that {step_name} ended with "
                f"({Path(name).name} has SHA-256 {entry['sha256'][:12]}, not "
                f"{expected['sha256'][:12]}): remove it, {AGAIN}"
            )
    return final


# ---- inside


def _described(folder: Path) -> Sums:
    """The artefacts of a work folder's result.

    A result of a version that named none: of a trained model the checkpoint of its last step is
    required.
    """
    result = read_result(folder)
    if "artefacts" in result:
        return {**result["artefacts"], JOB: None}
    if result.get("step") in SOURCE_STEPS.values() and "steps" in result["metrics"]:
        name = checkpoint_name(result["metrics"]["steps"])
        return {f"{CHECKPOINTS}/{name}/{files.COMPLETE}": None}
    return {}


@lru_cache(maxsize=1000)
def _cached(path: Path, modified: int) -> Any:
    value = files.read_json(path)
    known = isinstance(value, dict) and isinstance(value.get("metrics"), dict)
    names = value.get("artefacts", {}) if known else None
    if not isinstance(names, dict) or not all(map(files.is_sum, names.values())):
        raise UserError(f"{path} is no result of a step: remove it, {AGAIN}")
    return value


def _lost(folder: Path, names: Sums) -> list[str]:
    """Those that are missing, or have another size."""

    def is_there(path: Path, expected: dict[str, Any] | None) -> bool:
        return path.is_file() and (expected is None or path.stat().st_size == expected["bytes"])

    return [name for name, expected in names.items() if not is_there(folder / name, expected)]
