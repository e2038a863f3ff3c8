"""Facts about where a study ran: git, hardware, software, the size of the repository. No torch.

Memory is counted in units of 2^30 bytes and printed as GB, as the reference report does.
"""

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from nanolab.costs.hardware import rate_of
from nanolab.files import ROOT

LOCK_FILE = "requirements.lock"
# what the bloat figures count: tracked files of these kinds, and every Makefile
COUNTED_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".ipynb", ".sh"}
GIB = 1024**3
FACTS = {
    "git": "branch commit dirty message",
    "hardware": (
        "platform cores logical memory_gb gpu_count gpu_name gpu_memory_gb cuda hourly_rate"
    ),
    "software": "python torch",
    "bloat": "characters lines files tokens lock_lines",
}
PACKAGES = ("torch", "numpy", "mlflow", "tiktoken", "rustbpe")


def capture(hourly_rates: dict[str, float], root: Path = ROOT) -> dict[str, Any]:
    """The environment of this moment; facts that cannot be had are None. `hourly_rates` gives
    dollars an hour of one device by a part of its name.
    """
    software: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            software[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            software[package] = None
    return {
        "git": git_facts(root),
        "hardware": _hardware(hourly_rates),
        "software": software,
        "bloat": bloat(root),
    }


def unknown() -> dict[str, Any]:
    """The environment of a run that recorded none: every fact is None."""
    facts: dict[str, Any] = {part: dict.fromkeys(names.split()) for part, names in FACTS.items()}
    facts["bloat"]["lock_file"] = LOCK_FILE
    return facts


def output(command: list[str], folder: Path | None = None) -> str | None:
    """What a program prints; None where it is not installed or fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=20, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def fact(read: Callable[[], Any]) -> Any:
    """A fact of the machine; None where the system does not tell it (a container hides it)."""
    try:
        return read()
    except (psutil.Error, OSError, RuntimeError, ValueError, NotImplementedError):
        return None


def git_facts(root: Path = ROOT) -> dict[str, Any]:
    """Branch, full commit, whether tracked files differ from it, first line of its message."""
    head = output(["git", "-c", "log.showSignature=false", "log", "-1", "--format=%H%n%s"], root)
    if head is None:
        return unknown()["git"]
    commit, message = head.split("\n")[:2]
    branch = output(["git", "rev-parse", "--abbrev-ref", "HEAD"], root)
    changes = output(["git", "status", "--porcelain", "--untracked-files=no"], root)
    return {
        "branch": (branch or "").strip() or None,
        "commit": commit,
        "dirty": changes is None or bool(changes.strip()),
        "message": message,
    }


def _hardware(hourly_rates: dict[str, float]) -> dict[str, Any]:
    logical = fact(psutil.cpu_count)
    memory = fact(psutil.virtual_memory)
    facts = unknown()["hardware"] | {
        "platform": platform.system(),
        "logical": logical,
        "cores": fact(lambda: psutil.cpu_count(logical=False)) or logical,
        "memory_gb": memory.total / GIB if memory else None,
        "gpu_count": 0,
    }
    query = ["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    listing = output(["nvidia-smi", *query])
    if listing is None:
        return facts
    return facts | gpu_facts(listing, output(["nvidia-smi"]) or "", hourly_rates)


def gpu_facts(listing: str, banner: str, hourly_rates: dict[str, float]) -> dict[str, Any]:
    """Facts from nvidia-smi: `listing` has a line "name, MiB" a device, `banner` CUDA's version."""
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


def bloat(root: Path = ROOT) -> dict[str, Any]:
    """Size of the counted tracked files (tokens: characters // 4; None without git), and the lock
    file's lines.
    """
    facts, lock = unknown()["bloat"], root / LOCK_FILE
    if lock.is_file():
        facts["lock_lines"] = len(lock.read_text().splitlines())
    listing = output(["git", "ls-files", "-z"], root)
    if listing is None:
        return facts
    texts = []
    for path in map(Path, listing.split("\0")):
        if path.suffix in COUNTED_SUFFIXES or path.name == "Makefile":
            with contextlib.suppress(OSError):
                texts.append((root / path).read_text(encoding="utf-8", errors="replace"))
    characters = sum(map(len, texts))
    lines = sum(len(text.splitlines()) for text in texts)
    counts = {"characters": characters, "lines": lines, "files": len(texts)}
    return facts | counts | {"tokens": characters // 4}
