"""Runs a whole study: its steps in order, each through its notebook, below one parent run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from nanolab import files, notebooks, pipeline, registry, tracking
from nanolab.config import STEPS, StudyConfig
from nanolab.experiment import load_study
from nanolab.plan import Step, plan, step_config
from nanolab.schema import UserError, to_dict

SOURCE = "scripts/run_all.py"


def run_study(name: str, overrides: list[str], only: list[str], start: str | None, fresh: bool) -> int:
    """Runs the steps of a study and returns the exit status: 0, 1 for a failed step, 130 when it was interrupted.

    `only` limits the run to some steps, `start` leaves out the steps before it. Raises UserError before anything starts.
    """
    study = load_study(name, overrides)
    groups = grouped(select(study, only, start))
    for steps in groups:
        notebooks.check_parameters(steps[0])
    planned = plan(study, [step for steps in groups for step in steps])
    if "base_eval" in planned and study.data.source == "hub" and not (study.data.root or os.environ.get("NANOLAB_DATA")):
        raise UserError("base_eval needs the CORE tasks, which have no hub set: set data.root, or the variable NANOLAB_DATA, "
                        "to a folder with core/tasks.json, or leave base_eval out of steps")
    signal.signal(signal.SIGTERM, _interrupt)  # the default would leave the kernel's children behind
    started = time.time()
    with pipeline.study_lock(study.experiment) as announce:
        parent = pipeline.open_execution(study, SOURCE)
        announce(parent)
        status, message = "FAILED", ""
        try:
            _run_groups(study, groups, planned, parent, fresh)
            status = "FINISHED"
        except notebooks.NotebookFailed as error:
            message = f"{error}\n{study.experiment}: a step failed; everything so far is kept, and the same command goes on from there"
        except KeyboardInterrupt:
            message = f"{study.experiment}: interrupted; everything so far is kept, and the same command goes on from there"
            return 130
        finally:
            tracking.close_run(parent, status)
            tracking.sweep(study.experiment)  # a step whose kernel was ended is no longer running
            if message:
                print(message, file=sys.stderr, flush=True)
    if status == "FINISHED":
        _show_end(study, parent, time.time() - started)
    return 0 if status == "FINISHED" else 1


def select(study: StudyConfig, only: list[str], start: str | None) -> list[str]:
    """The steps of the study to run; raises UserError for a name that the study does not run."""
    for step in [*only, *([start] if start else [])]:
        if step not in study.steps:
            raise UserError(f"unknown step {step!r}: study {study.experiment!r} runs {', '.join(study.steps)}")
    steps = study.steps[study.steps.index(start):] if start else study.steps
    return [step for step in steps if not only or step in only]


def grouped(steps: list[str]) -> list[list[str]]:
    """The steps joined where one notebook execution fills several of them."""
    groups: dict[tuple, list[str]] = {}
    for step in steps:
        spec = STEPS[step]
        groups.setdefault((spec.notebook, tuple(spec.fixed.items())), []).append(step)
    return list(groups.values())


def _run_groups(study: StudyConfig, groups: list[list[str]], planned: dict[str, Step], parent: str, fresh: bool) -> None:
    folder = files.MLRUNS / "work" / study.experiment / "executions" / parent
    experiment = folder / "study.yaml"
    files.write_atomic(experiment, yaml.safe_dump(to_dict(study), sort_keys=False))
    done = pipeline.Execution(study, parent, SOURCE)
    chosen = {step for steps in groups for step in steps}
    for name, step in plan(study).items():  # so that the report of a part of the study shows what is finished of the rest
        if name not in chosen and step.finished:
            done.reuse(step)
    for number, steps in enumerate(groups, 1):
        notebook, title = notebooks.notebook_file(steps[0]), f"[{number}/{len(groups)}] {STEPS[steps[0]].notebook}"
        if not fresh and all(step in planned and planned[step].finished for step in steps):
            for step in steps:
                done.reuse(planned[step])
            print(f"{title}: {', '.join(steps)} reused", flush=True)
            continue
        print(f"{title}: {', '.join(steps)}", flush=True)
        started = time.time()
        output = folder / f"{STEPS[steps[0]].notebook}{'-' + steps[0] if STEPS[steps[0]].fixed else ''}.ipynb"
        values = notebooks.parameters(STEPS[steps[0]].stage, step_config(study, steps[0]), str(experiment), parent, fresh)
        try:
            notebooks.execute(notebook, output, values)
        finally:
            if output.is_file():
                _attach(parent, steps, output)
        print(f"{title}: {time.time() - started:.1f} s", flush=True)


def _attach(parent: str, steps: list[str], output: Path) -> None:
    """Puts the executed notebook beside the records of the steps that it ran."""
    for run in tracking.children(parent):
        if run.tags.get("step") in steps:
            tracking.log_file(run.id, output, "notebook")


def _show_end(study: StudyConfig, parent: str, seconds: float) -> None:
    report: dict[str, Any] = {}
    if (files.work_folder(study.experiment, "report", parent[:12]) / "result.json").is_file():
        report = files.read_json(files.work_folder(study.experiment, "report", parent[:12]) / "result.json")["metrics"]
    print(f"\n{report['summary']}\n" if "summary" in report else "")
    for run in tracking.children(parent):
        if run.tags.get("step") and run.end:
            print(f"{run.tags['step']:16} {(run.end - run.start) / 1000:7.1f} s")
    print(f"{'in all':16} {seconds:7.1f} s")
    if "report" in report:
        print(f"report: {report['report']}")
    registered = registry.register_at_end(study.experiment, parent)
    if registered:
        print(registered)
    print("runs:   make ui   (then http://127.0.0.1:5000)", flush=True)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
