"""What takes the disk in mlruns/, and what of it no latest result needs. Imports no torch.

Kept, whatever is asked for but `everything`: what the latest finished executions of a study, their reports, steps that another
study reads, and registered models need. The rest is removable, each kind of it when it is chosen.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nanolab import files, pipeline, tracking
from nanolab.config import STEPS
from nanolab.plan import JOB, RESULT
from nanolab.schema import UserError

DAY = 86_400


@dataclass(frozen=True)
class Choice:
    """What may be removed."""

    studies: tuple[str, ...] = ()  # empty: all
    keep_latest: int = 1  # finished executions of each study, seed and source (run_all, a notebook) whose steps stay
    older_than: float = 0.0  # days since the last change
    unfinished: bool = False  # attempts that a run would go on from
    downloads: bool = (
        False  # files of the hub, and compiled kernels: brought or made again when needed
    )
    everything: bool = False  # of the named studies, what their latest results need too


@dataclass(frozen=True)
class Item:
    """A folder: what it is, its size in bytes, days since its last change, whether the choice removes it, and why or why not."""

    path: Path
    study: str  # empty for what belongs to no study
    kind: str
    size: int
    age: float
    removable: bool
    why: str


def survey(choice: Choice) -> list[Item]:
    """Everything that takes the disk, largest first. Raises UserError for a study that the store does not have."""
    work = files.MLRUNS / "work"
    have = sorted(path.name for path in work.iterdir() if path.is_dir()) if work.is_dir() else []
    for name in choice.studies:
        if name not in have:
            raise UserError(f"no study {name!r} in {work}; it has: {', '.join(have) or 'none'}")
    if choice.everything and not choice.studies:
        raise UserError(
            "--everything removes latest results too: name the studies with --study NAME"
        )
    if not 0 <= choice.older_than < float("inf"):
        raise UserError(f"--older-than {choice.older_than:g} must be a number of days, at least 0")
    if choice.keep_latest < 1:
        raise UserError(
            f"--keep-latest {choice.keep_latest} must be at least 1; --everything with --study NAME removes all of a study"
        )
    needed = needed_folders(have, choice)
    items = [
        item
        for study in have
        if not choice.studies or study in choice.studies
        for item in _study_items(work / study, needed, choice)
    ]
    if not choice.studies:
        items += [
            _item(files.MLRUNS / name, "", kind, choice.downloads, why, choice)
            for name, kind, why in (
                (
                    "hub",
                    "downloads",
                    "files of the hub: --downloads removes them, and they are fetched again",
                ),
                (
                    "native",
                    "cache",
                    "compiled kernels: --downloads removes them, and they are built again",
                ),
            )
            if (files.MLRUNS / name).is_dir()
        ]
        items += [
            _item(path, "", "artifacts", True, "of a run that was deleted in MLflow", choice)
            for path in deleted_artifacts()
        ]
    return sorted(items, key=lambda item: -item.size)


def needed_folders(studies: Iterable[str], choice: Choice) -> dict[Path, str]:
    """Work folders that must stay, each with why: of the latest finished executions, of registered models, and all that these read."""
    needed: dict[Path, str] = {}
    registered = set()
    for run_id in tracking.registered_runs():
        run = tracking.record(run_id)
        while parent := run.tags.get("mlflow.parentRunId"):
            run = tracking.record(parent)
        registered.add(run.id)
    for study in studies:
        if choice.everything and study in choice.studies:
            continue
        count: dict[tuple[str, ...], int] = {}
        for execution in tracking.executions(study):
            sort = (
                execution.params.get("seed", ""),
                execution.tags.get("mlflow.source.name", ""),
            )  # a notebook alone is no whole study
            latest = execution.status == "FINISHED" and count.get(sort, 0) < choice.keep_latest
            count[sort] = count.get(sort, 0) + latest
            if latest or execution.id in registered:
                why = (
                    "a registered model comes from it"
                    if execution.id in registered
                    else "the latest finished execution needs it"
                )
                needed[files.MLRUNS / "work" / study / "executions" / execution.id] = why
                runs = [
                    tracking.record(run)
                    for key, run in execution.tags.items()
                    if key.startswith("reused.")
                ]
                for run in [*runs, *tracking.children(execution.id)]:
                    if "work_folder" in run.tags:
                        needed.setdefault(files.MLRUNS / run.tags["work_folder"], why)
        for step in STEPS:  # model_tag and notebooks take the newest finished folder
            finished = [
                path.parent
                for path in (files.MLRUNS / "work" / study / step).glob(f"*/{RESULT}")
                if not _is_aside(path.parent)
            ]
            if finished:
                newest = max(finished, key=lambda path: (path / RESULT).stat().st_mtime)
                needed.setdefault(newest, "the newest result of its step")
    waiting = list(needed)
    while waiting:
        job = waiting.pop() / JOB
        for read in files.read_json(job)["inputs"].values() if job.is_file() else ():
            folder = Path(os.path.normpath(files.MLRUNS / read))
            if folder not in needed:
                needed[folder] = (
                    f"{job.parent.parent.parent.name} {job.parent.parent.name} reads it"
                )
                waiting.append(folder)
    return needed


def _study_items(study: Path, needed: dict[Path, str], choice: Choice) -> list[Item]:
    whole = choice.everything and study.name in choice.studies
    items = []
    for folder in sorted(
        path for group in study.iterdir() if group.is_dir() for path in _parts(group)
    ):
        group = folder.parent.name if folder.parent != study else folder.name
        if folder in needed:
            removable, why = False, needed[folder]
        elif whole:
            removable, why = True, "--everything"
        elif group == "seeds":
            removable, why = False, "mean and spread over seeds"
        elif group == "executions":
            removable, why = (
                True,
                "executed notebooks and log of an older execution; the notebooks are in MLflow too",
            )
        elif _is_aside(folder):
            removable, why = True, "set aside by --fresh"
        elif (folder / RESULT).is_file():
            removable, why = True, "a result with other settings or of older code"
        else:
            removable, why = (
                choice.unfinished,
                "an unfinished attempt, from which a run with its settings goes on"
                + ("" if choice.unfinished else ": --unfinished removes it"),
            )
        items.append(_item(folder, study.name, group, removable, why, choice))
    return items


def _parts(group: Path) -> list[Path]:
    """The folders of a step; `seeds` is one as a whole."""
    return (
        [group]
        if group.name == "seeds"
        else [path for path in group.iterdir() if path.is_dir() and not path.is_symlink()]
    )


def _is_aside(folder: Path) -> bool:
    return re.fullmatch(r"[0-9a-f]{12}\.\d+", folder.name) is not None


def _item(path: Path, study: str, kind: str, removable: bool, why: str, choice: Choice) -> Item:
    stats = [file.lstat() for file in path.rglob("*") if not file.is_dir() or file.is_symlink()]
    age = (time.time() - max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)) / DAY
    if removable and age < choice.older_than:
        removable, why = False, f"{age:.0f} days old, --older-than {choice.older_than:g}"
    return Item(path, study, kind, sum(stat.st_size for stat in stats), age, removable, why)


def deleted_artifacts() -> list[Path]:
    """Artifact folders of runs that were deleted in the store of mlruns/; a server keeps its own."""
    database = files.MLRUNS / "mlflow.db"
    if tracking.store_uri() != f"sqlite:///{database}" or not database.is_file():
        return []
    connection = sqlite3.connect(database, timeout=30)
    try:
        rows = connection.execute(
            "select artifact_uri from runs where lifecycle_stage = 'deleted'"
        ).fetchall()
    finally:
        connection.close()
    folders = [Path(uri.removeprefix("file://")).parent for (uri,) in rows if uri]
    return [
        folder
        for folder in folders
        if folder.is_dir() and folder.is_relative_to(files.MLRUNS / "artifacts")
    ]


def plan_id(items: list[Item]) -> str:
    """8 hex digits that name what would be removed: equal when the same folders with the same sizes would be."""
    chosen = sorted(
        f"{item.path.relative_to(files.MLRUNS)} {item.size}\n" for item in items if item.removable
    )
    return files.sha256_text("".join(chosen))[:8]


def remove(choice: Choice, agreed: str) -> list[Item]:
    """Removes what the choice removes and returns it; `agreed` is the plan id that a person saw.

    Holds every study meanwhile. Raises UserError when one is being run, or when the plan is no longer the one that was seen.
    """
    with ExitStack() as held:
        work = files.MLRUNS / "work"
        for study in (
            sorted(path.name for path in work.iterdir() if path.is_dir()) if work.is_dir() else []
        ):
            held.enter_context(
                pipeline.study_lock(study)
            )  # all: any study may read what is removed
        items = survey(choice)
        if plan_id(items) != agreed:
            raise UserError(
                f"plan {agreed} is no longer what would be removed, which is now plan {plan_id(items)}: look at it again"
            )
        removed = [item for item in items if item.removable]
        for item in removed:
            assert item.path.is_relative_to(files.MLRUNS) and item.path != files.MLRUNS, item.path
            shutil.rmtree(item.path)
    return removed
