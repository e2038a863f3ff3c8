"""What a run tells, an event with its plain text and its facts for programs; and the screen."""

import contextlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab.plan import durations
from nanolab.plan.steps import Step
from nanolab.terminal.plain import plan_table, state_of
from nanolab.tracking.notes import headline
from nanolab.tracking.progress import Progress
from nanolab.wording import clock


@dataclass(frozen=True)
class Event:
    """Something that a run tells; `kind` is its name in JSON. Texts and facts are empty where
    people or programs are not told.
    """

    kind = ""

    def text(self) -> str:
        """It in plain lines; empty where people are not told."""
        return ""

    def facts(self) -> dict[str, Any]:
        """It for programs; empty where they are not told."""
        return vars(self)


@dataclass(frozen=True)
class Planned(Event):
    """Before anything runs; `about`: study, seed, store, execution, log."""

    kind = "plan"
    title: str
    steps: list[Step]
    about: dict[str, Any]

    def text(self) -> str:
        return f"{self.title}\n{plan_table(self.steps).text()}\nlog: {self.about['log']}"

    def facts(self) -> dict[str, Any]:
        rows = [
            {
                "step": step.name,
                "state": state_of(step),
                "fingerprint": step.fingerprint,
                "inputs": list(step.inputs),
                "folder": str(step.folder),
                "earlier_seconds": durations.earlier(step),
                "why_again": step.why_again or None,
            }
            for step in self.steps
        ]
        return {**self.about, "steps": rows}


@dataclass(frozen=True)
class Started(Event):
    """A step runs now; `place` is "3/15"."""

    kind = "step_started"
    step: str
    folder: Path
    place: str

    def text(self) -> str:
        return f"[{self.place}] {self.step} running"


@dataclass(frozen=True)
class Advanced(Event):
    """How far the running step is; seconds left, None where unknown."""

    kind = "progress"
    step: str
    now: Progress
    step_left: float | None
    study_left: float | None

    def facts(self) -> dict[str, Any]:
        now = self.now
        if not now.total:
            return {}
        return {
            "step": self.step,
            "part": now.what,
            "done": now.done,
            "total": now.total,
            "unit": now.unit,
            "metrics": {key: points[-1][1] for key, points in now.curves.items() if points},
            "part_seconds_left": now.seconds_left,
            "step_seconds_left": self.step_left,
            "study_seconds_left": self.study_left,
        }


@dataclass(frozen=True)
class Finished(Event):
    """A step is finished, now or before."""

    kind = "step_finished"
    step: str
    seconds: float
    metrics: dict[str, Any]
    reused: bool

    @property
    def state(self) -> str:
        return "reused" if self.reused else "finished"

    def text(self) -> str:
        took, result = clock(self.seconds), headline(self.step, self.metrics)
        return f"{self.step:16} {self.state:9} {took:>8}   {result}".rstrip()

    def facts(self) -> dict[str, Any]:
        seconds = round(self.seconds, 3)
        return {"step": self.step, "state": self.state, "seconds": seconds, "metrics": self.metrics}


@dataclass(frozen=True)
class Failed(Event):
    """A step failed: the line that says why, where its log is, and the command that goes on."""

    kind = "step_failed"
    step: str
    error: str
    log: Path
    command: str  # that goes on
    mistake: bool = False  # a person's: the command line ends with its one line

    def text(self) -> str:
        if self.mistake:
            return ""
        return (
            f"{self.step} failed\n  error  {self.error}\n  log    {self.log}\n"
            f"  go on  {self.command}   (everything so far is kept)"
        )

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "mistake"}


@dataclass(frozen=True)
class Printed(Event):
    """A part of what the notebooks' kernels print."""

    output: str

    def facts(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Ended(Event):
    """How an execution ended; texts are empty where there is none."""

    kind = "summary"
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

    def line(self) -> str:
        """How it ended."""
        after = f"{self.status} after {clock(self.seconds)}"
        if self.status != "interrupted":
            return after
        again = "the same command without --fresh" if self.fresh else "the same command"
        return f"{after}; everything so far is kept, and {again} goes on from there"

    def places(self) -> str:
        """What a finished run left, a line each."""
        found = {"report": self.report, "page": self.html, "model": self.model}
        found |= {"runs": self.runs, "log": self.log}
        return "\n".join(f"{name + ':':8}{text}" for name, text in found.items() if text)

    def text(self) -> str:
        if self.status != "finished":
            return self.line()
        summary = f"\n{self.summary}\n\n" if self.summary else ""
        return f"{summary}{self.line()}\n{self.places()}"


@dataclass(frozen=True)
class Note(Event):
    """A line, or a table, that belongs to no step; `about` is for programs."""

    line: str
    kind: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        return self.line

    def facts(self) -> dict[str, Any]:
        return self.about


class Screen(contextlib.AbstractContextManager):
    """What a run tells its events; this one shows nothing of them."""

    def __exit__(self, *error: Any) -> None:
        pass

    def tell(self, event: Event) -> None:
        """Shows an event; to nobody, once the reader is gone (`| head`, say)."""
        try:
            self.show(event)
        except BrokenPipeError:  # a study outlives its reader
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def show(self, event: Event) -> None:
        pass
