"""What a stage asks of its machine, measured by the process that launched it.

Names as the System metrics page of MLflow's UI groups them. MLflow's own monitor needs pynvml, does
not see the launched processes, and keeps one distance between samples however long a step is.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

FIRST_SECONDS = 2.0  # between two samples of a short step
SHARE = 0.02  # of the time so far, between two samples of a long one: an hour has some 200
MB = 1e6


def samples(disk: Path) -> Iterator[list[tuple[str, float, int, int]]]:
    """At each `next` a sample as points of curves, empty where it is too early for one; `disk` is a
    folder on the disk that is watched.
    """
    started = last = time.monotonic()
    number = 0
    psutil.cpu_percent()  # counts since the last call of the same thread
    while True:
        now = time.monotonic()
        if now - last < max(FIRST_SECONDS, SHARE * (now - started)):
            yield []
            continue
        last, number, when = now, number + 1, round(time.time() * 1000)
        yield [(key, value, when, number) for key, value in measure(disk).items()]


def measure(disk: Path) -> dict[str, float]:
    """The values of now; memory is that of the processes below this one."""
    held = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended between the two calls
            held += process.memory_info().rss
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_percentage": psutil.virtual_memory().percent,
        "disk_available_megabytes": psutil.disk_usage(str(disk)).free / MB,
    }
    if held:  # none is left after a stage's end
        values["processes_memory_megabytes"] = held / MB
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=utilization.gpu,memory.used,memory.total,power.draw"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        values |= gpu_values(done.stdout if done.returncode == 0 else "")
    return {f"system/{key}": float(value) for key, value in values.items()}


def gpu_values(listing: str) -> dict[str, float]:
    """The values of each GPU from nvidia-smi's lines "utilisation, MiB used, MiB in all, watts"; a
    device says "[N/A]" of what it does not measure.
    """
    values: dict[str, float] = {}
    for number, line in enumerate(listing.splitlines()):
        known = {}
        for name, text in zip(("busy", "used", "total", "watts"), line.split(",")):
            with contextlib.suppress(ValueError):
                known[name] = float(text)
        start = f"gpu_{number}_"
        if "busy" in known:
            values[f"{start}utilization_percentage"] = known["busy"]
        if "watts" in known:
            values[f"{start}power_usage_watts"] = known["watts"]
        if "used" in known:
            values[f"{start}memory_usage_megabytes"] = known["used"] * 1.048576
            if known.get("total"):
                share = 100 * known["used"] / known["total"]
                values[f"{start}memory_usage_percentage"] = share
    return values
