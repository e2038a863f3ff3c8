"""Untrusted text under limits: Python programs in a process of their own, and the tools a model may call.

A program gets no environment, no input, no network and no files but Python's own, as far as the machine allows: `sandbox_level` says
how far. Time, memory, output, open files and processes are bounded at every level, and nothing outlives a call at any level above
"rlimit". A program passes only if it runs to its last line: then the runner hands back a random word that the caller chose, which
`sys.exit(0)` before the tests does not. The word lies in the program's own process, so this holds against accidents and cheap tricks,
not against code that searches the runner's memory.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from nanolab.calculator import calculate
from nanolab.schema import UserError

__all__ = ["PythonResult", "Tools", "calculate", "run_many", "run_python", "sandbox_level"]

TOOL_ERROR = "error"  # what a tool call that fails, is refused or passes its time limit yields
FILE_BYTES = 1 << 20  # written by a program, its output included
MAX_PROCESSES = 32
NOBODY = 65534


@dataclass(frozen=True)
class PythonResult:
    """How a program ended. `output` is its standard output and error; `error` is None when it passed, else "timeout", "memory",
    "output" (too much of it), "exit N" (before the last line), "signal N" or the exception as "Type: message"."""

    passed: bool
    output: str
    error: str | None


@dataclass(frozen=True)
class Level:
    """One way to confine a program: a command that starts Python, and what the runner does before the program."""

    name: str
    prefix: tuple[str, ...] = ()
    drop_user: bool = False  # root becomes nobody
    landlock: bool = False  # no file but Python's own, no network, and a filter against new processes

    def __str__(self) -> str:
        return self.name + "+nobody" * self.drop_user + "+landlock" * self.landlock


# The runner: reads "word memory seconds max_files max_processes verdict_fd drop landlock folders...", then the program.
RUNNER = r'''
import os, sys, resource
def forbid_processes(ctypes, call):  # fork and exec fail with EAGAIN: the limit on processes does not bind root
    arch, numbers = {"x86_64": (0xC000003E, (56, 57, 58, 59, 322, 435)), "aarch64": (0xC00000B7, (220, 221, 281, 435))}.get(
        os.uname().machine, (0, ()))
    step = lambda code, yes, no, k: code | yes << 16 | no << 24 | k << 32  # a BPF instruction
    n = len(numbers)
    steps = [step(0x20, 0, 0, 4), step(0x15, 0, n + 2, arch), step(0x20, 0, 0, 0), step(0x35, n + 1, 0, 0x40000000),
             *(step(0x15, n - i, 0, number) for i, number in enumerate(numbers)), step(6, 0, 0, 0x7FFF0000), step(6, 0, 0, 0x0005000B)]
    filters = (ctypes.c_uint64 * len(steps))(*steps)
    program = (ctypes.c_uint64 * 2)(len(steps), ctypes.addressof(filters))
    if arch and call.prctl(22, 2, program, 0, 0):
        os._exit(97)
def main():
    header, _, source = sys.stdin.buffer.read().partition(b"\n")
    word, memory, seconds, size, processes, verdict, drop, lock, *folders = header.decode().split("\t")
    verdict = int(verdict)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    if drop == "1" or lock == "1":
        import ctypes
        call = ctypes.CDLL(None, use_errno=True)
    if lock == "1":
        abi = call.syscall(444, None, 0, 1)  # landlock_create_ruleset, asked for its version
        if abi < 1:
            os._exit(97)
        handled = 0x1fff | (0x2000 if abi >= 2 else 0) | (0x4000 if abi >= 3 else 0)
        attributes = (ctypes.c_uint64 * 3)(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
        rules = call.syscall(444, attributes, 24 if abi >= 6 else 16 if abi >= 4 else 8, 0)
        for folder in folders:
            rule = (ctypes.c_uint32 * 3)(12, 0, os.open(folder, os.O_PATH))  # read files and folders beneath it
            if call.syscall(445, rules, 1, rule, 0):
                os._exit(97)
        if rules < 0 or call.prctl(38, 1, 0, 0, 0) or call.syscall(446, rules, 0):  # no new privileges, restrict self
            os._exit(97)
        forbid_processes(ctypes, call)
    for limit, value in (("CPU", seconds), ("AS", memory), ("FSIZE", size), ("NOFILE", 64), ("CORE", 0), ("NPROC", processes)):
        if not (limit == "AS" and sys.platform == "darwin"):
            resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (int(value), int(value)))
    if drop == "1":
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        call.prctl(1, 9, 0, 0, 0)  # a change of user clears the death signal that unshare set
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program"]
    error = None
    try:
        exec(compile(source, "program", "exec"), module.__dict__)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as e:
        error = "exit " + str(0 if e.code is None else e.code if isinstance(e.code, int) else 1)
    except MemoryError:
        error = "memory"
    except BaseException as e:
        error = type(e).__name__
        if isinstance(e, OSError) and e.errno == 27:
            error = "output"
        else:
            try:
                error += ": " + str(e)[:200]
            except BaseException:
                pass
    os.write(verdict, (word if error is None else "!" + error).encode("utf-8", "replace"))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)
main()
'''

PROBE = """import math, re, json, typing, collections, os
try: open("/etc/passwd").read(); print("reads")
except OSError: print("closed")
"""


def run_python(source: str, timeout: float, memory_mb: int = 512, max_output: int = 65536, level: Level | None = None) -> PythonResult:
    """Run a Python program under limits; never raises for what the program does, never lasts longer than `timeout` seconds and a bit.

    `output` is cut at `max_output` bytes. `level` is for tests; the default is the strongest one that works on this machine.
    """
    level = level or _strongest_level()
    word = secrets.token_hex(16)
    with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as verdict:
        fields = [word, memory_mb << 20, int(timeout) + 2, max(FILE_BYTES, max_output + 1), MAX_PROCESSES, verdict.fileno(),
                  int(level.drop_user), int(level.landlock), *_python_folders()]
        program.write("\t".join(map(str, fields)).encode() + b"\n" + source.encode("utf-8", "replace"))
        program.seek(0)
        code, timed_out = _run_group([*level.prefix, _python(), "-I", "-S", "-B", "-c", RUNNER], program, output, verdict, timeout)
        size = os.fstat(output.fileno()).st_size
        output.seek(0)
        text = output.read(max_output).decode("utf-8", "replace")
        verdict.seek(0)
        said = verdict.read(1000).decode("utf-8", "replace")
    if said == word and not timed_out:
        return PythonResult(True, text, None)
    if timed_out or code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        error = "timeout"
    elif size >= FILE_BYTES:
        error = "output"
    elif said.startswith("!"):
        error = said[1:]
    else:
        error = f"signal {-code}" if code < 0 else f"signal {code - 128}" if code > 128 else f"exit {code}"
    return PythonResult(False, text, error)


def run_many(sources: Sequence[str], timeout: float, workers: int = 2, memory_mb: int = 512, max_output: int = 65536) -> list[PythonResult]:
    """`run_python` of each program, `workers` at a time, results in order."""
    if not sources:
        return []
    _strongest_level()  # probed once, before the threads
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_python(source, timeout, memory_mb, max_output), sources))


def sandbox_level() -> str:
    """The strongest confinement that works here: bwrap, namespaces (root), userns or rlimit, then "+nobody" and "+landlock" where used.

    "rlimit" alone bounds time, memory and output, but the program can read files and reach the network.
    """
    return str(_strongest_level())


def _run_group(command: list[str], program: BinaryIO, output: BinaryIO, verdict: BinaryIO, timeout: float) -> tuple[int, bool]:
    """Start `command` in a process group of its own, wait, kill whatever is left of it: (exit code, whether time ran out)."""
    process = subprocess.Popen(command, stdin=program, stdout=output, stderr=subprocess.STDOUT, pass_fds=(verdict.fileno(),),
                               env={}, cwd="/", start_new_session=True)
    timed_out = True
    try:
        timed_out = not _ended(process, timeout)
    finally:
        _kill_group(process)  # before the leader is reaped: until then its number cannot be given to another group
        process.wait()
    return process.returncode, timed_out


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
    """Kill the group, and the leader's children by number: the first process of a namespace may have left the group, and takes its
    whole namespace with it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):  # already gone, or no such file on this system
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; macOS: only zombies left
        os.killpg(process.pid, signal.SIGKILL)


