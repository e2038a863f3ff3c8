"""Is everything here that a study needs? Checks of this machine, this install and this store, each with what to do. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanolab import files, pipeline, tracking, tracking_store
from nanolab.config import ROOT
from nanolab.report import environment

GIB = 2**30
NEEDED_GIB, ROOMY_GIB = 2, 10  # free disk: the default study writes about half of the first
PORTS = {5000: "make ui", 8888: "make lab"}
HUB = "https://huggingface.co"
TORCH_SECONDS = 180
# run in a process of its own: torch takes seconds to import, and may be what is broken
TORCH = """
import json, torch
from nanolab.model import kernels
from nanolab.sandbox import sandbox_gaps, sandbox_level
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
                  "devices": [[d.name, d.total_memory] for d in devices], "kernels": kernels.status(),
                  "fused": kernels.library()[0] is not None, "sandbox": sandbox_level(), "gaps": sandbox_gaps()}))
"""


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is (ok, warning or problem), what was found, and what to do about it."""

    name: str
    state: str
    found: str
    fix: str = ""


def examine(network: bool = False) -> Iterator[Check]:
    """Every check, as it is done; `network` lets them reach the hub."""
    yield python()
    yield packages(ROOT / environment.LOCK_FILE)
    yield from torch_and_what_it_runs()
    yield hardware()
    yield disk(files.MLRUNS)
    yield data(network)
    opened = store()
    yield opened
    if opened.state == "ok":
        yield dead_runs()
    yield locks()
    yield from (port(number, user) for number, user in PORTS.items())
    yield git()


def python() -> Check:
    """The interpreter: a supported version, and the one of .venv."""
    version = ".".join(map(str, sys.version_info[:3]))
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        return Check(
            "python",
            "warning",
            f"{version} at {sys.executable}, not the one of .venv",
            "make setup makes that",
        )
    return Check("python", "ok", f"{version} in .venv")


def packages(lock: Path) -> Check:
    """What pyproject.toml needs is installed, and in the versions of the lock file."""
    locked = dict(line.split("==", 1) for line in lock.read_text().splitlines() if "==" in line)
    names = {name.lower().replace("_", "-"): name for name in locked}
    other, missing = [], []
    for name in required():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        want = locked.get(names.get(name.lower().replace("_", "-"), ""))
        if want and version.partition("+")[0] != want:
            other.append(f"{name} {version} (pinned: {want})")
    if missing:
        return Check("packages", "problem", f"not installed: {', '.join(missing)}", "make setup")
    if other:
        return Check(
            "packages",
            "warning",
            ", ".join(other),
            "make setup installs the versions that were tested",
        )
    return Check("packages", "ok", f"{len(required())} packages as pinned in {lock.name}")


def required() -> list[str]:
    """The packages that nanolab depends on, of extras only those of the lab."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    return [re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in lines]


def torch_and_what_it_runs() -> Iterator[Check]:
    """torch, the devices, the compiled kernels and the sandbox, asked in a process of their own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environ,
            timeout=TORCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        yield Check(
            "torch",
            "problem",
            f"does not answer in {TORCH_SECONDS} s",
            "a GPU's driver may hang: see nvidia-smi",
        )
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield Check(
            "torch",
            "problem",
            last,
            "make setup; on a machine with a GPU see its driver with nvidia-smi",
        )
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    names = [f"{name} ({size / GIB:.0f} GiB)" for name, size in facts["devices"]]
    driver = environment.output(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    )
    if names:
        yield Check(
            "torch",
            "ok",
            f"{facts['torch']}; {len(names)} GPU: {', '.join(names)}, CUDA {facts['cuda']}, "
            f"driver {(driver or '?').split()[0]}",
        )
    elif driver:
        yield Check(
            "torch",
            "problem",
            f"{facts['torch']} sees no GPU, but the driver {driver.split()[0]} does",
            "install a torch built for this driver: make setup TORCH_INDEX=ADDRESS",
        )
    else:
        yield Check("torch", "ok", f"{facts['torch']}; no GPU, {facts['threads']} threads")
    fix = "" if facts["fused"] else "it works, more slowly; apt-get install gcc brings a compiler"
    yield Check("kernels", "ok" if facts["fused"] else "warning", facts["kernels"], fix)
    gaps = ", ".join(facts["gaps"])
    yield Check(
        "sandbox",
        "warning" if gaps else "ok",
        facts["sandbox"] + (f"; a program could: {gaps}" if gaps else ""),
        "docs/sandbox.md says what a stronger level needs" if gaps else "",
    )


