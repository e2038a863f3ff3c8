"""Runs a whole study: its steps in order, each through its notebook, below one parent run; once for
each seed. What is told of it goes to a screen (nanolab/terminal/).
"""

from __future__ import annotations

import io
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import yaml

from nanolab import artefacts, files
from nanolab.errors import UserError
from nanolab.export import registry
from nanolab.notebook.page import write_page
from nanolab.pipeline import execution, machines, notebooks, spread
from nanolab.pipeline.study_lock import study_lock
from nanolab.plan import durations, notebook_files
from nanolab.plan.preparation import Prepared
from nanolab.plan.steps import LOG, Step, missing_steps, report_step, step_config
from nanolab.settings.config import STEPS
from nanolab.settings.schema import to_dict
from nanolab.terminal.events import Ended, Failed, Finished, Note, Planned, Printed, Screen
from nanolab.terminal.follow import Follower
from nanolab.terminal.plain import short_path
from nanolab.tracking import faults, run_reader, run_writer, views
from nanolab.tracking.address import is_server, masked, shown_uri, store_uri


def run_study(prepared: list[Prepared], screen: Screen, fresh: bool = False) -> int:
    """Runs the steps of a study, for each of its seeds; `fresh` runs finished steps anew. Returns
    the exit status: 0, 1 for a failed step, 130 when interrupted.

    Raises UserError before anything starts, or when a step met a person's mistake.
    """
    study = prepared[0].study
    listen()
    if study.launch.node_rank > 0:
        if fresh:
            raise UserError(
                "--fresh is for machine 0 alone: start it there first, then the other machines"
                " without it"
            )
        parts = [(one.study, missing_steps(one.planned, one.asked)[0]) for one in prepared]
        with screen:
            return machines.take_part(parts, command(), screen)
    faults.notify = lambda line: screen.tell(Note(line, "note", {"line": line}))
    with study_lock(study.experiment) as announce, screen:
        # all of them before the first runs: the same command without --fresh goes on from wherever
        # this one ends
        for one in prepared if fresh else ():
            execution.set_steps_aside(one.study, [one.planned[step] for step in one.asked])
        parents = []
        for one in prepared:
            try:
                opened = StudyExecution(one, screen, fresh)
            except KeyboardInterrupt:  # its parent run may be open already
                run_writer.sweep(study.experiment, "KILLED", own=True)
                raise
            announce(opened.parent)
            parents.append(opened.parent)
            if status := opened.run(parents if one is prepared[-1] else []):
                return status
        if len(prepared) > 1:
            spread.report(study, [one.planned for one in prepared], parents, screen)
    return 0


