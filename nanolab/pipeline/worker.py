"""The process of a stage, alone or once a rank: `python -m nanolab stage job.json`."""

import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from nanolab import artefacts, files, results
from nanolab.errors import UserError
from nanolab.pipeline import failures, launch
from nanolab.plan.steps import JOB, read_job
from nanolab.settings.config import STEPS
from nanolab.tracking.journal import NullRun, Run


def main(job_file: str) -> int:
    """Runs one stage; returns 0, 1 for a failure (with its traceback), 2 for a person's mistake."""
    launch.die_with_parent()  # torchrun starts its workers in sessions of their own
    folder = Path(job_file).absolute().parent
    try:
        work(Path(job_file))
    except Exception as error:
        is_told = isinstance(error, UserError)
        mistake = error if is_told else files.mistake_of(error)
        line = mistake or files.last_line(error)
        if (
            folder / JOB
        ).is_file():  # before this process ends: the others' errors follow from that
            failures.note(folder, str(line), mistake=mistake is not None)
        if not is_told:
            traceback.print_exc()
        # the last line says why: a group's trace ends in +--
        print(f"error: {mistake}" if mistake else line, file=sys.stderr, flush=True)
        return 1 if mistake is None else launch.MISTAKE
    return 0


def work(job_file: Path) -> None:
    """Runs the stage, and on rank 0 writes result.json last: with it the step is finished."""
    started = time.time()
    job = read_job(job_file)
    from nanolab import dist

    world = dist.open_world(job.study.launch.device, "auto", launch.threads(job.study.launch))
    run = Run(job.folder) if world.rank == 0 else NullRun()
    stage = importlib.import_module(f"nanolab.stages.{STEPS[job.step].module or job.step}")
    from nanolab.inference import kernels

    if kernels.in_use and world.device.type == "cpu":  # a stage that samples
        run.tag("decoding", kernels.status())
        if world.rank == 0 and kernels.library()[0] is None:
            print(f"decoding uses {kernels.status()}", flush=True)
    result = stage.run(job, world, run)
    dist.barrier(world)  # no rank is still at work when the step counts as finished
    if world.rank == 0:
        source = getattr(job.config, "source", "")
        rows = results.to_json(results.of_model(result.rows, results.model_of(job.step, source)))
        run.text(json.dumps(rows, indent=1), results.FILE)
        run.close()
        facts = {"rows": rows, "device": world.device.type}
        artefacts.write_result(job.folder, job.step, result.flat(), started, **facts)
    dist.close_world(world)
