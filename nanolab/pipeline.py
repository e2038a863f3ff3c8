"""Runs a study's steps: reuse, launch, resume, failure, one execution at a time. Imports no torch.

A kernel launches a stage and carries its journal to MLflow meanwhile. Steps are planned from their work folders, so that
a stage starts before mlflow is imported; a finished step that MLflow lacks is replayed into it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab import (
    durations,
    files,
    launch,
    live,
    machines,
    tracking,
    tracking_notes,
    tracking_views,
)
from nanolab.config import STEPS, StudyConfig
from nanolab.courier import Courier
from nanolab.plan import (
    ERROR,
    JOB,
    LOG,
    RESULT,
    Step,
    job_of,
    plan,
    resolve,
    step_config,
    steps_of,
    write_job,
)
from nanolab.report import environment
from nanolab.schema import UserError, to_dict


@dataclass
class StageResult:
    """What a notebook gets: final metrics, work folders and run ids by step, its upstream steps included."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    own: list[str] = field(default_factory=list)  # the steps of the stage itself


def run_stage(
    stage: str,
    parameters: dict[str, Any] | None = None,
    experiment: str = "smoke",
    parent_run_id: str | None = None,
    fresh: bool = False,
) -> StageResult:
    """Runs the steps of a stage, and first the missing steps that they read.

    `parameters` is the stage's whole config (None: the study's); `experiment` a study's name or YAML file;
    `parent_run_id` the execution that the runs belong to (None or "": a new one); `fresh` runs the stage's own steps
    anew. Raises UserError before anything starts for a person's mistake, launch.StageFailed when a process fails.
    """
    study = resolve(stage, parameters, experiment)
    if stage == "report":
        return _run_report(study, parent_run_id or "")
    own = steps_of(stage, study)
    missing, reused = missing_steps(plan(study, own), own, fresh)
    if study.launch.node_rank > 0:
        return _take_part(study, own, missing, reused)
    parent, source = parent_run_id or "", f"notebooks/{STEPS[own[0]].notebook}.ipynb"
    with study_lock(study.experiment, parent), Execution(study, parent, source) as execution:
        execution.fill(missing, reused, own if fresh else [])
        execution.result.own = own
    return execution.result


def missing_steps(
    planned: dict[str, Step], own: list[str], fresh: bool
) -> tuple[list[Step], list[Step]]:
    """Of the planned steps, those to run now, in order, and the finished ones that are used."""
    missing: dict[str, Step] = {}
    reused: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.finished and not (fresh and step.name in own):
            reused[step.name] = step
        elif step.name not in missing:
            for needed in step.inputs.values():
                visit(needed)
            missing[step.name] = step

    for name in own:
        visit(planned[name])
    return list(missing.values()), list(reused.values())


@contextlib.contextmanager
def study_lock(experiment: str, owner: str = "") -> Iterator[Callable[[str], None]]:
    """Holds a study, and gives a function that tells others the execution it is held for.

    A notebook whose parent run is the holder's execution passes. Raises UserError when somebody else has the study.
    """
    path = files.MLRUNS / "work" / experiment / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            announce = stack.enter_context(files.file_lock(path, wait=False))
            announce(f"{owner or '-'} process {os.getpid()}")
        except BlockingIOError as error:
            holder, _, who = path.read_text().partition(" ")
            if not owner or holder != owner:
                raise UserError(
                    f"study {experiment!r} is being run by {who or 'another process'}: wait for it, stop it, "
                    "or give this study another name (experiment: NAME)"
                ) from error
        yield lambda run_id: announce(f"{run_id} process {os.getpid()}")


def is_running(experiment: str) -> bool:
    """Whether a live process holds a study."""
    return files.is_locked(files.MLRUNS / "work" / experiment / ".lock")


def open_execution(study: StudyConfig, source: str) -> str:
    """Opens the parent run of an execution, with the environment it runs in, and returns its id."""
    seed = f" seed {study.seed}" if study.seeds else ""
    name = f"{study.experiment}{seed} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    facts = environment.capture(study.hourly_rates)
    return tracking.open_execution(
        to_dict(study), name, source, {"environment.json": json.dumps(facts, indent=1)}
    )


def close_execution(run_id: str, status: str) -> None:
    """Ends the parent run of an execution, and writes what people read of it: descriptions, main results, views."""
    tracking.close_run(run_id, status)
    tracking_notes.describe_execution(run_id)
    tracking_views.save_views(run_id)


