"""Which process of a step failed first, and why, in one line: a file for each rank that fails.

A rank that fails pulls the others down, whose errors say only that it is gone.
"""

import contextlib
import os
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nanolab import files

FOLDER = "errors"  # in a step's work folder
RAN_OUT = " (by hand, or by the system when memory ran out)"


@dataclass(frozen=True)
class Failure:
    """The end of one process of a step."""

    rank: int
    time: float  # seconds since 1970
    line: str
    mistake: bool = False  # a person's: `line` names the fix
    signal: int = 0  # that ended it; 0: it ended by itself
    processes: int = 1  # of the step, on all machines
    machine: int | None = None  # where there are several

    @property
    def reason(self) -> str:
        """Why the step failed, in one line; of several processes with the rank."""
        who = "the stage" if self.processes == 1 else f"rank {self.rank}"
        who += "" if self.machine is None else f" (on machine {self.machine})"
        if self.signal:
            named = self.signal in signal.valid_signals()
            name = signal.Signals(self.signal).name if named else self.signal
            ran_out = RAN_OUT if self.signal == signal.SIGKILL else ""
            return f"{who} was ended by signal {self.signal}, {name}{ran_out}"
        if self.mistake:
            return self.line if self.processes == 1 else f"{who}: {self.line}"
        return f"{who} failed: {self.line}"


def note(folder: Path, line: str, rank: int | None = None, **facts: bool | int) -> None:
    """Keeps why a process of the step in `folder` ends: this one, or the one of `rank`."""
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    processes = int(os.environ.get("WORLD_SIZE", 1))
    several = processes > int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    place = {"processes": processes, "machine": int(os.environ["GROUP_RANK"]) if several else None}
    failure = Failure(rank, time.time(), line, **{**place, **facts})
    with contextlib.suppress(OSError):  # a full disk
        files.write_json(folder / FOLDER / f"rank-{rank}.json", asdict(failure))


def first_failure(folder: Path) -> Failure | None:
    """The failure of the step in `folder` that the others follow from; None where no process told.

    Where a signal ended one, the others tell of its loss, however early they tell it.
    """
    found = [Failure(**files.read_json(path)) for path in (folder / FOLDER).glob("rank-*.json")]
    return min(found, key=lambda failure: (not failure.signal, failure.time), default=None)


def clear(folder: Path) -> None:
    """Forgets the failures of an earlier attempt."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
