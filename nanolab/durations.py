"""How long a step will take, from what is measured: earlier finished attempts with the same settings. Nothing is guessed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.plan import JOB, RESULT, Step
from nanolab.schema import UserError, to_dict

ATTEMPTS = "attempts.json"


def earlier(step: Step) -> float | None:
    """Seconds of the newest finished attempt at a step with these settings in this store, in any study; None where there is none.

    The seed and the code may differ: they do not decide how long a step takes, or only a little.
    """
    if step.config is None:
        return None
    want = to_dict(step.config)
    found: list[tuple[float, float]] = []
    for path in (files.MLRUNS / "work").glob(f"*/{step.name}/*/{ATTEMPTS}"):
        try:
            if (path.parent / RESULT).is_file() and _config(path.parent / JOB) == want:
                result = _read(path.parent / RESULT)
                last = _read(path)[-1]
                seconds = (
                    last["seconds"]
                    if last["status"] == "FINISHED"
                    else result["ended"] - result["started"]
                )
                found.append((result["ended"], seconds))
        except (FileNotFoundError, UserError):  # its study has set it aside just now
            continue
    return max(found)[1] if found else None


def took(folder: Path) -> float:
    """Seconds of a finished step, its earlier attempts included."""
    attempts = _read(folder / ATTEMPTS) if (folder / ATTEMPTS).is_file() else []
    known = sum(attempt["seconds"] or 0.0 for attempt in attempts)
    if attempts and attempts[-1]["seconds"] is not None:
        return known
    result = files.read_json(folder / RESULT)  # the attempt is being closed now
    return known + result["ended"] - result["started"]


def failed(folder: Path) -> bool:
    """Whether the newest attempt at a step has ended, and failed."""
    attempts = files.read_json(folder / ATTEMPTS) if (folder / ATTEMPTS).is_file() else []
    return (
        bool(attempts)
        and attempts[-1]["status"] == "FAILED"
        and attempts[-1]["seconds"] is not None
    )


def _config(job: Path) -> Any:
    return _cached(job, job.stat().st_mtime_ns)["config"] if job.is_file() else None


def _read(path: Path) -> Any:
    return _cached(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _cached(path: Path, modified: int) -> Any:
    return files.read_json(path)
