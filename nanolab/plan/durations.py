"""The tries at a step, kept in its work folder: how each went, and so how long a step will take."""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import artefacts, files
from nanolab.costs import estimate
from nanolab.costs.hardware import machine_named
from nanolab.errors import UserError
from nanolab.plan.fingerprint import device_kind
from nanolab.plan.steps import JOB, LOG, RESULT, Step
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.model_source import is_outside
from nanolab.settings.schema import to_dict
from nanolab.wording import rough_duration

ATTEMPTS = "attempts.json"
LONG = 30 * 60  # seconds of a step that are worth a line beforehand


class Attempt:
    """One try at a step; the seconds of earlier tries count in the wall clock."""

    def __init__(self, step: Step, started: float | None = None):
        """A try that starts now, or (`started`) the one that finished the step."""
        self._path = step.folder / ATTEMPTS
        tries = files.read_json(self._path) if self._path.is_file() else []
        for tried in tries:
            if tried["seconds"] is None:  # killed: its last sign of life is in the log
                log = step.folder / LOG
                end = log.stat().st_mtime if log.is_file() else tried["started"]
                tried["seconds"] = max(0.0, end - tried["started"])
        again = started is None
        self._earlier = [tried for tried in tries if again or tried["status"] != "FINISHED"]
        self.started = time.time() if started is None else started
        self.number = len(self._earlier) + 1
        self.earlier_seconds = sum(tried["seconds"] for tried in self._earlier)
        if again:
            self._write(None, "FAILED")

    def end(self, status: str) -> None:
        """Keeps how long this try took."""
        self._write(time.time() - self.started, status)

    def _write(self, seconds: float | None, status: str) -> None:
        own = {"started": self.started, "seconds": seconds, "status": status}
        files.write_json(self._path, [*self._earlier, own])


def earlier(step: Step) -> float | None:
    """Seconds of the newest finished try at a step with these settings in this store, in any study;
    None where there is none.

    The seed and the code may differ: they hardly decide how long a step takes.
    """
    if step.config is None:
        return None
    want = to_dict(step.config)
    found: list[tuple[float, float]] = []
    for path in (files.MLRUNS / "work").glob(f"*/{step.name}/*/{ATTEMPTS}"):
        try:
            if (path.parent / RESULT).is_file() and _read(path.parent / JOB)["config"] == want:
                result, last = artefacts.read_result(path.parent), _read(path)[-1]
                whole = last["status"] == "FINISHED"
                seconds = last["seconds"] if whole else result["ended"] - result["started"]
                found.append((result["ended"], seconds))
        except (FileNotFoundError, UserError, KeyError, TypeError):
            continue  # set aside just now, or damaged: it tells no duration
    return max(found)[1] if found else None


def long_steps(study: StudyConfig, steps: list[Step]) -> list[str]:
    """A line for each unfinished step that asks a model from outside on a CPU for longer than LONG:
    how long, at how many tokens a second, and what to lower. By an earlier run of the step with
    these settings, else by the table of costs and this store's own speed.
    """
    asked = [
        step
        for step in steps
        if is_outside(getattr(step.config, "source", None)) and not step.finished
    ]
    if not asked or device_kind(study.launch.device) != "cpu":
        return []
    own, machine = estimate.finished_steps(files.MLRUNS), machine_named("cpu", {}, 96)
    lines = []
    for step in asked:
        (cost,) = estimate.plan_costs(replace(study, steps=[step.name]), machine, own)
        seconds = earlier(step) or 3600 * (cost.hours or 0.0)
        if seconds > LONG:
            stage = STEPS[step.name].stage
            upper = "" if earlier(step) else " or less (every answer at its longest)"
            rate = f" at {cost.tokens_generated / seconds:.0f} tokens/s"
            lower = f"{stage}.max_examples or {stage}.max_new_tokens"
            if step.name == "base_loss":
                rate, lower = "", f"{stage}.loss_tokens"
            lines.append(
                f"{step.name}: about {rough_duration(seconds)}{upper}{rate} on this CPU: lower"
                f" {lower}"
            )
    return lines


def took(folder: Path) -> float:
    """Seconds of a finished step, its earlier tries included."""
    tries = _read(folder / ATTEMPTS) if (folder / ATTEMPTS).is_file() else []
    known = sum(tried["seconds"] or 0.0 for tried in tries)
    if tries and tries[-1]["seconds"] is not None:
        return known
    result = artefacts.read_result(folder)  # the last one is being closed now
    return known + result["ended"] - result["started"]


def failed(folder: Path) -> bool:
    """Whether the newest try at a step has ended without a result."""
    if not (folder / ATTEMPTS).is_file():
        return False
    last = files.read_json(folder / ATTEMPTS)[-1]
    return last["status"] != "FINISHED" and last["seconds"] is not None


def _read(path: Path) -> Any:
    return _cached(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _cached(path: Path, modified: int) -> Any:
    return files.read_json(path)
