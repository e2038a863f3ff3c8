"""What machines after the first do in a study: they take part in each step; the first machine keeps
the records and writes the report.
"""

import time
from collections.abc import Callable

from nanolab.pipeline import launch
from nanolab.pipeline.failures import first_failure
from nanolab.plan import durations
from nanolab.plan.steps import Step, job_of, write_job
from nanolab.settings.config import StudyConfig
from nanolab.terminal.events import Ended, Failed, Finished, Planned, Printed, Screen, Started


def take_part(studies: list[tuple[StudyConfig, list[Step]]], command: str, screen: Screen) -> int:
    """Takes part in the missing steps of a study, for each of its seeds, in the first machine's
    order; `command` is what goes on.

    Returns the exit status: 0, 1 for a failed step, 130 when interrupted. Raises UserError when a
    step met a person's mistake.
    """
    began = time.time()
    status = "failed"
    try:
        for study, steps in studies:
            screen.tell(_plan(study, steps))
            for number, step in enumerate(steps, 1):
                started = time.time()
                screen.tell(Started(step.name, step.folder, f"{number}/{len(steps)}"))
                try:
                    run_step(study, step, lambda text: screen.tell(Printed(text)))
                except launch.StageFailed as error:
                    error.raise_mistake(step.name)
                    log = step.folder / _log(study)
                    screen.tell(Failed(step.name, error.reason, log, command))
                    return 1
                took = time.time() - started
                screen.tell(Finished(step.name, took, step.result(), reused=False))
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        return 130
    finally:
        screen.tell(Ended(status, time.time() - began))
    return 0


def _plan(study: StudyConfig, steps: list[Step]) -> Planned:
    rank = study.launch.node_rank
    title = (
        f"{study.experiment}: machine {rank} takes part (of {study.launch.nnodes}, from 0"
        " on); machine 0 keeps the records"
    )
    facts = {"study": study.experiment, "seed": study.seed, "store": None, "execution": None}
    log = f"{_log(study)} in each step's folder"
    return Planned(title, steps, {**facts, "node_rank": rank, "log": log})


def run_step(study: StudyConfig, step: Step, show: Callable[[str], None]) -> None:
    """Runs this machine's processes of a step, and waits for the result that the first machine
    writes; `show` is handed each line. All machines must see the same mlruns folder.

    Raises launch.StageFailed when the step fails, here or there.
    """
    step.folder.mkdir(parents=True, exist_ok=True)
    launch.start(write_job(job_of(study, step)), study.launch, _log(study)).wait(show)
    while not step.finished:  # the first machine writes it, a moment later
        if durations.failed(step.folder):
            first = first_failure(step.folder)
            why = first.reason if first else "its log there says why"
            mistake = why if first and first.mistake else ""
            raise launch.StageFailed(f"the step failed on machine 0: {why}", mistake)
        time.sleep(1)


def _log(study: StudyConfig) -> str:
    return f"log-{study.launch.node_rank}.txt"
