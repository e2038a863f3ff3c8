"""A run on a terminal: finished lines stay, the running step is one line that is redrawn. Imports rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nanolab import durations
from nanolab.plan import Step
from nanolab.progress import Progress
from nanolab.terminal import (
    STATES,
    Ending,
    Failure,
    Screen,
    duration,
    ended_line,
    places,
    so_far,
    state_of,
)
from nanolab.tracking_notes import headline

BAR = 20  # characters


def console(stderr: bool = False) -> Console:
    """A console that honours NO_COLOR and never wraps a word of ours into something else."""
    return Console(stderr=stderr, highlight=False)


def symbol(state: str) -> Text:
    """The coloured sign of a state."""
    sign, colour = STATES[state]
    return Text(sign, colour)


def word(state: str) -> Text:
    """The coloured word of a state."""
    return Text(state, STATES[state][1])


def plan_table(steps: list[Step]) -> Table:
    """The steps with their states; the seconds are those of an earlier run with the same settings."""
    table = _table("", "step", "state", "fingerprint", "earlier", "reads")
    for step in steps:
        before = durations.earlier(step)
        table.add_row(
            symbol(state_of(step)),
            step.name,
            word(state_of(step)),
            Text(step.fingerprint, "bright_black"),
            Text(duration(before) if before else "-", justify="right"),
            Text(" ".join(step.inputs), "bright_black"),
        )
    return table


def state_table(columns: list[str], rows: list[list[str]]) -> Table:
    """Rows whose first cell is a state, under the names of the other columns."""
    table = _table("", *columns)
    for state, *cells in rows:
        table.add_row(
            symbol(state), *(word(cell) if cell == state else Text(cell) for cell in cells)
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            no_wrap=column
            in ("", "step", "state", "fingerprint", "earlier", "study", "check", "size"),
            justify="right" if column in ("earlier", "size") else "left",
            overflow="fold",
        )
    return table


class LiveScreen(Screen):
    """The live line, above it what is finished, below it how long the study still takes."""

    live = True

    def __init__(self, verbose: bool):
        self._verbose, self._console = verbose, console()
        self._step, self._place, self._since = "", "", 0.0
        self._begun, self._now = time.time(), Progress()
        self._left: tuple[float | None, float | None] = (None, None)
        self._told = 0.0  # when the time left was told
        self._rest = ""  # of a line that a kernel has not finished
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __exit__(self, *error: Any) -> None:
        self._live.stop()

    def plan(self, title: str, steps: Iterable[Step], facts: dict[str, Any]) -> None:
        steps = list(steps)
        self._print(
            "",
            Text(title, "bold"),
            plan_table(steps),
            Text(f"log {facts['log']}", "bright_black"),
            "",
        )
        self._begun = time.time()
        self._live.start()

    def started(self, step: str, folder: Path, place: str) -> None:
        self._step, self._place, self._since = step, place, time.time()
        self._now, self._left, self._told = Progress(), (None, None), time.time()

    def progress(
        self, step: str, now: Progress, step_left: float | None, study_left: float | None
    ) -> None:
        self._now, self._left, self._told = now, (step_left, study_left), time.time()

    def finished(self, step: str, seconds: float, metrics: dict[str, Any], reused: bool) -> None:
        state = "reused" if reused else "finished"
        line = Table.grid(padding=(0, 2, 0, 0))
        for width, justify in (
            (1, "left"),
            (16, "left"),
            (8, "left"),
            (8, "right"),
            (None, "left"),
        ):
            line.add_column(width=width, justify=justify, no_wrap=True)
        line.add_row(
            symbol(state),
            step,
            word(state),
            Text(duration(seconds), "default" if not reused else "bright_black"),
            Text(headline(step, metrics), "bold"),
        )
        self._print(line)
        self._step = "" if step == self._step else self._step

    def failed(self, failure: Failure) -> None:
        self._live.stop()
        if failure.mistake:
            return
        sign, colour = STATES["failed"]
        out = console(stderr=True)
        out.print(Text(f"{sign} {failure.step} failed", f"bold {colour}"))
        for name, text in (
            ("error", failure.error),
            ("log", str(failure.log)),
            ("go on", failure.command),
        ):
            out.print(
                Text.assemble(
                    (f"  {name:7}", "bright_black"), (text, "bold" if name == "error" else "")
                ),
                soft_wrap=True,
            )
        out.print(Text("         everything so far is kept", "bright_black"))

    def output(self, text: str) -> None:
        if self._verbose:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._print(Text(line.rstrip("\r"), "bright_black"))

    def ended(self, ending: Ending) -> None:
        self._live.stop()
        if ending.status != "finished":
            colour = STATES["interrupted" if ending.status == "interrupted" else "failed"][1]
            console(stderr=True).print(Text(ended_line(ending), colour))
            return
        found = [
            Text.assemble((f"{name:8}", "bright_black"), text) for name, text in places(ending)
        ]
        parts: list[RenderableType] = (
            ["", summary_table(ending.summary), ""]
            if ending.summary.startswith("|")
            else [ending.summary]
        )
        self._print(
            *parts,
            Text.assemble(symbol("finished"), " ", Text(ended_line(ending), "green")),
            *found,
        )

    def note(self, text: str, **facts: Any) -> None:
        self._print(summary_table(text) if text.startswith("|") else Text(text))

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            self._live.console.print(
                part, soft_wrap=isinstance(part, Text)
            )  # an address or a path stays one that can be copied

    def _draw(self) -> RenderableType:
        """The running step in one line, and the study in another."""
        now, passed = self._now, time.time() - self._told
        step_left, study_left = (
            None if left is None else max(0.0, left - passed) for left in self._left
        )
        lines = []
        if self._step:
            line = Table.grid(padding=(0, 2, 0, 0), expand=False)
            for width in (1, 16, BAR, None):
                line.add_column(width=width, no_wrap=True, overflow="ellipsis")
            bar = (
                ProgressBar(total=now.total, completed=now.done or 0, width=BAR)
                if now.total
                else ProgressBar(pulse=True, width=BAR)
            )
            facts = [
                f"{now.what} {now.done}/{now.total}"
                if now.total
                else "starting"
                if not now.curves
                else "",
                so_far(now),
                f"{_short(now.tokens_per_second)} tokens/s" if now.tokens_per_second else "",
                f"{duration(time.time() - self._since)}",
                f"{_clock(step_left)} left"
                if step_left is not None and step_left >= 1
                else f"{_clock(now.seconds_left)} left of {now.what}"
                if now.seconds_left and step_left is None
                else "",
            ]
            line.add_row(
                symbol("running"),
                Text(self._step, "bold"),
                bar,
                Text(" · ".join(fact for fact in facts if fact)),
            )
            lines.append(line)
        left = f"about {_clock(study_left)} left" if study_left is not None else "time left unknown"
        where = f"step {self._place}" if self._place else "starting"
        lines.append(
            Text(
                f"   {where} · {_clock(time.time() - self._begun)} · {left}",
                "bright_black",
                no_wrap=True,
                overflow="ellipsis",
            )
        )
        return Group(*lines)


def summary_table(markdown: str) -> Table:
    """A table of Markdown, as a table of the terminal."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    table = Table(header_style="bold", border_style="bright_black")
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows[2:]:
        table.add_row(*map(Text, row))
    return table


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)


def _short(number: float) -> str:
    return (
        f"{number / 1e6:.1f}M"
        if number >= 1e6
        else f"{number / 1e3:.1f}k"
        if number >= 1e3
        else f"{number:.0f}"
    )


def show(table: Table) -> None:
    """Prints a table of states to standard output."""
    console().print(table)
    sys.stdout.flush()
