"""`run`: a study's steps in order, each through its notebook; `run --list`: the studies that there
are. `report` compiles a study's report again; `stage` is what the launcher starts.
"""

import argparse
import json
from typing import Any

from nanolab import files
from nanolab.commands import plan
from nanolab.errors import UserError

HELP = """\
Interrupt a run whenever you like (Ctrl-C, or kill PID): the same command goes on from there. A run
that a shell started in the background (`run ... &`) does not hear Ctrl-C or `kill -INT`, which
shells switch off there: use `kill PID`.

--json prints one JSON object a line on standard output, each with "event" and "time" (seconds since
1970):
  plan           study, seed, store, execution, log, steps: [{step, state, fingerprint, inputs,
                 folder, earlier_seconds, why_again (null: has no result, or is finished)}]
  step_started   step, folder, place
  progress       step, part, done, total, unit, metrics, part_seconds_left, step_seconds_left,
                 study_seconds_left (null: unknown)
  silence        step: it has shown no sign of life for some minutes
  step_finished  step, state (finished or reused), seconds, metrics
  note           line: that a step will take long, that the store is waited for, or that it
                 answers again
  step_failed    step, error, log, command, after which the exit status is 1, or 2 for a mistake
                 with a known fix
  summary        status (finished, failed, interrupted), seconds, summary, report, html, log, model,
                 runs, execution, fresh
  seeds          seeds, table, csv, metrics: of a study with seeds: [...]
  study          study, state, description, steps, finished: one for each study of --list
"""
FLAGS = {
    "fresh": "run finished steps anew",
    "dry-run": "show the plan and stop",
    "list": "show the studies and what this store has of each, and stop",
    "verbose": "show what the notebooks print, too; it is in the execution's log anyway",
    "quiet": "print errors and the path of the report only",
    "json": "one JSON object a line, described below",
}


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = HELP
    text = "experiments/NAME.yaml or NAME; without one the studies are listed"
    parser.add_argument("study", nargs="?", help=text)
    parser.add_argument("--set", **plan.SET)
    text = "run these steps, what they need, and what their notebooks fill beside them"
    parser.add_argument("--only", type=_names, default=[], metavar="STEP,..", help=text)
    text = "leave out the steps before this one"
    parser.add_argument("--from", dest="start", metavar="STEP", help=text)
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("needs the name of a step")
    return names


def run(given: argparse.Namespace) -> int:
    """Runs the study, or shows what it would run, or the studies that there are."""
    if given.quiet and (given.json or given.verbose):
        raise UserError("--quiet cannot be combined with --json or --verbose")
    if given.list and given.study:
        raise UserError(f"--list shows every study; the steps of {given.study!r}: --dry-run")
    if given.study is None:
        names = ("set", "only", "start", "fresh", "dry_run", "quiet", "verbose")
        if any(getattr(given, name) for name in names):
            raise UserError("which study? name one of experiments/, e.g. experiments/smoke.yaml")
        return show_studies(given.json)
    from nanolab.plan.preparation import prepare_seeds

    prepared = prepare_seeds(given.study, given.set, given.only, given.start)
    if given.dry_run:
        return plan.show([(one.study, list(one.planned.values())) for one in prepared], given.json)
    from nanolab.pipeline.study import run_study
    from nanolab.terminal import screens

    mode = next((name for name in ("json", "quiet") if getattr(given, name)), "")
    return run_study(prepared, screens.open_screen(mode, given.verbose), given.fresh)


def show_studies(as_json: bool) -> int:
    """Prints each study of experiments/ and of the store, with its state and its description."""
    from nanolab.terminal.plain import Table

    own = sorted(path.stem for path in (files.ROOT / "experiments").glob("*.yaml"))
    stored = (files.MLRUNS / "work").glob("*/executions/*/study.yaml")
    others = sorted({path.parents[2].name for path in stored} - {*own})
    rows = [_state_of(name, "") for name in own]
    rows += [_state_of(name, "(of this store) ") for name in others]
    if as_json:
        for row in rows:
            print(json.dumps({"event": "study", **row}, ensure_ascii=False))
        return 0
    header = ("study", "state", "steps", "description")
    for row in rows:
        row["steps"] = f"{row['finished']}/{row['steps']}" if row["steps"] else "-"
    Table(header, [[row[key] for key in header] for row in rows], ("steps",)).show()
    return 0


def _state_of(name: str, note: str) -> dict[str, Any]:
    """How far a study is in this store; one that cannot be planned here says why."""
    from nanolab.pipeline.study_lock import is_running
    from nanolab.plan import steps
    from nanolab.plan.preparation import per_seed
    from nanolab.settings.study_file import load_study

    facts = {"study": name, "state": "missing", "description": note, "finished": 0, "steps": 0}
    try:
        study = load_study(name)
        planned = [step for each in per_seed(study) for step in steps.plan(each).values()]
    except UserError as error:
        return facts | {"state": "problem", "description": f"{note}{error}"}
    finished = sum(step.finished for step in planned)
    facts |= {"description": note + study.description, "finished": finished, "steps": len(planned)}
    if is_running(study.experiment):
        facts["state"] = "running"
    elif finished == len(planned):
        facts["state"] = "finished"
    elif finished or any(step.started for step in planned):
        facts["state"] = "to continue"
    return facts


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `report`."""
    parser.add_argument("study", **plan.STUDY)


def report(given: argparse.Namespace) -> int:
    """Compiles the report again, and prints its summary and its files."""
    from nanolab.pipeline import execution
    from nanolab.settings.study_file import load_study
    from nanolab.tracking.address import shown_uri

    parent = execution.execution_to_report(load_study(given.study).experiment)
    if not parent:
        raise UserError(
            f"study {given.study!r} has no execution in {shown_uri()}: run it first, "
            f"with python scripts/run_all.py {given.study}"
        )
    done = execution.run_stage("report", experiment=given.study, parent_run_id=parent)
    written = done.metrics["report"]
    for key in ("summary", "report", "html", "results"):
        if key in written:
            print(written[key])
    return 0


def stage_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `stage`."""
    parser.add_argument("job", help="the job.json in the step's work folder")


def stage(given: argparse.Namespace) -> int:
    """Runs the step."""
    from nanolab.pipeline import worker

    return worker.main(given.job)
