"""Is everything here that a study needs? Checks of this install, this machine and this store, each
with what to do. Imports no torch.
"""

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
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nanolab import files
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.pipeline.launch import cores
from nanolab.pipeline.study_lock import studies_held
from nanolab.plan.interpreter import environment
from nanolab.tracking import faults, run_writer, store
from nanolab.tracking.address import database_path, is_own, is_server, masked, store_uri
from nanolab.tracking.environment import LOCK_FILE, fact, git_facts, output
from nanolab.wording import size

NEEDED = 2 * 2**30  # bytes of free disk: the default study writes about half of it
FREE_MEMORY = 3 * 2**30
PORTS = {  # port: the command that opens it, and what to do where it is taken
    5000: ("make ui", "make ui PORT=5001"),
    8888: ("make lab", "jupyter takes the next free port by itself"),
}
TORCH_SECONDS = 180
# run in a process of its own: torch takes seconds to import, and may be what is broken
TORCH = """
import json, torch
from nanolab.inference import kernels
from nanolab.sandbox.programs import strongest_level
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = map(torch.cuda.get_device_properties, range(count))
facts = {
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "threads": torch.get_num_threads(),
    "devices": [[device.name, device.total_memory] for device in devices],
    "kernels": kernels.status(),
    "fused": kernels.library()[0] is not None,
    "sandbox": str(strongest_level()),
    "gaps": strongest_level().gaps(),
}
print(json.dumps(facts))
"""
RUNNING = """
select e.name, json_group_object(t.key, t.value)
from runs r join experiments e using (experiment_id) join tags t using (run_uuid)
where r.status = 'RUNNING' group by run_uuid
"""


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, what was found, and what to do."""

    name: str
    state: str  # ok; warning: a study may run; problem: none can
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, "ok", found)


def warning(name: str, found: str, fix: str) -> Check:
    """`fix` would be better."""
    return Check(name, "warning", found, fix)


def problem(name: str, found: str, fix: str) -> Check:
    """No study can run before `fix`."""
    return Check(name, "problem", found, fix)


def examine(network: bool = False) -> Iterator[Check]:
    """Every check, as it is done; `network` lets them reach the hub."""
    yield python()
    yield packages(ROOT / LOCK_FILE)
    yield from torch_and_what_it_runs()
    yield hardware()
    yield disk(files.MLRUNS)
    yield data(network)
    yield (opened := tracking())
    if opened.state == "ok":
        yield dead_runs()
    yield ok("locks", studies_held())
    yield from (port(number, *texts) for number, texts in PORTS.items())
    yield git()


def python() -> Check:
    """The interpreter: is it the one of .venv?"""
    version = ".".join(map(str, sys.version_info[:3]))
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():
        return ok("python", f"{version} in .venv")
    found = f"{version} at {sys.executable}, not the one of .venv"
    return warning("python", found, "make setup makes that")


def packages(lock: Path) -> Check:
    """What pyproject.toml needs is installed, and in the versions of the lock file."""
    locked = dict(re.findall(r"^(\S+)==(\S+)", lock.read_text().lower().replace("_", "-"), re.M))
    other, missing, names = [], [], required()
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        pinned = locked.get(name.lower().replace("_", "-"))
        if pinned and version.partition("+")[0] != pinned:
            other.append(f"{name} {version} (pinned: {pinned})")
    if missing:
        return problem("packages", f"not installed: {', '.join(missing)}", "make setup")
    if other:
        fix = "make setup installs the versions that were tested"
        return warning("packages", ", ".join(other), fix)
    return ok("packages", f"{len(names)} packages as pinned in {lock.name}")


def required() -> list[str]:
    """The packages that nanolab depends on, of extras only those of the lab."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    return [re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in lines]


