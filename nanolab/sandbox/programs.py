"""Untrusted text under limits: Python programs in processes of their own, and the tools a model may
call.

A program gets no environment, no input, no network and no files but Python's own, as far as the
machine allows: `strongest_level` names the level in force, docs/sandbox.md says what each holds.
Time, memory, output and open files are bounded at every level.

The tests of a program run in another process than the program (nanolab/sandbox/runner.py): it
cannot reach them, the verdict or the answers they expect, whatever it does to its own interpreter.
"""

import ast
import contextlib
import functools
import inspect
import json
import marshal
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanolab.errors import UserError
from nanolab.sandbox import runner
from nanolab.sandbox.calculator import calculate
from nanolab.sandbox.levels import Level, levels, python_folders

TOOL_ERROR = "error"  # what a tool call that fails, is refused or passes its time limit yields
FILE_BYTES = 1 << 20  # written by a program, its output included
MAX_PROCESSES = 32
REMEMBERED = 4096  # tool calls whose outputs are kept: what open problems repeat, 256 MiB at most
# no time to compile the runner each time
START = "import marshal, os, sys; exec(marshal.loads(os.pread(0, int(sys.argv[2]), 0)))"


@functools.cache
def _runner() -> bytes:
    """The runner's code, compiled for this interpreter, which is the one that will run it."""
    return marshal.dumps(compile(inspect.getsource(runner), "sandbox_runner", "exec"))


@dataclass(frozen=True)
class PythonResult:
    """How a program ended."""

    passed: bool
    output: str  # standard output and error
    # None when it passed, else "timeout", "memory", "output" (too much of it), "exit N" (before the
    # last line), "signal N" or the exception, its own or the tests', as "Type: message"
    error: str | None


@dataclass(frozen=True)
class Check:
    """A program and how it is tested: `test` defines check(candidate), which is called with the
    program's function `entry_point`.

    `context` is a program that the tests may use names of: the original prompt, not what a model
    made of it. Without a `test` a program passes when it runs to its last line. The function is
    called in the program's process: its arguments and values are copied, so they must be plain data
    (numbers, text, collections; an iterator arrives as one of its items).
    """

    program: str
    entry_point: str = ""
    test: str = ""
    context: str = ""


PROBE = Check(
    """import math, re, json, typing, collections, os
def readable():
    try: return bool(open("/etc/passwd").read())
    except OSError: return False
""",
    "readable",
    "import random, string, copy\ndef check(candidate): assert candidate() in (True, False)",
)


def run_python(
    source: str | Check,
    timeout: float,
    memory_mb: int = 512,
    max_output: int = 65536,
    level: Level | None = None,
) -> PythonResult:
    """Run a Python program under limits; never raises for what the program does, never lasts longer
    than `timeout` seconds and a bit.

    `output` is cut at `max_output` bytes; `level` is the strongest one that works on this machine.
    """
    level = level or strongest_level()
    check = Check(source) if isinstance(source, str) else source
    code, program = _runner(), check.program.encode("utf-8", "replace")
    word = secrets.token_hex(16)
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as verdict,
        tempfile.TemporaryDirectory(prefix="nanolab-", ignore_cleanup_errors=True) as folder,
    ):
        secret = {"word": word, **vars(check), "program": None}
        given.write(code + program + json.dumps(secret).encode())
        given.flush()
        settings = {
            "start": len(code),
            "program_bytes": len(program),
            "entry_point": check.entry_point,
            **_limits(timeout, memory_mb, max_output),
            "verdict": verdict.fileno(),
            "folders": python_folders(),
            **level.settings(),
        }
        python = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", START]
        process = subprocess.Popen(
            [*level.prefix, *python, json.dumps(settings), str(len(code))],
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(verdict.fileno(),),
            env={},
            cwd=folder,
            start_new_session=True,
        )
        timed_out = True
        try:
            timed_out = not _ended(process, timeout)
        finally:
            # before the leader is reaped: until then its number cannot be given to another group
            _kill_group(process)
            process.wait()
        size = os.fstat(output.fileno()).st_size
        text = os.pread(output.fileno(), max_output, 0).decode("utf-8", "replace")
        said = os.pread(verdict.fileno(), 1000, 0).decode("utf-8", "replace")
    if said == word and not timed_out:
        return PythonResult(True, text, None)
    return PythonResult(False, text, _error(said, process.returncode, timed_out, size))


