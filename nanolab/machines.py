"""What machines after the first do in a study: they take part in each step; the first machine keeps the records and writes the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nanolab import durations, launch
from nanolab.config import StudyConfig
from nanolab.plan import Step, job_of, write_job
from nanolab.schema import UserError
from nanolab.terminal import Ending, Failure, Screen


def take_part(studies: list[tuple[StudyConfig, list[Step]]], command: str, screen: Screen) -> int:
    """Takes part in the missing steps of a study, for each of its seeds, in the first machine's order; `command` is what goes on.

    Returns the exit status: 0, 1 for a failed step, 130 when interrupted. Raises UserError when a step met a person's mistake.
    """
    began, status = time.time(), "failed"
    try:
        for study, steps in studies:
            rank = study.launch.node_rank
            title = f"{study.experiment}: machine {rank} takes part (of {study.launch.nnodes}, from 0 on); machine 0 keeps the records"
            screen.plan(
                title,
                steps,
                {
                    "study": study.experiment,
                    "seed": study.seed,
                    "store": None,
                    "execution": None,
                    "node_rank": rank,
                    "log": f"log-{rank}.txt in each step's folder",
                },
            )
            for number, step in enumerate(steps):
                started = time.time()
                screen.started(step.name, step.folder, f"{number + 1}/{len(steps)}")
                try:
                    run_step(study, step, screen.output)
                except launch.StageFailed as error:
                    if error.mistake:
                        raise UserError(f"{step.name}: {error.mistake}") from error
                    screen.failed(
                        Failure(step.name, str(error).partition(";")[0], _log(study, step), command)
                    )
                    return 1
                screen.finished(step.name, time.time() - started, step.result(), False)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        return 130
    finally:
        screen.ended(Ending(status, time.time() - began))
    return 0


def run_step(study: StudyConfig, step: Step, show: Callable[[str], None]) -> None:
    """Runs this machine's processes of a step, and waits for the result that the first machine writes; `show` is handed each line.

    All machines must see the same mlruns folder. Raises launch.StageFailed when a process fails, or when the step failed there.
    """
    step.folder.mkdir(parents=True, exist_ok=True)
    job_file = write_job(job_of(study, step))
    launch.Stage(
        launch.command(job_file, study.launch), _log(study, step), launch.threads(study.launch)
    ).wait(show)
    while not step.finished:  # the first machine writes it, a moment later
        if durations.failed(step.folder):
            raise launch.StageFailed("the step failed on machine 0; its log there says why")
        time.sleep(1)


def _log(study: StudyConfig, step: Step) -> Path:
    return step.folder / f"log-{study.launch.node_rank}.txt"
