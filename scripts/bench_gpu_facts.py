"""`bench.py gpu`, facts: which device, driver and libraries the other lines are of."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import torch
from bench_gpu import ROOT, Bench

from nanolab.model.scaling import peak_flops

GIB = 2**30


def output(*command: str) -> str | None:
    """The first line that a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.splitlines() or [None])[0] if done.returncode == 0 else None


def facts(bench: Bench) -> None:
    """The line of this run, and one of the device where there is one."""
    commit = output("git", "rev-parse", "HEAD")
    changed = (
        output("git", "status", "--porcelain", "--untracked-files=no") is not None
        if commit
        else None
    )
    bench.emit(
        what="run",
        date=time.strftime("%Y-%m-%d"),
        commit=commit,
        changed=changed,
        python=platform.python_version(),
        torch=torch.__version__,
        platform=platform.platform(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        command=" ".join(["python", *sys.argv]),
    )
    if bench.device == "cpu":
        bench.emit(
            what="device",
            name=platform.processor() or platform.machine(),
            note=(
                "no CUDA device is looked at: tiny sizes on the CPU, which say nothing of a GPU's"
                " speed"
            ),
        )
        return
    of = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    bench.emit(
        what="device",
        name=of.name,
        count=torch.cuda.device_count(),
        capability=f"{of.major}.{of.minor}",
        multiprocessors=of.multi_processor_count,
        memory_gib=total / GIB,
        free_gib=free / GIB,
        cuda=torch.version.cuda,
        driver=output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        cudnn=torch.backends.cudnn.version(),
        peak_flops=peak_flops(of.name),
    )