class Execution:
    """One execution of a study, or of a part of it: runs and reuses steps below one parent run."""

    def __init__(self, study: StudyConfig, parent: str, source: str):
        self.study, self.source = study, source
        self.result = StageResult()
        self._parent, self._opened = parent, False

    def parent(self) -> str:
        """The parent run, opened when it is first needed."""
        if not self._parent:
            self._parent, self._opened = open_execution(self.study, self.source), True
        return self._parent

    def run(self, step: Step, fresh: bool = False) -> None:
        """Launches a step and waits for it; an earlier attempt in its folder is gone on with, unless `fresh`."""
        aside = _set_aside(step.folder) if fresh and step.folder.exists() else None
        attempt = Attempt(step)
        (step.folder / ERROR).unlink(missing_ok=True)
        job_file = write_job(job_of(self.study, step))
        settings = self.study.launch
        process = launch.Stage(
            launch.command(job_file, settings), step.folder / LOG, launch.threads(settings)
        )
        courier = Courier(
            step.folder, lambda: self._open_step(step, attempt, aside), process.terminate
        )
        try:
            with live.view(step.name, step.folder, resumed=attempt.number > 1) as show:
                process.wait(show)
        except BaseException as error:
            attempt.end("FAILED")
            courier.finish("FAILED")
            if isinstance(error, launch.StageFailed) and (step.folder / ERROR).is_file():
                raise UserError(
                    f"{step.name}: {files.read_json(step.folder / ERROR)['message']}"
                ) from error
            if (
                isinstance(error, launch.StageFailed) and error.mistake
            ):  # a full disk has no room for the file either
                raise UserError(f"{step.name}: {error.mistake}") from error
            raise
        attempt.end("FINISHED")
        self._add(step, courier.finish("FINISHED", step.result()))

    def reuse(self, step: Step) -> None:
        """Notes a finished step: its metrics, and on the parent run a tag that leads to the run which made it."""
        self.result.reused.add(step.name)
        run_id = ""
        if step.config is not None:  # a step of another study is named by the run that reads it
            found = tracking.find_finished(self.study.experiment, step.name, step.fingerprint)
            run_id = found.id if found else self._replay(step)
            if found and found.tags.get("mlflow.parentRunId") != self.parent():
                tracking.set_tag(self.parent(), f"reused.{step.name}", run_id)
        self._add(step, run_id)

    def fill(self, missing: list[Step], reused: list[Step], fresh: list[str]) -> None:
        """Runs the missing steps, those of `fresh` anew, and notes the finished ones."""
        for step in missing:
            self.run(step, step.name in fresh)
        for step in reused:
            self.reuse(step)

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Ends the parent run, if this execution opened it."""
        if self._opened:
            close_execution(self._parent, "FAILED" if kind else "FINISHED")

    def _add(self, step: Step, run_id: str) -> None:
        self.result.metrics[step.name] = step.result()
        self.result.folders[step.name] = step.folder
        self.result.run_ids[step.name] = run_id

    def _open_step(self, step: Step, attempt: Attempt, aside: Path | None = None) -> str:
        if aside is not None:
            tracking.supersede(
                self.study.experiment,
                step.name,
                step.fingerprint,
                os.path.relpath(aside, files.MLRUNS),
            )
        tags = {
            "stage": STEPS[step.name].stage,
            "source": self.source,
            "work_folder": os.path.relpath(step.folder, files.MLRUNS),
            "attempt": str(attempt.number),
            "earlier_seconds": f"{attempt.earlier_seconds:.3f}",
            **{
                f"input.{name}": os.path.relpath(given.folder, files.MLRUNS)
                for name, given in step.inputs.items()
            },
        }
        return tracking.open_step(
            self.study.experiment,
            self.parent(),
            step.name,
            step.fingerprint,
            _params(self.study, step.config),
            tags,
            round(attempt.started * 1000),
            numbered(self.study, step.name),
        )

    def _replay(self, step: Step) -> str:
        """Brings a finished step into a store that lacks its finished run: one killed at its very end, or a new store."""
        result = files.read_json(step.folder / RESULT)
        attempt = Attempt(step, result["started"])
        return Courier(step.folder, lambda: self._open_step(step, attempt)).finish(
            "FINISHED", result["metrics"], result["ended"]
        )


class Attempt:
    """One try at a step; the seconds of earlier tries count in the wall clock."""

    def __init__(self, step: Step, started: float | None = None):
        """A try that starts now, or (`started`) the one that finished the step."""
        self._path = step.folder / durations.ATTEMPTS
        tries = files.read_json(self._path) if self._path.is_file() else []
        for tried in tries:
            if tried["seconds"] is None:  # killed: its last sign of life is in the log
                log = step.folder / LOG
                tried["seconds"] = (
                    max(0.0, log.stat().st_mtime - tried["started"]) if log.is_file() else 0.0
                )
        self._earlier = [
            tried for tried in tries if started is None or tried["status"] != "FINISHED"
        ]
        self.started = time.time() if started is None else started
        self.number = len(self._earlier) + 1
        self.earlier_seconds = sum(tried["seconds"] for tried in self._earlier)
        if started is None:
            self._write(None, "FAILED")

    def end(self, status: str) -> None:
        """Keeps how long this try took."""
        self._write(time.time() - self.started, status)

    def _write(self, seconds: float | None, status: str) -> None:
        files.write_json(
            self._path,
            [*self._earlier, {"started": self.started, "seconds": seconds, "status": status}],
        )


def _run_report(study: StudyConfig, parent: str) -> StageResult:
    """Compiles the report of an execution (default: `execution_to_report`).

    A study that has none gets one here: its missing steps are run first, as every notebook does with the steps that it reads.
    """
    source = f"notebooks/{STEPS['report'].notebook}.ipynb"
    if parent := parent or execution_to_report(study.experiment):
        return _compile_report(Execution(study, parent, source))
    own = [step for step in study.steps if step != "report"]
    missing, reused = missing_steps(plan(study, own), own, False)
    with study_lock(study.experiment), Execution(study, "", source) as execution:
        execution.fill(missing, reused, [])
        return _compile_report(execution)


def execution_to_report(experiment: str) -> str:
    """The execution that a report is about where none is named: the latest of run_all, else the latest that finished; "" without one."""
    executions = tracking.executions(experiment)
    whole = [run for run in executions if run.tags.get("mlflow.source.name") == tracking.RUN_ALL]
    finished = [
        run for run in executions if run.status == "FINISHED"
    ]  # of notebooks run alone: an execution of a few steps each
    return next((run.id for run in [*whole, *finished]), "")


def _compile_report(execution: Execution) -> StageResult:
    """Runs step report below an execution's parent run, in this process."""
    study, parent = execution.study, execution.parent()
    step = Step(
        "report",
        study.report,
        parent[:12],
        files.work_folder(study.experiment, "report", parent[:12]),
    )
    if step.folder.exists():
        shutil.rmtree(step.folder)  # made again from the same records
    write_job(job_of(study, step))
    attempt = Attempt(step)
    run_id = execution._open_step(step, attempt)
    courier = Courier(step.folder, lambda: run_id)
    try:
        with tracking.Run(step.folder, run_id) as run:
            metrics = importlib.import_module("nanolab.stages.report").run(job_of(study, step), run)
        files.write_json(
            step.folder / RESULT,
            {
                "step": "report",
                "metrics": metrics,
                "started": attempt.started,
                "ended": time.time(),
            },
        )
        attempt.end("FINISHED")
    except BaseException:
        attempt.end("FAILED")
        courier.finish("FAILED")
        raise
    execution._add(step, courier.finish("FINISHED", metrics))
    execution.result.own = ["report"]
    return execution.result


