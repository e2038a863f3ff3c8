"""A run on a terminal: finished lines stay, the running step is one line that is redrawn. Imports
rich.
"""

import time
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nanolab.terminal import events, plain
from nanolab.tracking.notes import headline
from nanolab.tracking.progress import Progress
from nanolab.wording import clock, duration, short

BAR = 20  # characters
GREY = "bright_black"
CURVES = {"train/loss": "loss", "train/reward": "reward"}  # that a running step is told by
NO_NEWS = events.Advanced("", Progress(), None, None)


class LiveScreen(events.Screen):
    """The live line, what is finished above it, the time left below it."""

    def __init__(self, verbose: bool):
        self._verbose = verbose
        self._place = ""  # of the running step among the steps
        self._news = NO_NEWS  # of the running step
        self._since = self._begun = self._told = time.time()  # step, study, last news of the step
        self._rest = ""  # of a line that a kernel has not finished
        self._live = Live(
            get_renderable=self._draw,
            console=plain.console(),
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, event: events.Event) -> None:
        match event:
            case events.Planned():
                steps, log = plain.plan_table(event.steps).coloured(), f"log {event.about['log']}"
                self._print("", Text(event.title, "bold"), steps, Text(log, GREY), "")
                self._begun = time.time()
                self._live.start()
            case events.Started():
                self._place, self._news = event.place, replace(NO_NEWS, step=event.step)
                self._since = self._told = time.time()
            case events.Advanced():
                self._news, self._told = event, time.time()
            case events.Finished():
                self._finished(event)
            case events.Failed():
                self._live.stop()
                what, *why = event.text().split("\n")
                if what:
                    lines = Text(what, "bold red"), Text("\n".join(why))
                    plain.console(stderr=True).print(*lines, sep="\n", soft_wrap=True)
            case events.Printed() if self._verbose:
                *lines, self._rest = (self._rest + event.output).split("\n")
                self._print(*(Text(line.rstrip("\r"), GREY) for line in lines))
            case events.Ended():
                self._live.stop()
                self._ended(event)
            case events.Note(line=line):
                self._print(_table_or_text(line))

    def _finished(self, event: events.Finished) -> None:
        took = Text(clock(event.seconds), GREY if event.reused else "default", justify="right")
        result = Text(headline(event.step, event.metrics), "bold")
        state = plain.sign(event.state)
        self._print(_line([16, 10, 8], event.step, state, took, result))
        if self._news.step == event.step:
            self._news = NO_NEWS

    def _ended(self, event: events.Ended) -> None:
        line = Text(event.line(), plain.STATES[event.status][1])
        if event.status == "finished":
            self._print("", _table_or_text(event.summary), "", line, Text(event.places()))
        else:
            plain.console(stderr=True).print(line)

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            # an address or a path stays one that can be copied
            self._live.console.print(part, soft_wrap=isinstance(part, Text))

    def _draw(self) -> RenderableType:
        step, now, passed = self._news.step, self._news.now, time.time() - self._told
        step_left, study_left = (
            None if left is None else max(0.0, left - passed)
            for left in (self._news.step_left, self._news.study_left)
        )
        lines = []
        if step:
            bar = ProgressBar(now.total or 1, now.done or 0, BAR, pulse=not now.total)
            facts = Text(_facts(now, time.time() - self._since, step_left))
            sign = plain.sign("running", word=False)
            lines.append(_line([1, 16, BAR], sign, Text(step, "bold"), bar, facts))
        where = f"step {self._place}" if self._place else "starting"
        left = "time left unknown" if study_left is None else f"about {duration(study_left)} left"
        text = f"   {where} · {clock(time.time() - self._begun)} · {left}"
        return Group(*lines, Text(text, GREY, no_wrap=True, overflow="ellipsis"))


def _line(widths: list[int], *cells: RenderableType) -> Table:
    """Cells on one line, the last as wide as there is room."""
    line = Table.grid(padding=(0, 2, 0, 0))
    for width in (*widths, None):
        line.add_column(width=width, no_wrap=True, overflow="ellipsis")
    line.add_row(*cells)
    return line


def _table_or_text(markdown: str) -> RenderableType:
    """A line, or a table of Markdown as a table of the terminal."""
    if not markdown.startswith("|"):
        return Text(markdown)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return plain.Table(header, rows, header[1:]).coloured()


def _facts(now: Progress, passed: float, left: float | None) -> str:
    facts = []
    if now.total:
        facts.append(f"{now.what} {now.done}/{now.total}")
    elif not now.curves:
        facts.append("starting")
    for key, label in (CURVES | {f"accuracy/{now.what}": "accuracy"}).items():
        if now.curves.get(key):
            facts.append(f"{label} {now.curves[key][-1][1]:.3f}")
            break
    if now.tokens_per_second:
        facts.append(f"{short(now.tokens_per_second)} tokens/s")
    facts.append(clock(passed))
    if left is not None and left >= 1:
        facts.append(f"{duration(left)} left")
    elif left is None and now.seconds_left:
        facts.append(f"{duration(now.seconds_left)} left of {now.what}")
    return " · ".join(facts)
