"""What a run says in the terminal: the words and colours of states, the lines that every screen has, and what a screen is told."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nanolab import durations
from nanolab.plan import Step
from nanolab.progress import Progress
from nanolab.tracking_notes import headline

# the one table of states: word -> symbol, colour. Every command prints from it, and the notebooks' cards and map
STATES = {
    "finished": ("✓", "green"),
    "reused": ("✓", "cyan"),
    "to continue": ("◐", "yellow"),
    "outdated": ("↻", "yellow"),
    "missing": ("○", "bright_black"),
    "running": ("●", "blue"),
    "failed": ("✗", "red"),
    "interrupted": ("◐", "yellow"),
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
    "kept": ("✓", "green"),
    "removable": ("–", "yellow"),
}


@dataclass(frozen=True)
class Failure:
    """A step that failed: the line that says why, where its log is, and the command that goes on."""

    step: str
    error: str
    log: Path
    command: str
    mistake: bool = False  # a person's: the command line ends with its one line


@dataclass(frozen=True)
class Ending:
    """How an execution ended; texts are empty where there is none."""

    status: str  # finished, failed or interrupted
    seconds: float
    summary: str = ""
    report: str = ""
    html: str = ""
    log: str = ""
    model: str = ""  # what was registered
    runs: str = ""  # where the MLflow UI shows them
    execution: str = ""
    fresh: bool = False  # finished steps were set aside at its start


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.4 s, 3:05, 2:10:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )


def so_far(now: Progress) -> str:
    """The loss, the reward, or the accuracy of the part under way, as far as the step has told."""
    for key, form in (
        ("train/loss", "loss {:.3f}"),
        ("train/reward", "reward {:.3f}"),
        (f"accuracy/{now.what}", "accuracy {:.3f}"),
    ):
        if now.curves.get(key):
            return form.format(now.curves[key][-1][1])
    return ""


def state_of(step: Step) -> str:
    """The word for a planned step."""
    return "finished" if step.finished else "to continue" if step.started else "missing"


def shown(path: Path | str) -> str:
    """A path as a person can use it: relative below the current folder, else absolute."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def is_live(stream: TextIO) -> bool:
    """Whether lines may be redrawn there: a terminal that knows how, in an encoding that has the symbols."""
    return (
        stream.isatty()
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and not os.environ.get("CI")
        and (stream.encoding or "").lower().replace("-", "") == "utf8"
    )


class Screen(contextlib.AbstractContextManager):
    """What a run tells; this one shows nothing of it."""

    live = False

    def __exit__(self, *error: Any) -> None:
        """Leaves the terminal as it was."""

    def plan(self, title: str, steps: Iterable[Step], facts: dict[str, Any]) -> None:
        """The steps with their states, before anything runs; `facts`: study, seed, store, execution, log."""

    def started(self, step: str, folder: Path, place: str) -> None:
        """A step runs now; `place` is "3/15"."""

    def progress(
        self, step: str, now: Progress, step_left: float | None, study_left: float | None
    ) -> None:
        """How far the running step is; seconds left, None where unknown."""

    def finished(self, step: str, seconds: float, metrics: dict[str, Any], reused: bool) -> None:
        """A step is finished, now or before."""

    def failed(self, failure: Failure) -> None:
        """A step failed."""

    def output(self, text: str) -> None:
        """A part of what the notebooks' kernels print."""

    def ended(self, ending: Ending) -> None:
        """An execution ended."""

    def note(self, text: str, **facts: Any) -> None:
        """A line, or a table, that belongs to no step; `facts` are the same for programs."""


class Lasting:
    """A screen that a study outlives: once its reader is gone (`| head`, say), what is told goes nowhere and the study goes on."""

    def __init__(self, screen: Screen):
        self._screen = screen

    def __enter__(self) -> Lasting:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._screen.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        what = getattr(self._screen, name)
        if not callable(what):
            return what

        def tell(*arguments: Any, **facts: Any) -> None:
            try:
                what(*arguments, **facts)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

        return tell


# ---- lines


def plan_lines(steps: list[Step]) -> str:
    """The steps as a table of plain text; the seconds are those of an earlier run with the same settings."""
    rows = [f"{'step':16} {'state':11} {'fingerprint':12} {'earlier':>8}  inputs"]
    for step in steps:
        before = durations.earlier(step)
        rows.append(
            f"{step.name:16} {state_of(step):11} {step.fingerprint:12} {duration(before) if before else '-':>8}  "
            f"{' '.join(step.inputs)}".rstrip()
        )
    return "\n".join(rows)


def finished_line(step: str, seconds: float, metrics: dict[str, Any], reused: bool) -> str:
    """A finished step in one line."""
    return f"{step:16} {'reused' if reused else 'finished':9} {duration(seconds):>8}   {headline(step, metrics)}".rstrip()


def failure_lines(failure: Failure) -> list[str]:
    """A failed step in one block."""
    return [
        f"{failure.step} failed",
        f"  error  {failure.error}",
        f"  log    {failure.log}",
        f"  go on  {failure.command}   (everything so far is kept)",
    ]


def ended_line(ending: Ending) -> str:
    """How it ended, in one line."""
    after = f"{ending.status} after {duration(ending.seconds)}"
    again = "the same command without --fresh" if ending.fresh else "the same command"
    return (
        f"{after}; everything so far is kept, and {again} goes on from there"
        if ending.status == "interrupted"
        else after
    )


def ending_lines(ending: Ending) -> list[str]:
    """The summary table, how long it took, and where to look now."""
    if ending.status != "finished":
        return [ended_line(ending)]
    lines = [*(["", ending.summary, ""] if ending.summary else []), ended_line(ending)]
    return lines + [f"{name + ':':8}{text}" for name, text in places(ending)]


def places(ending: Ending) -> list[tuple[str, str]]:
    """(name, text) of what a finished run left: where to look now."""
    found = {
        "report": ending.report,
        "page": ending.html,
        "model": ending.model,
        "runs": ending.runs,
        "log": ending.log,
    }
    return [(name, text) for name, text in found.items() if text]
