"""What a stage asks of its machine, measured by the process that launched it: processor, memory, disk, GPUs.

The names are those that the System metrics page of MLflow's UI groups. A stage is never asked to measure itself, so its speed does not
depend on this; a sample takes about a millisecond of the launching process, where there is a GPU the time of one nvidia-smi more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

FIRST_SECONDS = 2.0  # between two samples of a short step
SHARE = 0.02  # of the time since the start, between two samples of a long one: an hour's step has some 200
MB = 1e6


class Sampler:
    """Takes samples at growing distances; `due` says whether it is time for one."""

    def __init__(self, disk: Path):
        """`disk` is a folder on the disk that is watched."""
        self._disk = disk if disk.exists() else disk.parent
        self._started = self._last = time.monotonic()
        self._gpus = shutil.which("nvidia-smi") is not None
        self.count = 0
        psutil.cpu_percent()  # the first call only starts the measurement

    def due(self) -> bool:
        """Whether enough time has passed since the last sample."""
        now = time.monotonic()
        return now - self._last >= max(FIRST_SECONDS, SHARE * (now - self._started))

    def sample(self) -> dict[str, float]:
        """The values of now, by the name of their metric; `system/processes_memory_megabytes` is that of the launched processes."""
        self._last = time.monotonic()
        self.count += 1
        held = processes_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            **(
                {"processes_memory_megabytes": held / MB} if held else {}
            ),  # none is left after a stage's end
            "system_memory_usage_percentage": psutil.virtual_memory().percent,
            "disk_available_megabytes": psutil.disk_usage(str(self._disk)).free / MB,
        }
        return {
            f"system/{key}": float(value)
            for key, value in {**values, **(gpu_values() if self._gpus else {})}.items()
        }


def processes_memory() -> int:
    """Bytes that the processes below this one hold, shared pages counted in each."""
    total = 0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between the two calls
    return total


def gpu_values(listing: str | None = None) -> dict[str, float]:
    """Utilisation, memory and power of each GPU, from nvidia-smi's lines "utilisation, MiB used, MiB in all, watts" (`listing`)."""
    if listing is None:
        query = "--query-gpu=utilization.gpu,memory.used,memory.total,power.draw"
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        listing = done.stdout if done.returncode == 0 else ""
    values: dict[str, float] = {}
    for number, line in enumerate(listing.splitlines()):
        busy, used, total, watts = (_number(part) for part in line.split(","))
        found = {
            "utilization_percentage": busy,
            "power_usage_watts": watts,
            "memory_usage_megabytes": None if used is None else used * 1.048576,
            "memory_usage_percentage": 100 * used / total if used is not None and total else None,
        }
        values |= {
            f"gpu_{number}_{key}": value for key, value in found.items() if value is not None
        }
    return values


def _number(text: str) -> float | None:
    """A number of nvidia-smi; None for "[N/A]", which devices print that do not measure it."""
    try:
        return float(text)
    except ValueError:
        return None
