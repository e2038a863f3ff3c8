"""What takes the disk in mlruns/, and what of it no latest result needs. Imports no torch.

Kept, whatever is asked for but `everything`: what the latest finished executions of a study, their
reports, steps that another study reads, and registered models need. The rest is removable, each
kind of it when it is chosen.
"""

import os
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nanolab import artefacts, files
from nanolab.errors import UserError
from nanolab.pipeline.spread import FOLDER as SEEDS
from nanolab.pipeline.study_lock import study_lock
from nanolab.plan.steps import JOB, is_aside, newest_result
from nanolab.settings.config import STEPS
from nanolab.tracking import run_reader
from nanolab.tracking.address import is_own, store_uri
from nanolab.tracking.faults import guarded

DAY = 86_400
SHARED = {  # folders of mlruns/ that belong to no study: their kind, and why they may go
    "hub": ("downloads", "files of the hub: --downloads removes them, and they are fetched again"),
    "models": ("downloads", "prepared models: --downloads removes them, made again when asked"),
    "native": ("cache", "compiled kernels: --downloads removes them, and they are built again"),
}


@dataclass(frozen=True)
class Choice:
    """What may be removed."""

    studies: tuple[str, ...] = ()  # empty: all
    # finished executions of each study, seed and source (run_all, a notebook) whose steps stay
    keep_latest: int = 1
    older_than: float = 0.0  # days since the last change
    unfinished: bool = False  # attempts that a run would go on from
    downloads: bool = False  # files of the hub, and compiled kernels
    everything: bool = False  # of the named studies, what their latest results need too


@dataclass(frozen=True)
class Item:
    """A folder of mlruns/."""

    path: Path
    study: str  # empty for what belongs to no study
    kind: str
    size: int  # bytes
    age: float  # days since its last change
    removable: bool
    why: str  # it is removable, or not


def survey(choice: Choice) -> list[Item]:
    """Everything that takes the disk, largest first. Raises UserError for an unknown study."""
    have = _studies()
    _check(choice, have)
    needed = _needed_folders(have, choice)
    items = []
    for study in choice.studies or have:
        place = files.MLRUNS / "work" / study
        found = [path for path in place.glob("*/*") if path.is_dir() and not path.is_symlink()]
        folders = {path: path.parent.name for path in found if path.parent.name != SEEDS}
        folders |= {place / SEEDS: SEEDS} if (place / SEEDS).is_dir() else {}
        for folder, kind in sorted(folders.items()):
            items.append(_item(folder, study, kind, *_fate(folder, kind, needed, choice), choice))
    if not choice.studies:
        for name, (kind, why) in SHARED.items():
            if (files.MLRUNS / name).is_dir():
                items.append(_item(files.MLRUNS / name, "", kind, choice.downloads, why, choice))
        why = "of a run that was deleted in MLflow"
        items += [_item(path, "", "artifacts", True, why, choice) for path in _deleted_artifacts()]
    return sorted(items, key=lambda item: -item.size)


def _studies() -> list[str]:
    return sorted(path.name for path in (files.MLRUNS / "work").glob("*") if path.is_dir())


def _check(choice: Choice, have: list[str]) -> None:
    for name in choice.studies:
        if name not in have:
            place = files.MLRUNS / "work"
            raise UserError(f"no study {name!r} in {place}; it has: {', '.join(have) or 'none'}")
    if choice.everything and not choice.studies:
        raise UserError(
            "--everything removes latest results too: name the studies with --study NAME"
        )
    if not 0 <= choice.older_than < float("inf"):
        raise UserError(f"--older-than {choice.older_than:g} must be a number of days, at least 0")
    if choice.keep_latest < 1:
        raise UserError(
            f"--keep-latest {choice.keep_latest} must be at least 1; --everything with --study NAME"
            " removes all of a study"
        )


def _needed_folders(studies: list[str], choice: Choice) -> dict[Path, str]:
    """Work folders that must stay, each with why: of the latest finished executions, of registered
    models, and all that these read.
    """
    needed: dict[Path, str] = {}
    registered = set()
    for run in map(run_reader.record, run_reader.registered_runs()):
        while parent := run.tags.get("mlflow.parentRunId"):
            run = run_reader.record(parent)
        registered.add(run.id)
    for study in studies:
        if not (choice.everything and study in choice.studies):
            _add_needed(needed, study, registered, choice.keep_latest)
    waiting = list(needed)
    while waiting:
        job = waiting.pop() / JOB
        study, step = job.parts[-4:-2]
        for read in files.read_json(job)["inputs"].values() if job.is_file() else ():
            folder = Path(os.path.normpath(files.MLRUNS / read))
            if folder not in needed:
                needed[folder] = f"{study} {step} reads it"
                waiting.append(folder)
    return needed


