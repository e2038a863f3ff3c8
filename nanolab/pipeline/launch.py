"""Starts a stage's processes, shows what they print, and leaves none behind. Imports no torch."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.pipeline.failures import Failure, first_failure
from nanolab.plan import interpreter
from nanolab.settings.config import LaunchConfig
from nanolab.tracking.progress import Silence

GRACE_SECONDS = 10.0
LISTEN_SECONDS = 2.0  # between two looks for a sign of life
MISTAKE = 2  # exit status
LOCAL = "--local-addr=127.0.0.1"  # of processes on one machine
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StageFailed(RuntimeError):
    """A stage's process ended with an error: `reason` says why in one line, and so does `mistake`
    where it was a person's.
    """

    def __init__(self, reason: str, mistake: str = "", last_lines: str = ""):
        super().__init__(reason + last_lines)
        self.reason = reason
        self.mistake = mistake

    def raise_mistake(self, step: str) -> None:
        """Raises UserError where a person's mistake was the reason."""
        if self.mistake:
            raise UserError(f"{step}: {self.mistake}") from self

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: no frames of this package, whose fault it is not."""
        return [f"StageFailed: {self}"]


def command(job_file: Path, launch: LaunchConfig) -> list[str]:
    """The command line of a stage: a plain process, or torchrun for several."""
    stage = ["-m", "nanolab", "stage", str(job_file)]
    if launch.nproc == 1 and launch.nnodes == 1:
        return [sys.executable, *stage]
    torchrun = [sys.executable, "-m", "nanolab.pipeline.torchrun"]
    torchrun += [f"--nproc-per-node={launch.nproc}", f"--nnodes={launch.nnodes}"]
    if launch.nnodes == 1:  # as --standalone, but without names: this machine's may not resolve
        meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        return [*torchrun, *meeting, f"--rdzv-id={uuid.uuid4()}", LOCAL, *stage]
    host, separator, port = (launch.rdzv_endpoint or "").rpartition(":")
    if not separator or not port.isdigit():
        raise UserError(
            f"launch.rdzv_endpoint = {launch.rdzv_endpoint!r} must be host:port of machine 0 when"
            f" nnodes is {launch.nnodes}"
        )
    meeting = [f"--node-rank={launch.node_rank}", f"--master-addr={host}", f"--master-port={port}"]
    return [*torchrun, *meeting, *stage]


def start(job_file: Path, launch: LaunchConfig, log: str) -> Stage:
    """Starts a step's processes on this machine; `log` is a name beside its job file."""
    return Stage(command(job_file, launch), job_file.with_name(log), threads(launch))


class Stage:
    """A running stage: a process group that dies with the process that launched it."""

    def __init__(self, arguments: list[str], log: Path, threads: int):
        # threads that wait spin for microseconds, then sleep: spinning for long costs a factor of
        # 20 as soon as another process wants a core, and sleeping at once costs a third of the
        # sampler's speed (LOG.md)
        environment = {
            "GOMP_SPINCOUNT": "10000",
            **interpreter.environment(),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        if LOCAL in arguments and sys.platform == "linux":  # gloo would look its name up
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        environment.pop("MPLBACKEND", None)  # a kernel's inline backend needs IPython
        self._log = open(log, "ab")  # noqa: SIM115  (closed by wait)
        self._last: collections.deque[str] = collections.deque(maxlen=15)
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,  # first on the path of `-m`: this clone's code, wherever the command is given
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def wait(self, show: Callable[[str], None]) -> None:
        """Hands each line of the output to `show` until the process ends; raises StageFailed when
        it fails. An interrupt first ends the whole process group.
        """
        ended = threading.Event()
        listener = threading.Thread(target=self._listen, args=(ended, show), daemon=True)
        listener.start()
        try:
            for raw in self.process.stdout:
                self._log.write(raw)
                self._log.flush()
                line = raw.decode(errors="replace")
                self._last.append(line)
                show(line)
            status = self.process.wait()
        finally:
            ended.set()
            self.stop()
            listener.join()
        if status:
            raise self._failed(status)

    def _listen(self, ended: threading.Event, show: Callable[[str], None]) -> None:
        """Says when there is no sign of life; not in the log, where it would be one."""
        silence = Silence(Path(self._log.name).parent)
        while not ended.wait(LISTEN_SECONDS):
            if line := silence.line():
                show(f"{line}\n")

    def _failed(self, status: int) -> StageFailed:
        first = first_failure(Path(self._log.name).parent)
        if status < 0:  # this process itself, whatever became of others
            first = Failure(0, 0.0, "", signal=-status)
        reason = first.reason if first else f"the stage failed with exit status {status}"
        mistake = reason if first and first.mistake else ""
        if status == MISTAKE and not mistake:  # a full disk has no room for a file that says why
            errors = [line for line in self._last if line.startswith("error: ")]
            mistake = errors[-1].removeprefix("error: ").strip() if errors else ""
        lines = f"; its last lines (all of them in {self._log.name}):\n{''.join(self._last)}"
        return StageFailed(reason, mistake, lines)

    def terminate(self) -> None:
        """Asks the process group to end; `wait` then raises StageFailed."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ends what is left of the process group: SIGTERM, then SIGKILL after a grace time."""
        if self.process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # killed below
                self.process.wait(GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self._log.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none of the group is left
            os.killpg(self.process.pid, number)


def threads(launch: LaunchConfig) -> int:
    """CPU threads of each process: as configured, or an equal share of the cores."""
    return launch.threads or max(1, cores() // launch.nproc)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Asks the system to end this process when its parent dies, even by SIGKILL (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(1, int(signal.SIGTERM))  # 1 is PR_SET_PDEATHSIG
