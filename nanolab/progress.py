"""How far a running step is, read from the journal in its work folder: by a notebook's live view and by the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nanolab.journal import JOURNAL, read_journal_from


@dataclass(frozen=True)
class Progress:
    """How far a step is; `done` of `total` is None before the step has said so."""

    what: str = ""  # the part that is under way: "training", a task, a sampling method
    unit: str = ""  # of done and total: steps, problems, updates
    done: int | None = None
    total: int | None = None
    seconds_left: float | None = None  # until this part is done, at its pace so far
    tokens_per_second: float | None = None  # of training
    # metric -> (step, value), earlier attempts included; of this attempt accuracy/PART -> (problems done, accuracy so far)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class Watcher:
    """Reads a work folder's journal as it grows."""

    def __init__(self, folder: Path):
        """Watches from now on: what an earlier attempt did counts in the curves, not in the pace."""
        self._folder, self._offset = Path(folder), 0
        self._before = (
            (self._folder / JOURNAL).stat().st_size if (self._folder / JOURNAL).is_file() else 0
        )
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._first: tuple[str, int, int] | None = (
            None  # part, done and time (ms) of the part's first record in this attempt
        )
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
                    self._curves.setdefault(key, []).append((record["step"], value))
            elif record["kind"] == "progress" and start >= self._before:
                self._now = self._at(record)
                if record.get("accuracy") is not None:
                    self._curves.setdefault(f"accuracy/{record['what']}", []).append(
                        (record["done"], record["accuracy"])
                    )
        speed = self._curves.get("train/tokens_per_second")
        return Progress(
            self._now.what,
            self._now.unit,
            self._now.done,
            self._now.total,
            self._now.seconds_left,
            speed[-1][1] if speed else None,
            {key: list(points) for key, points in self._curves.items()},
        )

    def _at(self, record: dict) -> Progress:
        what, done, total = record["what"], record["done"], record["total"]
        if self._first is None or self._first[0] != what:
            self._first = (what, done, record["time"])
        _, begun, since = self._first
        pace = (record["time"] - since) / 1000 / (done - begun) if done > begun else None
        return Progress(
            what, record["unit"], done, total, None if pace is None else pace * (total - done)
        )
