"""The ways of showing a run: live (terminal_live.py), plain lines where there is no terminal, quiet, or JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanolab import durations
from nanolab.plan import Step
from nanolab.progress import Progress
from nanolab.terminal import (
    Ending,
    Failure,
    Screen,
    ended_line,
    ending_lines,
    failure_lines,
    finished_line,
    is_live,
    plan_lines,
    state_of,
)


def open_screen(mode: str = "", verbose: bool = False) -> Screen:
    """The way of showing a run: "quiet", "json", or "" for what fits where standard output goes."""
    if mode == "json":
        return JsonScreen()
    if mode == "quiet":
        return QuietScreen()
    if is_live(sys.stdout):
        from nanolab.terminal_live import LiveScreen

        return LiveScreen(verbose)
    return PlainScreen(verbose)


class QuietScreen(Screen):
    """Errors, and the path of the report."""

    def failed(self, failure: Failure) -> None:
        if not failure.mistake:
            print("\n".join(failure_lines(failure)), file=sys.stderr, flush=True)

    def ended(self, ending: Ending) -> None:
        if ending.status == "interrupted":
            print(ended_line(ending), file=sys.stderr, flush=True)
        if ending.report:
            print(ending.report, flush=True)


class PlainScreen(Screen):
    """One line an event."""

    def __init__(self, verbose: bool):
        self._verbose = verbose

    def plan(self, title: str, steps: Iterable[Step], facts: dict[str, Any]) -> None:
        print(f"{title}\n{plan_lines(list(steps))}\nlog: {facts['log']}", flush=True)

    def started(self, step: str, folder: Path, place: str) -> None:
        print(f"[{place}] {step} running", flush=True)

    def finished(self, step: str, seconds: float, metrics: dict[str, Any], reused: bool) -> None:
        print(finished_line(step, seconds, metrics, reused), flush=True)

    def failed(self, failure: Failure) -> None:
        if not failure.mistake:
            print("\n".join(failure_lines(failure)), file=sys.stderr, flush=True)

    def output(self, text: str) -> None:
        if self._verbose:
            sys.stdout.write(text)
            sys.stdout.flush()

    def ended(self, ending: Ending) -> None:
        print("\n".join(ending_lines(ending)), flush=True)

    def note(self, text: str, **facts: Any) -> None:
        print(text, flush=True)


class JsonScreen(Screen):
    """One JSON object an event, for programs; nothing else goes to standard output."""

    def _event(self, event: str, **facts: Any) -> None:
        print(
            json.dumps(
                {"event": event, "time": round(time.time(), 3), **facts}, ensure_ascii=False
            ),
            flush=True,
        )

    def plan(self, title: str, steps: Iterable[Step], facts: dict[str, Any]) -> None:
        rows = [
            {
                "step": step.name,
                "state": state_of(step),
                "fingerprint": step.fingerprint,
                "inputs": list(step.inputs),
                "folder": str(step.folder),
                "earlier_seconds": durations.earlier(step),
            }
            for step in steps
        ]
        self._event("plan", **facts, steps=rows)

    def started(self, step: str, folder: Path, place: str) -> None:
        self._event("step_started", step=step, folder=str(folder), place=place)

    def progress(
        self, step: str, now: Progress, step_left: float | None, study_left: float | None
    ) -> None:
        if now.total:
            latest = {key: points[-1][1] for key, points in now.curves.items() if points}
            self._event(
                "progress",
                step=step,
                part=now.what,
                done=now.done,
                total=now.total,
                unit=now.unit,
                metrics=latest,
                part_seconds_left=now.seconds_left,
                step_seconds_left=step_left,
                study_seconds_left=study_left,
            )

    def finished(self, step: str, seconds: float, metrics: dict[str, Any], reused: bool) -> None:
        self._event(
            "step_finished",
            step=step,
            state="reused" if reused else "finished",
            seconds=round(seconds, 3),
            metrics=metrics,
        )

    def failed(self, failure: Failure) -> None:
        self._event(
            "step_failed",
            step=failure.step,
            error=failure.error,
            log=str(failure.log),
            command=failure.command,
        )

    def ended(self, ending: Ending) -> None:
        self._event("summary", **vars(ending))

    def note(self, text: str, **facts: Any) -> None:
        if facts:
            self._event(**facts)
