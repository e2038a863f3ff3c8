"""Starts a stage's processes, shows what they print as it comes, and leaves none behind. Imports no torch."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nanolab.config import LaunchConfig
from nanolab.schema import UserError

GRACE_SECONDS = 10.0
MISTAKE = 2  # exit status
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StageFailed(RuntimeError):
    """A stage's process ended with an error: its exit status and its last lines; `mistake` is the line of a person's mistake, or empty."""

    mistake = ""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it in a notebook: no frames of this package, whose fault it is not."""
        return [f"StageFailed: {self}"]


def command(job_file: Path, launch: LaunchConfig) -> list[str]:
    """The command line of a stage: a plain process, or torchrun when there are several processes."""
    stage = ["-m", "nanolab", "stage", str(job_file)]
    if launch.nproc == 1 and launch.nnodes == 1:
        return [sys.executable, *stage]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={launch.nproc}"]
    if launch.nnodes == 1:
        return [*torchrun, "--standalone", *stage]
    host, separator, port = (launch.rdzv_endpoint or "").rpartition(":")
    if not separator or not port.isdigit():
        raise UserError(
            f"launch.rdzv_endpoint = {launch.rdzv_endpoint!r} must be host:port of machine 0 when nnodes is {launch.nnodes}"
        )
    return [
        *torchrun,
        f"--nnodes={launch.nnodes}",
        f"--node-rank={launch.node_rank}",
        f"--master-addr={host}",
        f"--master-port={port}",
        *stage,
    ]


class Stage:
    """A running stage: the process, in a process group of its own, that dies when the one that launched it dies."""

    def __init__(self, arguments: list[str], log: Path, threads: int):
        # threads that wait spin for microseconds, then sleep: spinning for long costs a factor of 20 as soon as another process
        # wants a core, and sleeping at once costs a third of the sampler's speed (LOG.md)
        environment = {
            "GOMP_SPINCOUNT": "10000",
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        environment.pop("MPLBACKEND", None)  # a kernel's inline backend needs IPython
        self._log = open(log, "ab")  # noqa: SIM115  (closed by wait)
        self._last: collections.deque[str] = collections.deque(maxlen=15)
        self.process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def wait(self, show: Callable[[str], None]) -> None:
        """Hands each line of the output to `show` until the process ends; raises StageFailed when it fails.

        Whatever ends this call early, an interrupt too, first ends the whole process group.
        """
        try:
            for raw in self.process.stdout:
                self._log.write(raw)
                self._log.flush()
                line = raw.decode(errors="replace")
                self._last.append(line)
                show(line)
            status = self.process.wait()
        finally:
            self.stop()
        if status:
            killed = (
                " (killed by hand, or by the system when memory ran out)"
                if status == -signal.SIGKILL
                else ""
            )
            reason = (
                f"was ended by signal {-status}{killed}"
                if status < 0
                else f"failed with exit status {status}"
            )
            failed = StageFailed(
                f"the stage {reason}; its last lines (all of them in {self._log.name}):\n{''.join(self._last)}"
            )
            if status == MISTAKE and self._last and self._last[-1].startswith("error: "):
                failed.mistake = self._last[-1].removeprefix("error: ").strip()
            raise failed

    def terminate(self) -> None:
        """Asks the process group to end; `wait` then raises StageFailed."""
        _signal_group(self.process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """Ends what is left of the process group: SIGTERM, then SIGKILL after a grace time."""
        if self.process.poll() is None:
            _signal_group(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):  # killed below
                self.process.wait(GRACE_SECONDS)
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self._log.close()


def threads(launch: LaunchConfig) -> int:
    """CPU threads of each process: as configured, or an equal share of the cores that this process may use."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return launch.threads or max(1, cores // launch.nproc)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # none of the group is left


def die_with_parent() -> None:
    """Asks the system to end this process when the one that started it dies, even by SIGKILL (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(1, int(signal.SIGTERM))  # 1 is PR_SET_PDEATHSIG
