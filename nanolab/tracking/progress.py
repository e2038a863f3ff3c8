"""How far a running step is, read from the journal in its work folder."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanolab.tracking.journal import JOURNAL, read_journal_from
from nanolab.wording import duration

SILENCE_SECONDS = 120.0  # without a sign of life, until it is said


@dataclass(frozen=True)
class Progress:
    """How far a step is; `done` of `total` is None before the step has said so."""

    what: str = ""  # the part that is under way: "training", a task, a sampling method
    unit: str = ""  # of done and total: steps, problems, updates
    done: int | None = None
    total: int | None = None
    seconds_left: float | None = None  # until this part is done, at its pace so far
    tokens_per_second: float | None = None  # of training
    # metric -> (step, value), earlier attempts included; accuracy/PART -> (problems done, accuracy)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class Watcher:
    """Reads a work folder's journal as it grows."""

    def __init__(self, folder: Path):
        """From now on: an earlier attempt counts in the curves, not in the pace."""
        self._folder, self._offset = Path(folder), 0
        journal = self._folder / JOURNAL
        self._before = journal.stat().st_size if journal.is_file() else 0
        self._curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._first = ("", 0, 0)  # part, done and time (ms) of the part's first record
        self._now = Progress()

    def poll(self) -> Progress:
        """The progress as the journal has it now."""
        start = self._offset
        records, self._offset = read_journal_from(self._folder, self._offset)
        for record in records:
            if record["point"] is not None:
                continue
            if record["kind"] == "metrics" and record["step"] is not None:
                for key, value in record["metrics"].items():
                    self._curves[key].append((record["step"], value))
            elif record["kind"] == "progress" and start >= self._before:
                self._now = self._at(record)
                if record.get("accuracy") is not None:
                    point = (record["done"], record["accuracy"])
                    self._curves[f"accuracy/{record['what']}"].append(point)
        curves = {key: list(points) for key, points in self._curves.items()}
        speed = curves.get("train/tokens_per_second")
        return replace(self._now, tokens_per_second=speed and speed[-1][1], curves=curves)

    def _at(self, record: dict) -> Progress:
        what, done, total = record["what"], record["done"], record["total"]
        if self._first[0] != what:
            self._first = (what, done, record["time"])
        _, begun, since = self._first
        pace = (record["time"] - since) / 1000 / (done - begun) if done > begun else None
        left = None if pace is None else pace * (total - done)
        return Progress(what, record["unit"], done, total, left)


class Silence:
    """Says that a step shows no sign of life, and again each time that the silence has doubled."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        self._folder, self._clock = Path(folder), clock
        self._began, self._due = clock(), SILENCE_SECONDS

    def line(self) -> str:
        """What to say now; "" for nothing."""
        signs = [*self._folder.glob("log*.txt"), *self._folder.glob(JOURNAL)]
        silent = self._clock() - max([self._began, *(path.stat().st_mtime for path in signs)])
        if silent < self._due:
            self._due = self._due if silent >= SILENCE_SECONDS else SILENCE_SECONDS
            return ""
        self._due = 2 * silent
        return (
            f"no sign of life for {duration(silent)}: no output and no new line in {JOURNAL}; a "
            "long computation may be silent, a process that waits for another is too: look at its "
            "load (top), or stop it (Ctrl-C) and run the same command again"
        )
