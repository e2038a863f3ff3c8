"""What commands print: the words and colours of states, and tables of text."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nanolab.plan import durations
from nanolab.plan.steps import Step
from nanolab.wording import clock

# word -> symbol, colour; of the notebooks' cards and map too
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
WHOLE = 24  # characters of a cell that is never wrapped


@dataclass(frozen=True)
class Table:
    """Rows of text below a header; `right` names the columns that are aligned to the right, `last`
    is a row of sums. Cells of a column "state" are coloured where colours are.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    title: str = ""
    last: Sequence[str] = ()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Plain columns."""
        lines = [self.header, *self.rows, *filter(None, [self.last])] if self.rows else []
        forms = [
            f"{'>' if column[0] in self.right else '<'}{max(map(len, column))}"
            for column in zip(*lines)
        ]
        written = ["  ".join(map(format, line, forms)).rstrip() for line in lines]
        return "\n".join([*filter(None, [self.title]), *written, *self.notes])

    def coloured(self) -> Any:
        """A table of rich."""
        from rich.table import Table as RichTable
        from rich.text import Text  # brackets of a path are no markup

        table = RichTable(
            title=Text(self.title) if self.title else None,
            caption=Text("\n".join(self.notes)) if self.notes else None,
            show_footer=bool(self.last),
            **{"title_justify": "left", "caption_justify": "left", "header_style": "bold"},
            **{"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)},
        )
        for place, (name, *cells) in enumerate(zip(self.header, *self.rows)):
            table.add_column(
                name,
                self.last[place] if self.last else "",
                justify="right" if name in self.right else "left",
                no_wrap=max(map(len, cells), default=0) <= WHOLE,
                overflow="fold",
            )
        for row in self.rows:
            cells = zip(self.header, row)
            table.add_row(*(sign(cell) if name == "state" else Text(cell) for name, cell in cells))
        return table

    def show(self) -> None:
        """Prints it to standard output."""
        if self.rows and is_live(sys.stdout):
            console().print(self.coloured())
        elif text := self.text():
            print(text)


def sign(state: str, word: bool = True) -> Any:
    """The symbol of a state, and its word, for rich."""
    from rich.text import Text

    symbol, colour = STATES[state]
    return Text(f"{symbol} {state}" if word else symbol, colour)


def console(stderr: bool = False) -> Any:
    """A console of rich, which honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def is_live(stream: TextIO) -> bool:
    """Whether lines may be redrawn there, in an encoding that has the symbols."""
    return (
        stream.isatty()
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and not os.environ.get("CI")
        and (stream.encoding or "").lower().replace("-", "") == "utf8"
    )


def state_of(step: Step) -> str:
    """The word for a planned step."""
    if step.finished:
        return "finished"
    return "to continue" if step.started else "missing"


def short_path(path: Path | str) -> str:
    """A path relative to the current folder, or absolute."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def plan_table(steps: list[Step]) -> Table:
    """The steps, the time of an earlier run of each, and why one that has a result runs again."""
    rows = []
    for step in steps:
        before = durations.earlier(step)
        took = clock(before) if before else "-"
        rows.append([step.name, state_of(step), step.fingerprint, took, " ".join(step.inputs)])
    again = [f"{step.name}: {step.why_again}" for step in steps if step.why_again]
    header = ("step", "state", "fingerprint", "earlier", "inputs")
    return Table(header, rows, ("earlier",), notes=again)
