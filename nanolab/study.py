"""Runs a whole study: its steps in order, each through its notebook, below one parent run; once for each seed.

What is told of it goes to a screen (terminal.py); what the notebooks' kernels print goes to the execution's log.txt.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nanolab import (
    durations,
    files,
    machines,
    notebooks,
    pipeline,
    registry,
    screens,
    spread,
    terminal,
    tracking,
    tracking_views,
)
from nanolab.config import STEPS, StudyConfig
from nanolab.experiment import load_study
from nanolab.follow import Follower
from nanolab.notebook_page import write_page
from nanolab.plan import LOG, RESULT, Step, layout, plan, step_config
from nanolab.schema import UserError, to_dict
from nanolab.terminal import Ending, Failure, Lasting, Screen


@dataclass(frozen=True)
class Prepared:
    """A study with one seed, checked: nothing of it has started."""

    study: StudyConfig
    groups: list[list[str]]  # steps, joined where one notebook execution fills several
    planned: dict[str, Step]
    rest: list[Step]  # finished ones of the study that are not asked for: the report shows them too

    @property
    def asked(self) -> list[str]:
        """The planned steps that are asked for, in order: not those that they need, nor the report, which needs no plan."""
        return [step for steps in self.groups for step in steps if step in self.planned]


def run_study(
    name: str,
    overrides: list[str],
    only: list[str],
    start: str | None,
    fresh: bool,
    screen: Screen | None = None,
) -> int:
    """Runs the steps of a study, for each of its seeds, and returns the exit status: 0, 1 for a failed step, 130 when interrupted.

    `only` limits the run to some steps, `start` leaves out the steps before it. Raises UserError before anything starts, or when a
    step met a person's mistake.
    """
    study = load_study(name, overrides)
    prepared = [prepare(each, only, start) for each in per_seed(study)]
    screen = Lasting(screen or screens.open_screen())
    signal.signal(
        signal.SIGTERM, _interrupt
    )  # the default would leave the kernel's children behind
    if study.launch.node_rank > 0:
        if fresh:
            raise UserError(
                "--fresh is for machine 0 alone: start it there first, then the other machines without it"
            )
        parts = [
            (one.study, pipeline.missing_steps(one.planned, one.asked, False)[0])
            for one in prepared
        ]
        with screen:
            return machines.take_part(parts, command(), screen)
    with pipeline.study_lock(study.experiment) as announce, screen:
        if fresh:  # all of them before the first runs: the same command without --fresh goes on from wherever this one ends
            for one in prepared:
                pipeline.set_steps_aside(one.study, [one.planned[step] for step in one.asked])
        parents = []
        for one in prepared:
            execution = StudyExecution(one, screen, fresh)
            announce(execution.parent)
            parents.append(execution.parent)
            if status := execution.run(parents if one is prepared[-1] else []):
                return status
        if len(prepared) > 1:
            spread.report(study, [one.planned for one in prepared], parents, screen)
    return 0


def per_seed(study: StudyConfig) -> list[StudyConfig]:
    """The study once for each of its seeds: one experiment, whose executions and fingerprints differ by the seed."""
    return [replace(study, seed=seed) for seed in study.seeds or [study.seed]]


def prepare(study: StudyConfig, only: list[str], start: str | None) -> Prepared:
    """The checked plan of a run; raises UserError for everything that can be seen before it starts."""
    groups = grouped(select(study, only, start))
    if not groups:
        raise UserError(
            f"nothing to run: study {study.experiment!r} has the steps {', '.join(study.steps) or 'none'}"
            + (f", from {start} on there is none of {', '.join(only)}" if start and only else "")
        )
    for steps in groups:
        notebooks.check_parameters(steps[0])
    planned = plan(study, [step for steps in groups for step in steps])
    if (
        "base_eval" in planned
        and study.data.source == "hub"
        and not (study.data.root or os.environ.get("NANOLAB_DATA"))
    ):
        raise UserError(
            "base_eval needs the CORE tasks, which have no hub set: set data.root, or the variable NANOLAB_DATA, "
            "to a folder with core/tasks.json, or leave base_loss and base_eval out of steps (one notebook fills both)"
        )
    return Prepared(study, groups, planned, finished_rest(study, planned))


def finished_rest(study: StudyConfig, planned: dict[str, Step]) -> list[Step]:
    """The finished steps of a study beside the planned ones."""
    found: dict[str, Step] = {}
    for name in study.steps:
        if name not in planned:
            try:
                found |= layout(study, [name])
            except (
                UserError
            ):  # one that cannot be planned here is not finished here, and was not asked for
                continue
    return [
        step
        for name, step in found.items()
        if step.finished and name in study.steps and name not in planned
    ]


def select(study: StudyConfig, only: list[str], start: str | None) -> list[str]:
    """The steps of the study to run; raises UserError for a name that the study does not run."""
    for step in [*only, *([start] if start else [])]:
        if step not in study.steps:
            raise UserError(
                f"unknown step {step!r}: study {study.experiment!r} runs {', '.join(study.steps)}"
            )
    steps = study.steps[study.steps.index(start) :] if start else study.steps
    return [step for step in steps if not only or step in only]


def grouped(steps: list[str]) -> list[list[str]]:
    """The steps joined where one notebook execution fills several of them, with those that it fills beside the ones asked for."""
    groups: dict[tuple, list[str]] = {}
    for step in steps:
        fills = (STEPS[step].notebook, tuple(STEPS[step].fixed.items()))
        groups[fills] = [
            name
            for name, spec in STEPS.items()
            if (spec.notebook, tuple(spec.fixed.items())) == fills
        ]
    return list(groups.values())


class StudyExecution:
    """One execution of a study with one seed."""

    def __init__(self, prepared: Prepared, screen: Screen, fresh: bool):
        """Opens the parent run."""
        self.study, self.groups, self.planned, self.rest = (
            prepared.study,
            prepared.groups,
            prepared.planned,
            prepared.rest,
        )
        self.screen, self.fresh, self.started = screen, fresh, time.time()
        self.parent = pipeline.open_execution(self.study, tracking.RUN_ALL)
        self.folder = files.MLRUNS / "work" / self.study.experiment / "executions" / self.parent
        self.log = self.folder / LOG
        self.model = ""  # what was registered
        self._follower: Follower | None = None
        self._overheads: list[float] = []  # seconds that a notebook took beside its steps
        self._names = [step for steps in self.groups for step in steps]

    def run(self, together: list[str]) -> int:
        """Runs the steps and returns the exit status; at the end the best model of the executions `together` is registered, if any."""
        study, status, full = self.study, "failed", False
        title = f"{study.experiment}{f' seed {study.seed}' if study.seeds else ''}: {study.description}".removesuffix(
            ": "
        )
        facts = {
            "study": study.experiment,
            "seed": study.seed,
            "store": tracking.store_uri(),
            "execution": self.parent,
            "log": terminal.shown(self.log),
        }
        try:
            files.write_atomic(
                self.folder / "study.yaml", yaml.safe_dump(to_dict(study), sort_keys=False)
            )
            self.screen.plan(
                title + (" (anew)" if self.fresh else ""), self.planned.values(), facts
            )
            with open(self.log, "a", encoding="utf-8") as log:
                self._run_groups(Output(log, self.screen.output))
            self.model = registry.register_at_end(study.experiment, together) if together else ""
            status = "finished"
        except notebooks.NotebookFailed as error:
            self.screen.failed(self._failure(error))
            return 1
        except KeyboardInterrupt:
            status = "interrupted"
            return 130
        except Exception as error:
            full = files.is_full(error) or files.FULL in str(error)
            mistake = (
                UserError(files.full_line()) if full and not isinstance(error, UserError) else error
            )
            self.screen.failed(self._failure(mistake))
            raise mistake from error
        finally:
            try:
                if not full:  # then there is no room in the store either: the next run marks this one as failed
                    tracking.sweep(
                        study.experiment
                    )  # a step whose kernel was ended is no longer running
                    pipeline.close_execution(
                        self.parent, "FINISHED" if status == "finished" else "FAILED"
                    )
            finally:
                self.screen.ended(self._ending(status))
        return 0

    def _run_groups(self, output: Output) -> None:
        done = pipeline.Execution(self.study, self.parent, tracking.RUN_ALL)
        for step in [
            *self.rest,
            *(
                step
                for step in self.planned.values()
                if step.name not in self._names and step.finished
            ),
        ]:
            done.reuse(
                step
            )  # so that the report of a part of the study shows what is finished of the rest
        for number, steps in enumerate(self.groups):
            if all(step in self.planned and self.planned[step].finished for step in steps):
                for step in steps:
                    done.reuse(self.planned[step])
                    self._show_reused(self.planned[step])
            else:
                self._run_notebook(number, steps, output)

    def _run_notebook(self, number: int, steps: list[str], output: Output) -> None:
        stage, notebook = STEPS[steps[0]].stage, notebooks.notebook_file(steps[0])
        executed = (
            self.folder / f"{notebook.stem}{'-' + steps[0] if STEPS[steps[0]].fixed else ''}.ipynb"
        )
        values = notebooks.parameters(
            stage, step_config(self.study, steps[0]), str(self.folder / "study.yaml"), self.parent
        )
        follows = self._missing(steps)
        for step in steps:
            if step not in {each.name for each in follows}:
                self._show_reused(self.planned[step])
        began = time.time()
        self._follower = Follower(follows, self.screen, self._place, self._after(number))
        status = ""
        try:
            with self._follower:
                notebooks.execute(notebook, executed, values, output)
        except BaseException as error:
            status = "full" if files.is_full(error) else "failed"
            raise
        finally:
            if executed.is_file() and status != "full":
                self._attach(steps, executed)
        self._overheads.append(
            time.time() - began - sum(durations.took(step.folder) for step in follows)
        )

    def _attach(self, steps: list[str], executed: Path) -> None:
        """Puts the executed notebook, and a page of it, beside the records of the steps that it ran."""
        page = write_page(executed)
        for run in tracking.children(self.parent):
            if run.tags.get("step") in steps:
                tracking.log_file(run.id, executed, "notebook")
                tracking.log_file(run.id, page, "notebook")

    def _missing(self, steps: list[str]) -> list[Step]:
        """The steps that the notebook of `steps` will run now, in order."""
        if steps == ["report"]:
            fingerprint = self.parent[:12]
            folder = files.work_folder(self.study.experiment, "report", fingerprint)
            return [Step("report", self.study.report, fingerprint, folder)]
        return pipeline.missing_steps(self.planned, steps, False)[0]

    def _after(self, number: int) -> float | None:
        """Seconds that the notebooks after this one will take, by earlier runs; None where one has no earlier run."""
        steps, count = {}, 0
        for later in self.groups[number + 1 :]:
            missing = self._missing(later)
            steps |= {step.name: step for step in missing}
            count += bool(missing)
        seconds = [durations.earlier(step) for step in steps.values()]
        if None in seconds:
            return None
        beside = sum(self._overheads) / len(self._overheads) if self._overheads else 0.0
        return sum(seconds) + count * max(0.0, beside)

    def _place(self, step: str) -> str:
        """A step's place among those of the run, as "3/15"; "+" for one that is run because another needs it."""
        return f"{self._names.index(step) + 1 if step in self._names else '+'}/{len(self._names)}"

    def _show_reused(self, step: Step) -> None:
        self.screen.finished(step.name, durations.took(step.folder), step.result(), True)

    def _failure(self, error: Exception) -> Failure:
        step = self._follower.under_way if self._follower else None
        line = error.line if isinstance(error, notebooks.NotebookFailed) else str(error)
        log = step.folder / LOG if step and (step.folder / LOG).is_file() else self.log
        name = step.name if step else self.study.experiment
        return Failure(
            name, line, Path(terminal.shown(log)), command(), isinstance(error, UserError)
        )

    def _ending(self, status: str) -> Ending:
        study, metrics = self.study, {}
        folder = files.work_folder(study.experiment, "report", self.parent[:12])
        if (folder / RESULT).is_file():
            metrics = files.read_json(folder / RESULT)["metrics"]
        paths = {
            name: terminal.shown(folder / name) if (folder / name).is_file() else ""
            for name in ("report.md", "report.html")
        }
        server = tracking.store_uri().startswith("http")
        runs = (
            f"{'' if server else 'make ui, then '}{tracking_views.address(study.experiment)}"
            if status == "finished"
            else ""
        )
        return Ending(
            status,
            time.time() - self.started,
            metrics.get("summary", ""),
            paths["report.md"],
            paths["report.html"],
            terminal.shown(self.log),
            self.model,
            runs,
            self.parent,
            self.fresh,
        )


class Output:
    """Where papermill writes what a kernel prints: the execution's log, and the screen."""

    def __init__(self, log: Any, show: Callable[[str], None]):
        self._log, self._show = log, show

    def write(self, text: str) -> None:
        """Takes a part of the output."""
        self._log.write(text)
        self._log.flush()
        self._show(text)

    def flush(self) -> None:
        """Each part is written at once."""


def command() -> str:
    """The command line that goes on from where this process ends: its own, without --fresh, which set everything aside at its start."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]
    module = Path(sys.argv[0]).absolute() == files.ROOT / "nanolab" / "__main__.py"
    return shlex.join(
        [
            terminal.shown(sys.executable),
            *(["-m", "nanolab"] if module else [terminal.shown(sys.argv[0])]),
            *words,
        ]
    )


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
