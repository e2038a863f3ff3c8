"""The launched process of a stage: `python -m nanolab stage job.json`, alone or once a rank under torchrun."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import traceback
from pathlib import Path

from nanolab import files, launch
from nanolab.config import STEPS
from nanolab.plan import ERROR, JOB, RESULT, read_job
from nanolab.schema import UserError
from nanolab.tracking import NullRun, Run


def main(job_file: str, run_id: str = "") -> int:
    """Runs one stage and returns the exit status: 0, 1 for a failure (with its traceback), 2 for a person's mistake."""
    launch.die_with_parent()  # torchrun starts its workers in sessions of their own
    folder = Path(job_file).absolute().parent
    try:
        work(Path(job_file), run_id)
    except UserError as error:
        return _mistake(folder, str(error))
    except Exception as error:
        traceback.print_exc()
        if files.is_full(error):
            return _mistake(folder, files.full_line())
        return 1
    return 0


def _mistake(folder: Path, line: str) -> int:
    """Says what a person can mend: as the last line printed, and in error.json, for which a full disk may have no room."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    if (folder / JOB).is_file():  # a step's folder
        with contextlib.suppress(OSError):
            files.write_json(folder / ERROR, {"message": line})
    return 2


def work(job_file: Path, run_id: str) -> None:
    """Opens the world, runs the stage, and on rank 0 writes result.json last: with it the step is finished."""
    started = time.time()
    job = read_job(job_file)
    from nanolab import dist

    world = dist.open_world(job.study.launch.device, "auto", launch.threads(job.study.launch))
    run = Run(job.folder, run_id) if world.rank == 0 else NullRun()
    stage = importlib.import_module(f"nanolab.stages.{STEPS[job.step].module or job.step}")
    if "nanolab.engine" in sys.modules and world.device.type == "cpu":  # a stage that samples
        from nanolab.model import kernels

        run.tag("decoding", kernels.status())
        if world.rank == 0 and kernels.library()[0] is None:
            print(f"decoding uses {kernels.status()}", flush=True)
    metrics = stage.run(job, world, run)
    dist.barrier(world)  # no rank is still at work when the step counts as finished
    if world.rank == 0:
        run.close()
        files.write_json(
            job.folder / RESULT,
            {
                "step": job.step,
                "metrics": metrics,
                "started": started,
                "ended": time.time(),
                "device": world.device.type,
            },
        )
    dist.close_world(world)
