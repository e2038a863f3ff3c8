"""Runs a study's steps: reuse, launch, resume, failure. Imports no torch.

Steps are planned from their work folders, so that a stage starts before mlflow is imported; a
finished step that MLflow lacks is replayed into it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab import artefacts, files
from nanolab.errors import UserError
from nanolab.notebook import live
from nanolab.pipeline import failures, launch, machines
from nanolab.pipeline.study_lock import study_lock
from nanolab.plan import steps as planning
from nanolab.plan.durations import Attempt
from nanolab.plan.parameters import RunParameters, check
from nanolab.plan.steps import Step, plan
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.schema import to_dict
from nanolab.tracking import environment, notes, run_reader, run_writer, views
from nanolab.tracking.courier import Courier
from nanolab.tracking.journal import Run, drop_damaged_end, status_of


@dataclass
class StageResult:
    """What a notebook gets: final metrics, work folders and run ids by step."""

    own: list[str] = field(default_factory=list)  # the steps of the stage itself
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)  # machine 0 alone knows them
    reused: set[str] = field(default_factory=set)

    def add(self, step: Step, run_id: str = "") -> None:
        """Takes in a finished step."""
        self.metrics[step.name] = step.result()
        self.folders[step.name] = step.folder
        if run_id:
            self.run_ids[step.name] = run_id


def run_stage(
    stage: str,
    parameters: dict[str, Any] | None = None,
    experiment: str = "smoke",
    parent_run_id: str | None = None,
    fresh: bool = False,
) -> StageResult:
    """Runs the steps of a stage, and first the missing steps that they read.

    `parameters` is the stage's whole config (None: the study's); `experiment` a study's name or
    YAML file; `parent_run_id` the execution that the runs belong to (None or "": a new one, of a
    report `execution_to_report`, or one that first runs what is missing); `fresh` runs the stage's
    own steps anew. Raises UserError before anything starts for a person's mistake,
    launch.StageFailed when a process fails.
    """
    given = {"experiment": experiment, "parent_run_id": parent_run_id, "fresh": fresh}
    check(RunParameters, given, stage, parameters)
    study = planning.resolve(stage, parameters, experiment)
    parent, is_report = parent_run_id or "", stage == "report"
    if parent and (study.launch.node_rank == 0 or is_report):
        check_parent(study.experiment, parent)
    own = needed = planning.steps_of(stage, study)
    if is_report:
        parent = parent or execution_to_report(study.experiment)
        needed = [] if parent else [step for step in study.steps if step != "report"]
    anew = own if fresh and not is_report else []
    planned = plan(study, needed) if needed else {}
    missing, reused = planning.missing_steps(planned, needed, bool(anew))
    if study.launch.node_rank > 0 and not is_report:
        return _take_part(study, own, missing, reused)
    # a report only reads, beside whoever runs the study
    lock = study_lock(study.experiment, parent) if needed else nullcontext()
    execution = Execution(study, parent, f"notebooks/{STEPS[own[0]].notebook}.ipynb")
    with lock, execution:
        for step in missing:
            execution.run(step, step.name in anew)
        for step in reused:
            execution.reuse(step)
        if is_report:
            execution.compile_report()
    execution.result.own = own
    return execution.result


def check_parent(experiment: str, run_id: str) -> None:
    """Raises UserError for a `parent_run_id` that is no execution of the study."""
    given = f"parent_run_id = {run_id!r}"
    wanted = f"give that of an execution of {experiment!r}, or leave it empty for a new one"
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        raise UserError(
            f"{given} is no id of a run, which has 32 of the digits 0-9 and a-f: {wanted}"
        )
    if (files.MLRUNS / "work" / experiment / "executions" / run_id).is_dir():
        return  # of run_all: no need to ask the store, which takes seconds
    try:
        run = run_reader.record(run_id)
    except UserError as error:
        raise UserError(f"{given}: {error}; {wanted}") from error
    if run.tags.get("nanolab.kind") != "execution" or run.params.get("experiment") != experiment:
        raise UserError(f"{given} is the run {run.name!r}: {wanted}")


def execution_to_report(experiment: str) -> str:
    """The execution that a report is about where none is named: the latest of run_all, else the
    latest that finished (a notebook's, of a few steps); "" without one.
    """
    executions = run_reader.executions(experiment)
    whole = [run.id for run in executions if run.is_whole_study]
    finished = [run.id for run in executions if run.status == "FINISHED"]
    return next(iter(whole + finished), "")


def _take_part(
    study: StudyConfig, own: list[str], missing: list[Step], reused: list[Step]
) -> StageResult:
    result = StageResult(own, reused={step.name for step in reused})
    for step in missing:
        with live.view(step.name, step.folder) as show:
            machines.run_step(study, step, show)
    for step in [*missing, *reused]:
        result.add(step)
    return result


def open_execution(study: StudyConfig, source: str) -> str:
    """Opens the parent run of an execution, with the environment it runs in, and returns its id."""
    seed = f" seed {study.seed}" if study.seeds else ""
    name = f"{study.experiment}{seed} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    texts = {"environment.json": json.dumps(environment.capture(study.hourly_rates), indent=1)}
    try:
        return run_writer.open_execution(to_dict(study), name, source, texts)
    except UserError:
        raise  # a fault of the store: it takes no more
    except BaseException as error:  # it may be open already
        run_writer.sweep(study.experiment, status_of(error), own=True)
        raise


def close_execution(run_id: str, status: str) -> None:
    """Ends the parent run of an execution, and writes what people read of it."""
    run_writer.close_run(run_id, status)
    notes.describe_execution(run_id)
    views.save_views(run_id)


class Execution:
    """One execution of a study, or of a part of it: runs and reuses steps below one parent run,
    which is opened when it is first needed, and then ended here.
    """

    def __init__(self, study: StudyConfig, parent: str, source: str):
        self.study = study
        self.source = source
        self.result = StageResult()
        self._parent = parent
        self._opened = False

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._opened:
            close_execution(self._parent, status_of(error))

    def _parent_run(self) -> str:
        if not self._parent:
            self._parent = open_execution(self.study, self.source)
            self._opened = True
        return self._parent

    def run(self, step: Step, fresh: bool = False) -> None:
        """Launches a step and waits for it; goes on with an earlier attempt, unless `fresh`."""
        aside = set_aside(step.folder) if fresh and step.folder.exists() else None
        if why := step.why_again:
            print(f"{step.name}: {why}", flush=True)
            (step.folder / artefacts.RESULT).unlink()  # it is written again at the end
        drop_damaged_end(step.folder)  # before anybody reads what the attempt records
        attempt = Attempt(step)
        failures.clear(step.folder)
        job = planning.write_job(planning.job_of(self.study, step))
        process = launch.start(job, self.study.launch, planning.LOG)
        # in a thread: MLflow's slow import overlaps with the stage's start
        courier = Courier(
            step.folder, lambda: self._open_step(step, attempt, aside), process.terminate
        )
        with (
            self._recorded(step, attempt, courier),
            live.view(step.name, step.folder, resumed=attempt.number > 1) as show,
        ):
            process.wait(show)

    def compile_report(self) -> None:
        """Runs step report below the parent run, in this process, from the same records anew."""
        step = planning.report_step(self.study, self._parent_run())
        if step.folder.exists():
            shutil.rmtree(step.folder)
        job = planning.job_of(self.study, step)
        planning.write_job(job)
        attempt = Attempt(step)
        run_id = self._open_step(step, attempt)
        with self._recorded(step, attempt, Courier(step.folder, lambda: run_id)):
            with Run(step.folder, run_id) as run:
                metrics = importlib.import_module("nanolab.stages.report").run(job, run)
            artefacts.write_result(step.folder, "report", metrics, attempt.started)

    @contextmanager
    def _recorded(self, step: Step, attempt: Attempt, courier: Courier) -> Iterator[None]:
        """Ends an attempt and its run as what is done meanwhile ends."""
        try:
            yield
        except BaseException as error:
            attempt.end(status_of(error))
            run_id = courier.finish(status_of(error))
            if isinstance(error, launch.StageFailed):
                run_writer.set_tag(run_id, "failure", error.reason)
                error.raise_mistake(step.name)
            raise
        attempt.end("FINISHED")
        self.result.add(step, courier.finish("FINISHED", step.result()))

    def reuse(self, step: Step) -> None:
        """Notes a finished step, and on the parent run the run which made it."""
        self.result.reused.add(step.name)
        run_id = ""
        if step.config is not None:  # a step of another study is named by the run that reads it
            found = run_reader.find_finished(self.study.experiment, step.name, step.fingerprint)
            run_id = found.id if found else self._replay(step)
            if found and found.tags.get("mlflow.parentRunId") != self._parent_run():
                run_writer.set_tag(self._parent_run(), f"reused.{step.name}", run_id)
        self.result.add(step, run_id)

    def _replay(self, step: Step) -> str:
        """Brings a finished step into a store that lacks its finished run."""
        artefacts.verified(step.folder)
        result = artefacts.read_result(step.folder)
        attempt = Attempt(step, result["started"])
        courier = Courier(step.folder, lambda: self._open_step(step, attempt))
        return courier.finish("FINISHED", result["metrics"], result["ended"])

    def _open_step(self, step: Step, attempt: Attempt, aside: Path | None = None) -> str:
        study, name = self.study, step.name
        if aside is not None:
            run_writer.supersede(study.experiment, name, step.fingerprint, aside)
        # its place in the study first, for an order by name
        place = f"{study.steps.index(name) + 1:02d} " if name in study.steps else ""
        folders = {"work_folder": step.folder}
        folders |= {f"input.{read}": given.folder for read, given in step.inputs.items()}
        tags = {
            "mlflow.runName": place + name,
            "stage": STEPS[name].stage,
            "source": self.source,
            "attempt": str(attempt.number),
            "earlier_seconds": f"{attempt.earlier_seconds:.3f}",
            **{key: os.path.relpath(folder, files.MLRUNS) for key, folder in folders.items()},
        }
        parts = {"data": to_dict(study.data), "launch": to_dict(study.launch)}
        params = {**to_dict(step.config), "study": {"seed": study.seed}, **parts}
        parent, start = self._parent_run(), round(attempt.started * 1000)
        return run_writer.open_step(parent, name, step.fingerprint, params, tags, start)


def set_steps_aside(study: StudyConfig, steps: list[Step]) -> None:
    """Sets the work folders of steps aside, so that they are run anew."""
    for step in steps:
        if step.folder.exists():
            aside = set_aside(step.folder)
            run_writer.supersede(study.experiment, step.name, step.fingerprint, aside)


def set_aside(folder: Path) -> Path:
    """Renames a work folder, so that its step starts anew, and gives its new place."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(target)