def hardware() -> Check:
    """Cores and memory of this process's share of the machine."""
    facts, memory = environment.hardware_facts({}), psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else facts["logical"]
    text = f"{cores} of {facts['logical']} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    if memory.available < 3 * GIB:
        return Check(
            "machine",
            "warning",
            text,
            "the default study takes about 2.2 GiB: end what else runs, or lower batch_rows",
        )
    return Check("machine", "ok", text)


def disk(folder: Path) -> Check:
    """Free space where results are written, and whether they may be."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free / GIB
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Check(
            "disk",
            "problem",
            f"{place} cannot be written",
            "change its owner, or set NANOLAB_MLRUNS to a folder of yours",
        )
    if free < NEEDED_GIB:
        return Check(
            "disk",
            "problem",
            f"{free:.1f} GiB free at {place}",
            "`python -m nanolab clean` shows what can go",
        )
    return Check(
        "disk",
        "warning" if free < ROOMY_GIB else "ok",
        f"{free:.1f} GiB free at {place}",
        "enough for the default study; `python -m nanolab clean` shows what can go"
        if free < ROOMY_GIB
        else "",
    )


def data(network: bool) -> Check:
    """The folder of real data, if one is named, and the hub."""
    address = os.environ.get("HF_ENDPOINT") or HUB
    if network:
        try:
            urllib.request.urlopen(
                urllib.request.Request(address, method="HEAD"), timeout=5
            ).close()
        except OSError as error:
            return Check(
                "data",
                "problem",
                f"{address} cannot be reached ({error})",
                "data.source embedded and local need no hub",
            )
    hub = f"; {address} answers" if network else ""
    root = os.environ.get("NANOLAB_DATA")
    if not root:
        return Check(
            "data", "ok", f"NANOLAB_DATA is not set: the embedded world needs no data{hub}"
        )
    if not (ROOT / root).is_dir():
        return Check(
            "data",
            "problem",
            f"NANOLAB_DATA = {root} is not a folder",
            "set it to the folder of docs/data.md, or unset it",
        )
    parts = [part for part in ("text", "chat", "core") if (ROOT / root / part).is_dir()]
    lacks = [part for part in ("text", "chat", "core") if part not in parts]
    return Check(
        "data",
        "warning" if lacks else "ok",
        f"{root} has {', '.join(parts) or 'none of text, chat, core'}{hub}",
        f"without {', '.join(lacks)} some steps of local studies are refused: docs/data.md"
        if lacks
        else "",
    )


def store() -> Check:
    """The tracking store opens, is of MLflow's schema, and can be written."""
    uri = tracking.store_uri()
    if uri.startswith(("http://", "https://")):
        if reason := tracking_store.unreachable(uri):
            return Check(
                "tracking",
                "problem",
                f"{uri} does not answer ({reason})",
                "start the server, or unset MLFLOW_TRACKING_URI",
            )
        return Check("tracking", "ok", f"the server {uri} answers")
    if not uri.startswith("sqlite:///"):
        try:
            tracking.client().search_experiments(max_results=1)
        except Exception as error:  # a driver's own kinds
            return Check(
                "tracking",
                "problem",
                f"{uri.partition('@')[2] or uri}: {' '.join(str(error).split())[:160]}",
                "docs/team.md",
            )
        return Check("tracking", "ok", f"{uri.partition('@')[2] or uri} opens")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file() or not path.stat().st_size:
        return Check("tracking", "ok", f"no store at {path} yet: the first run makes it")
    if importlib.util.find_spec("mlflow") is None:
        return Check("tracking", "problem", "mlflow is not installed", "make setup")
    try:
        with sqlite3.connect(path, timeout=5) as connection:
            (version,) = connection.execute("select version_num from alembic_version").fetchone()
            connection.execute("begin immediate")
            connection.rollback()
    except sqlite3.Error as error:
        return Check(
            "tracking",
            "problem",
            f"{path}: {error}",
            "stop what holds it; move a damaged one away: finished steps are replayed",
        )
    if version not in (heads := schema_heads()):
        return Check(
            "tracking",
            "problem",
            f"{path} has schema {version}, this MLflow has {' '.join(heads)}",
            f"copy the file, then .venv/bin/mlflow db upgrade {uri}",
        )
    return Check(
        "tracking",
        "ok",
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB, schema {version}, writable",
    )