def torch_and_what_it_runs() -> Iterator[Check]:
    """torch, the devices, the compiled kernels and the sandbox, asked in a process of their own."""
    given = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": TORCH_SECONDS}
    try:
        done = subprocess.run([sys.executable, "-c", TORCH], env=environment(), **given)
    except subprocess.TimeoutExpired:
        found = f"does not answer in {TORCH_SECONDS} s"
        yield problem("torch", found, "a GPU's driver may hang: see nvidia-smi")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        fix = "make setup; on a machine with a GPU see its driver with nvidia-smi"
        yield problem("torch", last, fix)
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    yield _devices(facts)
    slow = "it works, more slowly; apt-get install gcc brings a compiler"
    kernels = facts["kernels"]
    yield ok("kernels", kernels) if facts["fused"] else warning("kernels", kernels, slow)
    stronger = "docs/sandbox.md says what a stronger level needs"
    weak = f"{facts['sandbox']}; a program could: {', '.join(facts['gaps'])}"
    yield warning("sandbox", weak, stronger) if facts["gaps"] else ok("sandbox", facts["sandbox"])


def _devices(facts: dict[str, Any]) -> Check:
    names = [f"{name} ({size(memory)})" for name, memory in facts["devices"]]
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = ((output(query) or "").split() or [""])[0]
    if names:
        found = f"{facts['torch']}; {len(names)} GPU: {', '.join(names)}, CUDA {facts['cuda']}"
        return ok("torch", f"{found}, driver {driver or '?'}")
    if driver:
        found = f"{facts['torch']} sees no GPU, but the driver {driver} does"
        fix = "install a torch built for this driver: make setup TORCH_INDEX=ADDRESS"
        return problem("torch", found, fix)
    return ok("torch", f"{facts['torch']}; no GPU, {facts['threads']} threads")


def git() -> Check:
    """The commit that runs will record."""
    facts = git_facts(ROOT)
    if facts["commit"] is None:
        return warning("git", "not a git repository: runs record no commit", "git clone it")
    dirty = " with changes that are not committed" * facts["dirty"]
    return ok("git", f"{facts['branch']} {facts['commit'][:8]}{dirty}")


# ---- this machine


def hardware() -> Check:
    """Cores and memory of this process's share of the machine."""
    logical, memory = fact(psutil.cpu_count), fact(psutil.virtual_memory)
    if memory is None or logical is None:
        return warning("machine", "cores and memory cannot be read", "is /proc there?")
    free = f"{size(memory.available)} of {size(memory.total)} memory free"
    text = f"{cores()} of {logical} cores, {free}"
    if memory.available < FREE_MEMORY:
        fix = "the default study takes about 2.2 GiB: end what else runs, or lower batch_rows"
        return warning("machine", text, fix)
    return ok("machine", text)


def disk(folder: Path) -> Check:
    """Free space where results are written, and whether they may be."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if not place.is_dir() or not os.access(place, os.W_OK):
        fix = "change its owner, or set NANOLAB_MLRUNS to a folder of yours"
        return problem("disk", f"{place} cannot be written", fix)
    found = f"{size(free)} free at {place}"
    fix = "`python -m nanolab clean` shows what can go"
    if free < NEEDED:
        return problem("disk", found, fix)
    if free < 5 * NEEDED:
        return warning("disk", found, f"enough for the default study; {fix}")
    return ok("disk", found)


def data(network: bool) -> Check:
    """The folder of real data, if one is named, and the hub."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if network:
        asked = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(asked, timeout=5).close()
        except OSError as error:
            found = f"{address} cannot be reached ({error})"
            return problem("data", found, "data.source embedded and local need no hub")
    hub = f"; {address} answers" if network else ""
    root = os.environ.get("NANOLAB_DATA")
    if not root:
        return ok("data", f"NANOLAB_DATA is not set: the embedded world needs no data{hub}")
    if not (ROOT / root).is_dir():
        fix = "set it to the folder of docs/data.md, or unset it"
        return problem("data", f"NANOLAB_DATA = {root} is not a folder", fix)
    parts = {part: (ROOT / root / part).is_dir() for part in ("text", "chat", "core")}
    has, lacks = ([part for part in parts if parts[part] == there] for there in (True, False))
    found = f"{root} has {', '.join(has) or 'none of text, chat, core'}{hub}"
    if lacks:
        fix = f"without {', '.join(lacks)} some steps of local studies are refused: docs/data.md"
        return warning("data", found, fix)
    return ok("data", found)