def _limits(timeout: float, memory_mb: int, max_output: int) -> dict[str, int]:
    return {
        "memory_bytes": memory_mb << 20,
        "cpu_seconds": int(timeout) + 2,
        "file_bytes": max(FILE_BYTES, max_output + 1),
        "processes": MAX_PROCESSES,
    }


def _error(said: str, code: int, timed_out: bool, size: int) -> str:
    """Why a program failed: by its checker's verdict, if it came to that, and its exit code."""
    if timed_out or said == f"!signal {signal.SIGXCPU}":
        return "timeout"
    if size >= FILE_BYTES:
        return "output"
    if said.startswith("!"):
        return said[1:]
    if 0 <= code <= 128:
        return f"exit {code}"
    return f"signal {-code if code < 0 else code - 128}"


def run_many(
    sources: Sequence[str | Check], timeout: float, workers: int = 2, memory_mb: int = 512
) -> list[PythonResult]:
    """`run_python` of each program, `workers` at a time, results in order."""
    if not sources:
        return []
    strongest_level()  # probed once, before the threads
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_python(source, timeout, memory_mb), sources))


def _ended(process: subprocess.Popen, timeout: float) -> bool:
    """Whether the process ends within `timeout` seconds. Does not reap it."""
    if hasattr(os, "pidfd_open"):
        handle = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(handle)
    end = time.monotonic() + timeout
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _kill_group(process: subprocess.Popen) -> None:
    """Kill the group, and the leader's children by number: the first process of a namespace may
    have left the group, and takes its whole namespace with it.

    The leader is stopped first: an `unshare` that outlives its child writes a complaint into the
    program's output.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, signal.SIGSTOP)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):  # already gone, or no such file on this system
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    # nobody is left; on macOS: only zombies
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@functools.cache
def strongest_level() -> Level:
    """The level in force, for instance bwrap+landlock+seccomp or, at worst, rlimit
    (docs/sandbox.md): the first one whose probe runs.
    """
    for level in levels():
        result = run_python(PROBE, 20.0, level=level)
        if result.passed:
            return level
    raise UserError(
        f"Python programs cannot be run under limits on this machine: {result.error}"
        f" {result.output.strip()[-200:]}"
    )


class Tools:
    """What the text of a tool call yields; a text is run once, and again after REMEMBERED others.

    Kind "calculator" takes `calculate`'s expressions; "python" any other call as a program too,
    whose output (or value) counts, under `timeout` seconds. What fails yields "error".
    """

    def __init__(
        self, kind: Literal["calculator", "python"] = "calculator", timeout: float = 5.0
    ) -> None:
        if kind not in ("calculator", "python"):
            raise UserError(f"unknown tool kind {kind!r}: it must be calculator or python")
        self.kind, self.timeout = kind, timeout
        # the output forced into the text after a call
        self.output: Callable[[str], str] = functools.lru_cache(REMEMBERED)(self._run)

    def _run(self, call: str) -> str:
        value = calculate(call)
        if value is not None or self.kind == "calculator":
            return TOOL_ERROR if value is None else value
        result = run_python(_as_program(call), self.timeout)
        return result.output.strip() if result.passed else TOOL_ERROR


def _as_program(call: str) -> str:
    """The call, printed when it is an expression other than a call of print."""
    try:
        tree = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return call
    prints = isinstance(tree, ast.Call) and getattr(tree.func, "id", "") == "print"
    return call if prints else f"print({call.strip()})"