def schema_heads() -> list[str]:
    """The newest schema versions of the installed MLflow, read from its migrations without importing it."""
    folder = (
        Path(importlib.util.find_spec("mlflow").origin).parent
        / "store"
        / "db_migrations"
        / "versions"
    )
    texts = [path.read_text() for path in folder.glob("*.py")]
    revisions = {
        found[1]
        for text in texts
        if (found := re.search(r"^revision\s*=\s*[\"'](\w+)", text, re.MULTILINE))
    }
    older = {
        name
        for text in texts
        for found in re.findall(r"^down_revision\s*=\s*(.+)$", text, re.MULTILINE)
        for name in re.findall(r"\w+", found)
    }
    return sorted(revisions - older)


def dead_runs() -> Check:
    """RUNNING runs of processes of this machine that are no more."""
    path = files.MLRUNS / "mlflow.db"
    if tracking.store_uri() != f"sqlite:///{path}" or not path.is_file() or not path.stat().st_size:
        return Check("runs", "ok", "not looked at: there is no store of that kind in mlruns/")
    query = (
        "select e.name, r.run_uuid, (select value from tags where run_uuid = r.run_uuid and key = 'nanolab.pid'), (select value from "
        "tags where run_uuid = r.run_uuid and key = 'nanolab.started'), (select value from tags where run_uuid = r.run_uuid and "
        "key = 'nanolab.host') from runs r join experiments e using (experiment_id) where r.status = 'RUNNING'"
    )
    connection = sqlite3.connect(path, timeout=5)
    try:
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    dead = [
        name
        for name, _, pid, started, host in rows
        if host == socket.gethostname() and pid and tracking.process_start(int(pid)) != started
    ]
    if dead:
        return Check(
            "runs",
            "warning",
            f"{len(dead)} RUNNING of ended processes ({', '.join(sorted(set(dead)))})",
            "the study's next run marks them FAILED; nothing is lost",
        )
    return Check("runs", "ok", f"{len(rows)} running, none of a dead process")


def locks() -> Check:
    """Which studies are being run; a lock that a dead process left is free."""
    paths = sorted((files.MLRUNS / "work").glob("*/.lock"))
    held = [path.parent.name for path in paths if pipeline.is_running(path.parent.name)]
    return Check(
        "locks",
        "ok",
        f"being run: {', '.join(held)}"
        if held
        else f"none held; {len(paths)} left by ended runs, which are free",
    )


def port(number: int, user: str) -> Check:
    """Whether a port that a command opens is free, else who has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            fix = (
                "make ui PORT=5001"
                if number == 5000
                else "jupyter takes the next free port by itself"
            )
            return Check(f"port {number}", "warning", f"taken by {holder(number)}", fix)
    return Check(f"port {number}", "ok", f"free for {user}")


def holder(number: int) -> str:
    """The process that listens on a port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == number
                and connection.pid
            ):
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return "a process of another user"
    return "a process of another user"


def git() -> Check:
    """The commit that runs will record."""
    facts = environment.git_facts(ROOT)
    if facts["commit"] is None:
        return Check(
            "git", "warning", "not a git repository: runs record no commit", "git clone it"
        )
    dirty = " with changes that are not committed" if facts["dirty"] else ""
    return Check("git", "ok", f"{facts['branch']} {facts['commit'][:8]}{dirty}")
