"""Facts about where a study ran: git, hardware, software, the size of the repository. Imports no torch.

Memory is counted in units of 2^30 bytes and printed as GB, as the reference report does.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil

from nanolab.config import ROOT
from nanolab.costs import rate_of

LOCK_FILE = "requirements.lock"
# what the bloat figures count: tracked files of these kinds, and every Makefile
COUNTED_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".ipynb", ".sh"}
GIB = 1024**3


def capture(hourly_rates: dict[str, float], root: Path = ROOT) -> dict[str, Any]:
    """The environment of this moment, as `markdown.render` wants it; facts that cannot be had are None.

    `hourly_rates` gives dollars an hour of one device by a part of its name.
    """
    return {
        "git": git_facts(root),
        "hardware": hardware_facts(hourly_rates),
        "software": software_facts(),
        "bloat": bloat(root),
    }


def unknown() -> dict[str, Any]:
    """The environment of a run that recorded none: every fact is None."""
    return {
        "git": dict.fromkeys(("branch", "commit", "dirty", "message")),
        "hardware": dict.fromkeys(
            (
                "platform",
                "cores",
                "logical",
                "memory_gb",
                "gpu_count",
                "gpu_name",
                "gpu_memory_gb",
                "cuda",
                "hourly_rate",
            )
        ),
        "software": dict.fromkeys(("python", "torch")),
        "bloat": {
            **dict.fromkeys(("characters", "lines", "files", "tokens", "lock_lines")),
            "lock_file": LOCK_FILE,
        },
    }


def output(command: list[str], folder: Path | None = None) -> str | None:
    """What a program prints; None where it is not installed or fails (a missing fact, shown as a dash)."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=20, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def git_facts(root: Path = ROOT) -> dict[str, Any]:
    """Branch, full commit, whether tracked files differ from it, first line of its message."""
    head = output(["git", "log", "-1", "--format=%H%n%s"], root)
    if head is None:
        return {"branch": None, "commit": None, "dirty": None, "message": None}
    commit, message = head.split("\n")[:2]
    branch = output(["git", "rev-parse", "--abbrev-ref", "HEAD"], root)
    changes = output(["git", "status", "--porcelain", "--untracked-files=no"], root)
    return {
        "branch": branch.strip() if branch else None,
        "commit": commit,
        "dirty": changes is None or bool(changes.strip()),
        "message": message,
    }


def hardware_facts(hourly_rates: dict[str, float]) -> dict[str, Any]:
    """Platform, processor cores, memory, and the NVIDIA devices with their CUDA version and hourly rate."""
    facts = {
        "platform": platform.system(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "logical": psutil.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / GIB,
        "gpu_count": 0,
        "gpu_name": None,
        "gpu_memory_gb": None,
        "cuda": None,
        "hourly_rate": None,
    }
    listing = output(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    )
    return (
        facts
        if listing is None
        else {**facts, **gpu_facts(listing, output(["nvidia-smi"]) or "", hourly_rates)}
    )


def gpu_facts(listing: str, banner: str, hourly_rates: dict[str, float]) -> dict[str, Any]:
    """Facts from `nvidia-smi`: `listing` has a line "name, memory in MiB" a device, `banner` the CUDA version."""
    devices = [line.rsplit(",", 1) for line in listing.splitlines() if "," in line]
    names = [name.strip() for name, _ in devices]
    sizes = [float(size) for _, size in devices if size.strip().isdigit()]
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", banner)
    rates = [rate_of(name, hourly_rates) for name in names]
    return {
        "gpu_count": len(names),
        "gpu_name": " and ".join(dict.fromkeys(names)) or None,
        "gpu_memory_gb": sum(sizes) / 1024 if sizes else None,
        "cuda": cuda.group(1) if cuda else None,
        "hourly_rate": sum(rates) if rates and None not in rates else None,
    }


def software_facts() -> dict[str, Any]:
    """Versions of Python and of the packages that matter for a result."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    packages = ("torch", "numpy", "mlflow", "tiktoken", "rustbpe")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def bloat(root: Path = ROOT) -> dict[str, Any]:
    """How much there is to read: characters, lines and number of the counted tracked files, and the lock file's lines.

    Tokens are characters // 4. Without git nothing is counted.
    """
    lock = root / LOCK_FILE
    facts = {
        "characters": None,
        "lines": None,
        "files": None,
        "tokens": None,
        "lock_file": LOCK_FILE,
        "lock_lines": len(lock.read_text().splitlines()) if lock.is_file() else None,
    }
    listing = output(["git", "ls-files", "-z"], root)
    if listing is None:
        return facts
    paths = [
        root / name
        for name in listing.split("\0")
        if Path(name).suffix in COUNTED_SUFFIXES or Path(name).name == "Makefile"
    ]
    texts = [path.read_text(errors="replace") for path in paths if path.is_file()]
    characters = sum(map(len, texts))
    return {
        **facts,
        "characters": characters,
        "lines": sum(len(text.splitlines()) for text in texts),
        "files": len(texts),
        "tokens": characters // 4,
    }