def port(number: int, user: str, fix: str) -> Check:
    """Whether a port that the command `user` opens is free, else who has it."""
    if port_fault("127.0.0.1", number):
        return warning(f"port {number}", f"taken by {holder(number)}", fix)
    return ok(f"port {number}", f"free for {user}")


def port_fault(host: str, number: int) -> OSError | None:
    """Why a port cannot be opened; None for one that can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            return error
    return None


def holder(number: int) -> str:
    """The process that listens on a port, as far as this user may know."""

    def find() -> str | None:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == number and found.pid:
                return f"process {found.pid} ({psutil.Process(found.pid).name()})"
        return None

    return fact(find) or "a process of another user"


# ---- this store


def tracking() -> Check:
    """The tracking store opens, is of MLflow's schema, and can be written."""
    try:
        uri = store_uri()
    except UserError as error:
        return problem("tracking", str(error), "docs/team.md")
    path = database_path(uri)
    if path is None:
        return _remote_store(uri)
    if not path.is_file() or not path.stat().st_size:
        return ok("tracking", f"no store at {path} yet: the first run makes it")
    if importlib.util.find_spec("mlflow") is None:
        return problem("tracking", "mlflow is not installed", "make setup")
    try:
        with closing(sqlite3.connect(path, timeout=5)) as connection:
            (version,) = connection.execute("select version_num from alembic_version").fetchone()
            connection.execute("begin immediate")
            connection.execute("create table nanolab_probe (written)")
            connection.rollback()
    except sqlite3.Error as error:
        return _fault(faults.fault(error, uri) or str(error))
    except TypeError:  # no row: the tables of a store are there, but nothing in them
        return _fault(faults.damaged_line(str(path), "it has no schema version"))
    if not faults.schema_versions().get(version):
        return _fault(faults.schema_line(str(path), uri, f"found version {version}"))
    return ok("tracking", f"{path}: {size(path.stat().st_size)}, schema {version}, writable")


def _remote_store(uri: str) -> Check:
    shown = masked(uri)
    if reason := store.unreachable(uri):
        found = f"{shown} does not answer ({masked(reason)})"
        return problem("tracking", found, "start it, or unset MLFLOW_TRACKING_URI")
    try:
        store.client().search_experiments(max_results=1)
    except UserError as error:
        return _fault(str(error))
    except Exception as error:  # a server that is none of MLflow's answers with what it likes
        found = f"{shown}: {masked(files.last_line(error))[:160]}"
        return problem("tracking", found, "docs/team.md")
    return ok("tracking", f"{'the server ' if is_server(uri) else ''}{shown} answers")


def _fault(line: str) -> Check:
    found, mark, fix = line.partition("): ")  # what the store said stands in parentheses
    found, fix = (f"{found})", fix) if mark else line.split(": ", 1)
    return problem("tracking", found, fix)


def dead_runs() -> Check:
    """RUNNING runs of processes of this machine that are no more."""
    path = files.MLRUNS / "mlflow.db"
    if not is_own(store_uri()) or not path.is_file() or not path.stat().st_size:
        return ok("runs", "not looked at: there is no store of that kind in mlruns/")
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        rows = connection.execute(RUNNING).fetchall()
    dead = []
    for study, tags in ((study, json.loads(text)) for study, text in rows):
        here = tags.get("nanolab.host") == run_writer.host() and "nanolab.pid" in tags
        if here and run_writer.process_start(int(tags["nanolab.pid"])) != tags["nanolab.started"]:
            dead.append(study)
    if not dead:
        return ok("runs", f"{len(rows)} running, none of a dead process")
    found = f"{len(dead)} RUNNING of ended processes ({', '.join(sorted(set(dead)))})"
    return warning("runs", found, "the study's next run marks them FAILED; nothing is lost")