def _python() -> str:
    return os.path.realpath(sys.executable)


@functools.cache
def _python_folders() -> tuple[str, ...]:
    """The folders that Python itself needs to read."""
    folders = [sys.base_prefix, "/usr", "/lib", "/lib64"]
    return tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders if os.path.isdir(folder)))


@functools.cache
def _strongest_level() -> Level:
    """The first level whose probe runs. Raises UserError when not even plain limits work."""
    result = None
    for level in _levels():
        result = run_python(PROBE, 20.0, level=level)
        if result.passed:
            return level
    raise UserError(f"Python programs cannot be run under limits on this machine: {result.error} {result.output.strip()[-200:]}")


def _levels() -> list[Level]:
    """Every level this machine might have, strongest first."""
    starts: list[Level] = []
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if bwrap := shutil.which("bwrap"):
        starts.append(Level("bwrap", _bwrap(bwrap)))
    if unshare := shutil.which("unshare"):
        spaces = ("--net", "--ipc", "--pid", "--fork", "--kill-child=KILL")
        if root:
            starts.append(Level("namespaces", (unshare, *spaces), drop_user=True))
        starts.append(Level("userns", (unshare, "--user", "--map-current-user", *spaces)))
    if root:
        starts.append(Level("rlimit", drop_user=True))
    starts.append(Level("rlimit"))
    locks = (True, False) if sys.platform == "linux" else (False,)
    return [Level(start.name, start.prefix, start.drop_user, lock) for start in starts for lock in locks]


def _bwrap(program: str) -> tuple[str, ...]:
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for folder in _python_folders():
        command += ["--ro-bind", folder, folder]
    for link in ("/lib", "/lib64", "/bin"):
        if os.path.islink(link):
            command += ["--symlink", os.readlink(link), link]
    return (*command, "--proc", "/proc", "--dev", "/dev", "--size", "16777216", "--tmpfs", "/tmp", "--chdir", "/tmp")


class Tools:
    """What the text of a tool call yields; each text is run once and remembered.

    Kind "calculator" takes `calculate`'s expressions. Kind "python" takes any other call as a program too, whose output (or value, for
    an expression) counts, under `timeout` seconds. Anything that fails yields "error".
    """

    def __init__(self, kind: Literal["calculator", "python"] = "calculator", timeout: float = 5.0) -> None:
        if kind not in ("calculator", "python"):
            raise UserError(f"unknown tool kind {kind!r}: it must be calculator or python")
        self.kind, self.timeout = kind, timeout
        self._outputs: dict[str, str] = {}

    def output(self, call: str) -> str:
        """The output forced into the text after the call."""
        if call not in self._outputs:
            self._outputs[call] = self._run(call)
        return self._outputs[call]

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
    prints = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "print"
    return call if prints else f"print({call.strip()})"
