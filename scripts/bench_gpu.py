"""`python scripts/bench.py gpu`: what a CUDA device computes, and how fast; one JSON line a result,
as it goes.

Each section runs in a process of its own under a limit of its own: one that crashes, or whose
device hangs, says so in a line, and the next one runs. Checks compare with float32 on the CPU;
where one is not ok, or a section did not end, the exit status is 1. Without CUDA, or with --tiny,
everything runs on the CPU at tiny sizes: that shows that the program works, and nothing of a
device.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanolab.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SAID = 3  # exit status of a section that has said in a line what is wrong


@dataclass(frozen=True)
class Section:
    """A function of a module, called with a `Bench`, and the seconds that it may take: all of them
    together under ten minutes.
    """

    module: str
    function: str
    limit: float


SECTIONS = {
    "facts": Section("bench_gpu_facts", "facts", 20),
    "check-training": Section("bench_gpu_training", "check", 50),
    "check-compiled": Section("bench_gpu_training", "check_compiled", 60),
    "check-decoding": Section("bench_gpu_decoding", "check", 40),
    "check-draws": Section("bench_gpu_draws", "check", 40),
    "speed-training-12": Section("bench_gpu_training", "speed_12", 80),
    "speed-training-20": Section("bench_gpu_training", "speed_20", 150),
    "speed-decoding": Section("bench_gpu_decoding", "speed", 80),
    "speed-power": Section("bench_gpu_draws", "speed", 50),
}


@dataclass
class Bench:
    """A section at work: the device that it looks at, whether at tiny sizes, and where its lines go
    besides standard output.
    """

    section: str
    device: str  # "cuda" or "cpu"
    tiny: bool
    out: Path | None = None
    failed: int = 0  # checks that are not ok

    def emit(self, **facts: Any) -> None:
        """A line: the facts, numbers to six digits."""
        said = {
            "benchmark": "gpu",
            "section": self.section,
            "device": self.device,
            "tiny": self.tiny,
        }
        line = json.dumps({key: _written(value) for key, value in {**said, **facts}.items()})
        print(line, flush=True)
        if self.out is not None:
            with open(self.out, "a") as file:
                file.write(line + "\n")
        self.failed += facts.get("ok") is False

    def check(
        self, what: str, found: float, tolerance: float, at_least: bool = False, **facts: Any
    ) -> None:
        """A line with `ok`: `found` is at most (or at least) the tolerance; a NaN is not."""
        ok = found >= tolerance if at_least else found <= tolerance
        self.emit(
            what=what,
            found=found,
            **{"at_least" if at_least else "at_most": tolerance},
            ok=bool(ok),
            **facts,
        )


def _written(value: Any) -> Any:
    """A number as JSON has it: NaN and infinities have no form there."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run, for how long, and where the lines go."""
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(SECTIONS),
        help="this section; may be given several times",
    )
    limits = ", ".join(f"{name} {section.limit:g}" for name, section in SECTIONS.items())
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help=f"of each section, instead of its own: {limits}",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the lines to this new file too"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="tiny sizes, on the CPU; so it is where there is no CUDA device",
    )


def main(arguments: argparse.Namespace) -> int:
    """Runs the sections and returns 0, or 1 where something is not ok; 2 for a mistake in the
    arguments.
    """
    try:
        check_arguments(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import torch

    tiny = arguments.tiny or not torch.cuda.is_available()
    if tiny:
        importlib.import_module(
            "torch._dynamo"
        )  # the first step of any optimizer imports it: once here, for all forked sections
    names = [name for name in SECTIONS if not arguments.only or name in arguments.only]
    started, bad = time.perf_counter(), []
    for name in names:
        if not run(
            Bench(name, "cpu" if tiny else "cuda", tiny, arguments.out),
            arguments.limit or SECTIONS[name].limit,
        ):
            bad.append(name)
    Bench("summary", "cpu" if tiny else "cuda", tiny, arguments.out).emit(
        sections=len(names), not_ok=bad, seconds=time.perf_counter() - started, ok=not bad
    )
    return 1 if bad else 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Makes the new file; raises UserError where it cannot be made, and for a limit that is
    none.
    """
    if arguments.limit is not None and not 0 < arguments.limit < math.inf:
        raise UserError(f"--limit {arguments.limit:g} must be a number of seconds above 0")
    if arguments.out is None:
        return
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.open("x").close()
    except OSError as error:
        if arguments.out.exists():
            raise UserError(
                f"--out {arguments.out} is there already: give another name, or move it away"
            ) from None
        raise UserError(
            f"--out {arguments.out} cannot be written ({error.strerror}): give a file in a folder"
            " of yours"
        ) from None


def run(bench: Bench, limit: float) -> bool:
    """One section in a process of its own, which is ended after `limit` seconds; whether all was
    ok.
    """
    # CUDA must find a fresh process; without it, one that has the libraries already starts at once
    process = multiprocessing.get_context("fork" if bench.device == "cpu" else "spawn").Process(
        target=work, args=(bench,)
    )
    started = time.perf_counter()
    process.start()
    try:
        process.join(limit)
        late = process.is_alive()
    finally:
        stop(process)
    if late:
        bench.emit(
            error=f"passed its limit of {limit:g} s and was ended; --limit SECONDS sets another",
            ok=False,
        )
    elif process.exitcode not in (0, SAID):
        status = process.exitcode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        bench.emit(
            error=f"its process ended by {how}", seconds=time.perf_counter() - started, ok=False
        )
    return process.exitcode == 0 and not late


def stop(process: multiprocessing.process.BaseProcess) -> None:
    """Ends what is left of a section: its process, and those that it started."""
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # nobody is left, or it has not yet a group of its own
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(10)


def line_of(error: Exception) -> str | None:
    """The last line of this repository that an error went through, as file:line."""
    frames = [
        (Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)
    ]
    own = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, number in frames
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts
    ]
    return own[-1] if own else None


def work(bench: Bench) -> None:
    """The section's process: its function, then an exit status."""
    os.setsid()  # so that `stop` reaches what it starts
    section, started = SECTIONS[bench.section], time.perf_counter()
    try:
        if bench.tiny:
            import torch

            torch.set_num_threads(
                1
            )  # there is nothing to share: threads would only wait for each other
        getattr(importlib.import_module(section.module), section.function)(bench)
    except Exception as error:
        traceback.print_exc()
        words = str(error).strip().splitlines() or [""]
        bench.emit(
            error=f"{type(error).__name__}: {words[0]}",
            at=line_of(error),
            seconds=time.perf_counter() - started,
            ok=False,
        )
    sys.exit(SAID if bench.failed else 0)