def _take_part(
    study: StudyConfig, own: list[str], missing: list[Step], reused: list[Step]
) -> StageResult:
    """What a stage is on machines after the first, which keeps the records."""
    result = StageResult(reused={step.name for step in reused}, own=own)
    for step in missing:
        with live.view(step.name, step.folder) as show:
            machines.run_step(study, step, show)
    for step in [*missing, *reused]:
        result.metrics[step.name], result.folders[step.name] = step.result(), step.folder
    return result


def numbered(study: StudyConfig, step: str) -> str:
    """The name of a step's run: its place in the study first, so that runs sorted by name stand in order."""
    return f"{study.steps.index(step) + 1:02d} {step}" if step in study.steps else step


def _params(study: StudyConfig, config: Any) -> dict[str, Any]:
    """The whole config of a step, and what it takes from the study."""
    return {
        **to_dict(config),
        "study": {"seed": study.seed},
        "data": to_dict(study.data),
        "launch": to_dict(study.launch),
    }


def set_steps_aside(study: StudyConfig, steps: list[Step]) -> None:
    """Sets the work folders of steps aside, so that they are run anew."""
    for step in steps:
        if step.folder.exists():
            aside = _set_aside(step.folder)
            tracking.supersede(
                study.experiment, step.name, step.fingerprint, os.path.relpath(aside, files.MLRUNS)
            )


def _set_aside(folder: Path) -> Path:
    """Renames a work folder, so that the step starts anew, and gives its new place."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(target)
    return target


__all__ = [
    "JOB",
    "LOG",
    "Execution",
    "StageResult",
    "open_execution",
    "plan",
    "run_stage",
    "set_steps_aside",
    "step_config",
    "study_lock",
]