def _add_needed(needed: dict[Path, str], study: str, registered: set[str], keep: int) -> None:
    count: Counter[tuple[str, ...]] = Counter()
    for execution in run_reader.executions(study):
        # a notebook alone is no whole study
        sort = execution.params.get("seed", ""), execution.tags.get("mlflow.source.name", "")
        latest = execution.status == "FINISHED" and count[sort] < keep
        count[sort] += latest
        if not latest and execution.id not in registered:
            continue
        is_model = execution.id in registered
        why = (
            "a registered model comes from it"
            if is_model
            else "the latest finished execution needs it"
        )
        needed[files.MLRUNS / "work" / study / "executions" / execution.id] = why
        reused = map(run_reader.record, execution.reused.values())
        for run in [*reused, *run_reader.children(execution.id)]:
            if "work_folder" in run.tags:
                needed.setdefault(files.MLRUNS / run.tags["work_folder"], why)
    for step in STEPS:  # model_tag and notebooks take the newest finished folder
        if newest := newest_result(study, step):
            needed.setdefault(newest, "the newest result of its step")


def _fate(folder: Path, kind: str, needed: dict[Path, str], choice: Choice) -> tuple[bool, str]:
    """Whether a folder of a study may be removed, and why or why not."""
    if folder in needed:
        return False, needed[folder]
    if choice.everything:  # of this study: others are not looked at
        return True, "--everything"
    if kind == SEEDS:
        return False, "mean and spread over seeds"
    if kind == "executions":
        why = "executed notebooks and log of an older execution; the notebooks are in MLflow too"
        return True, why
    if is_aside(folder):
        return True, "set aside by --fresh"
    if artefacts.is_finished(folder):
        return True, "a result with other settings or of older code"
    why = "an unfinished attempt, from which a run with its settings goes on"
    return choice.unfinished, why if choice.unfinished else f"{why}: --unfinished removes it"


def _item(path: Path, study: str, kind: str, removable: bool, why: str, choice: Choice) -> Item:
    stats = [file.lstat() for file in path.rglob("*") if not file.is_dir() or file.is_symlink()]
    age = (time.time() - max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)) / DAY
    if removable and age < choice.older_than:
        removable, why = False, f"{age:.0f} days old, --older-than {choice.older_than:g}"
    return Item(path, study, kind, sum(stat.st_size for stat in stats), age, removable, why)


def _deleted_artifacts() -> list[Path]:
    """Artifact folders of runs that were deleted in the store of mlruns/."""
    database = files.MLRUNS / "mlflow.db"
    if not is_own(uri := store_uri()) or not database.is_file():
        return []

    def deleted() -> list[tuple[str]]:
        query = "select artifact_uri from runs where lifecycle_stage = 'deleted'"
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            return connection.execute(query).fetchall()

    places = [found for (found,) in guarded(uri, deleted) if found]
    paths = [url2pathname(urlsplit(one).path) if one.startswith("file:") else one for one in places]
    folders = [Path(path).parent for path in paths]
    own = files.MLRUNS / "artifacts"
    return [folder for folder in folders if folder.is_dir() and folder.is_relative_to(own)]


def plan_id(items: list[Item]) -> str:
    """8 hex digits that name what would be removed: the folders and their sizes."""
    chosen = sorted(
        f"{item.path.relative_to(files.MLRUNS)} {item.size}\n" for item in items if item.removable
    )
    return files.sha256_text("".join(chosen))[:8]


def remove(choice: Choice, agreed: str) -> list[Item]:
    """Removes what the choice removes and returns it; `agreed` is the plan id that a person saw.

    Holds every study meanwhile. Raises UserError when one is being run, or when the plan is no
    longer the one that was seen.
    """
    with ExitStack() as held:
        for study in _studies():  # all: any study may read what is removed
            held.enter_context(study_lock(study))
        items = survey(choice)
        if plan_id(items) != agreed:
            raise UserError(
                f"plan {agreed} is no longer what would be removed, which is now plan"
                f" {plan_id(items)}: look at it again with the same command without --yes"
            )
        removed = [item for item in items if item.removable]
        for item in removed:
            assert item.path.is_relative_to(files.MLRUNS) and item.path != files.MLRUNS, item.path
            shutil.rmtree(item.path)
    return removed