class StudyExecution:
    """One execution of a study with one seed; its parent run is opened at once."""

    def __init__(self, prepared: Prepared, screen: Screen, fresh: bool):
        self.prepared = prepared
        self.study = prepared.study
        self.screen = screen
        self.fresh = fresh
        self.started = time.time()
        self.parent = execution.open_execution(self.study, run_reader.RUN_ALL)
        self.folder = files.MLRUNS / "work" / self.study.experiment / "executions" / self.parent
        self.log = self.folder / LOG
        self.model = ""  # what was registered
        self._follower: Follower | None = None
        self._overheads: list[float] = []  # seconds that a notebook took beside its steps
        self._names = [step for steps in prepared.groups for step in steps]

    def run(self, together: list[str]) -> int:
        """Runs the steps and returns the exit status; at the end the best model of the executions
        `together` is registered, if any.
        """
        status, full = "failed", False
        try:
            self._show_plan()
            with open(self.log, "a", encoding="utf-8") as log:
                self._run_groups(Output(log, self.screen))
            if together:
                self.model = registry.register_at_end(self.study.experiment, together)
            status = "finished"
        except notebooks.NotebookFailed as error:
            self._show_failure(error.line)
            return 1
        except KeyboardInterrupt:
            status = "interrupted"
            return 130
        except Exception as error:
            full = files.is_full(error) or files.FULL in str(error)
            mistake = error if isinstance(error, UserError) else files.mistake_of(error)
            if mistake is None:
                self._show_failure(files.last_line(error))
                with open(self.log, "a", encoding="utf-8") as log:
                    log.write(masked(traceback.format_exc()))
                return 1
            self._show_failure(str(mistake), mistake=True)
            if mistake is error:
                raise
            raise mistake from error
        finally:
            try:
                # then there is no room in the store either: the next run marks this one as failed
                if not full:
                    broken = "KILLED" if status == "interrupted" else "FAILED"
                    run_writer.sweep(self.study.experiment, broken)  # a step whose kernel was ended
                    ended = "FINISHED" if status == "finished" else broken
                    execution.close_execution(self.parent, ended)
            finally:
                self.screen.tell(self._ended(status))
        return 0

    def _show_plan(self) -> None:
        study = self.study
        seed = f" seed {study.seed}" if study.seeds else ""
        title = f"{study.experiment}{seed}: {study.description}".removesuffix(": ")
        facts = {
            "study": study.experiment,
            "seed": study.seed,
            "store": shown_uri(),
            "execution": self.parent,
            "log": short_path(self.log),
        }
        text = yaml.safe_dump(to_dict(study), sort_keys=False)
        files.write_atomic(self.folder / "study.yaml", text)
        title += " (anew)" if self.fresh else ""
        steps = list(self.prepared.planned.values())
        self.screen.tell(Planned(title, steps, facts))
        for note in durations.long_steps(study, steps):
            self.screen.tell(Note(note, "note", {"line": note}))

    def _run_groups(self, output: Output) -> None:
        done = execution.Execution(self.study, self.parent, run_reader.RUN_ALL)
        planned = self.prepared.planned
        for step in self.prepared.rest:
            done.reuse(step)
        for number, steps in enumerate(self.prepared.groups):
            raise_lost()
            missing = self._missing(steps)
            for step in [planned[step] for step in steps if step in planned]:
                if step not in missing:
                    if not missing:
                        done.reuse(step)
                    took = durations.took(step.folder)
                    self.screen.tell(Finished(step.name, took, step.result(), reused=True))
            if missing:
                self._run_notebook(number, missing, output)

    def _run_notebook(self, number: int, missing: list[Step], output: Output) -> None:
        steps = self.prepared.groups[number]
        notebook = notebook_files.notebook_file(steps[0])
        mark = f"-{steps[0]}" if STEPS[steps[0]].fixed else ""
        executed = self.folder / f"{notebook.stem}{mark}.ipynb"
        config = step_config(self.study, steps[0])
        values = notebook_files.parameters(config, str(self.folder / "study.yaml"), self.parent)
        began = time.time()
        self._follower = Follower(missing, self.screen, self._place, self._after(number))
        full = False
        try:
            with self._follower:
                notebooks.execute(notebook, executed, values, output)
        except BaseException as error:
            full = files.is_full(error)
            raise
        finally:
            if executed.is_file() and not full:  # beside the records of its steps, and a page of it
                attached = executed, write_page(executed)
                for run in run_reader.children(self.parent):
                    for path in attached if run.tags.get("step") in steps else ():
                        run_writer.log_file(run.id, path, "notebook")
        in_steps = sum(durations.took(step.folder) for step in missing)
        self._overheads.append(time.time() - began - in_steps)

    def _missing(self, steps: list[str]) -> list[Step]:
        """The steps that the notebook of `steps` will run now, in order."""
        if steps == ["report"]:
            return [report_step(self.study, self.parent)]
        return missing_steps(self.prepared.planned, steps)[0]

    def _after(self, number: int) -> float | None:
        """Seconds that the notebooks after this one will take, by earlier runs; None: unknown."""
        later = [self._missing(steps) for steps in self.prepared.groups[number + 1 :]]
        steps = {step.name: step for missing in later for step in missing}
        seconds = [durations.earlier(step) for step in steps.values()]
        if None in seconds:
            return None
        beside = sum(self._overheads) / len(self._overheads) if self._overheads else 0.0
        return sum(seconds) + sum(map(bool, later)) * max(0.0, beside)

    def _place(self, step: str) -> str:
        """A step's place in the run, as "3/15"; "+" for one that another needs."""
        return f"{self._names.index(step) + 1 if step in self._names else '+'}/{len(self._names)}"

    def _show_failure(self, line: str, mistake: bool = False) -> None:
        step = self._follower.under_way if self._follower else None
        log = step.folder / LOG if step and (step.folder / LOG).is_file() else self.log
        name = step.name if step else self.study.experiment
        self.screen.tell(Failed(name, masked(line), Path(short_path(log)), command(), mistake))

    def _ended(self, status: str) -> Ended:
        folder = report_step(self.study, self.parent).folder
        written = (folder / artefacts.RESULT).is_file()
        metrics = artefacts.read_result(folder)["metrics"] if written else {}
        paths = {"report": folder / "report.md", "html": folder / "report.html"}
        start = "" if is_server(store_uri()) else "make ui, then "
        runs = f"{start}{views.address(self.study.experiment)}" if status == "finished" else ""
        return Ended(
            status,
            time.time() - self.started,
            metrics.get("summary", ""),
            log=short_path(self.log),
            model=self.model,
            runs=runs,
            execution=self.parent,
            fresh=self.fresh,
            **{name: short_path(path) for name, path in paths.items() if path.is_file()},
        )


class Output(io.TextIOBase):
    """Where papermill writes what a kernel prints: the execution's log, and the screen; a line of
    its store (`faults.print_note`) is a note, for everybody.
    """

    def __init__(self, log: Any, screen: Screen):
        self._log = log
        self._screen = screen
        self._rest = ""  # of a line that is not finished

    def write(self, text: str) -> None:
        text = masked(text)
        self._log.write(text)
        self._log.flush()
        self._screen.tell(Printed(text))
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(faults.NOTE):
                note = line.removeprefix(faults.NOTE).strip()
                self._screen.tell(Note(note, "note", {"line": note}))


def command() -> str:
    """The command line that goes on from where this process ends: its own, without --fresh, which
    set everything aside at its start.
    """
    words = [word for word in sys.argv[1:] if word != "--fresh"]
    is_module = Path(sys.argv[0]).absolute() == files.ROOT / "nanolab" / "__main__.py"
    program = ["-m", "nanolab"] if is_module else [short_path(sys.argv[0])]
    return shlex.join([short_path(sys.executable), *program, *words])


# ---- requests to end a run: Ctrl-C and SIGTERM

_heard: list[int] = []  # signals that asked this process to end


def listen() -> None:
    """Makes SIGTERM an interrupt too: its default would leave the kernel's children behind."""
    _heard.clear()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    _heard.append(number)
    raise KeyboardInterrupt


def raise_lost() -> None:
    """Raises an interrupt that was lost: Python drops what is raised while it frees an object."""
    if _heard:
        raise KeyboardInterrupt
