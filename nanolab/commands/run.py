"""`run`: a study's steps in order, each through its notebook."""

from __future__ import annotations

import argparse

from nanolab.commands import plan
from nanolab.schema import UserError

HELP = """\
Interrupt a run whenever you like (Ctrl-C, or kill PID): the same command goes on from there. A run that a shell
started in the background (`run ... &`) does not hear Ctrl-C or `kill -INT`, which shells switch off there: use `kill PID`.

--json prints one JSON object a line on standard output, each with "event" and "time" (seconds since 1970):
  plan           study, seed, store, execution, log, steps: [{step, state, fingerprint, inputs, folder, earlier_seconds}]
  step_started   step, folder, place
  progress       step, part, done, total, unit, metrics, part_seconds_left, step_seconds_left, study_seconds_left (null: unknown)
  step_finished  step, state (finished or reused), seconds, metrics
  step_failed    step, error, log, command, after which the exit status is 1, or 2 for a mistake with a known fix
  summary        status (finished, failed, interrupted), seconds, summary, report, html, log, model, runs, execution, fresh
  seeds          seeds, table, csv, metrics: of a study with seeds: [...]
  study          study, state, description, steps, finished: one for each study of --list
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, HELP
    parser.add_argument(
        "study", nargs="?", help="experiments/NAME.yaml or NAME; without one the studies are listed"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="change a setting; may be repeated",
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=[],
        metavar="STEP,..",
        help="run these steps, what they need, and what their notebooks fill beside them",
    )
    parser.add_argument(
        "--from", dest="start", metavar="STEP", help="leave out the steps before this one"
    )
    parser.add_argument("--fresh", action="store_true", help="run finished steps anew")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument(
        "--list",
        action="store_true",
        help="show the studies and what this store has of each, and stop",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show what the notebooks print, too; it is in the execution's log anyway",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print errors and the path of the report only"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, described below"
    )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("needs the name of a step")
    return names


def main(given: argparse.Namespace) -> int:
    """Runs the study, or shows what it would run, or the studies that there are."""
    if given.quiet and (given.json or given.verbose):
        raise UserError("--quiet cannot be combined with --json or --verbose")
    if given.list and given.study:
        raise UserError(
            f"--list shows every study: leave {given.study!r} out; the steps of one: --dry-run"
        )
    if given.list or given.study is None:
        if (
            given.set
            or given.only
            or given.start
            or given.fresh
            or given.dry_run
            or given.quiet
            or given.verbose
        ):
            raise UserError(
                "which study? name one of experiments/, for example experiments/smoke.yaml; without a study only --list and "
                "--json mean something"
            )
        from nanolab.commands.studies import show_studies

        return show_studies(given.json)
    if given.dry_run:
        from nanolab.experiment import load_study
        from nanolab.study import per_seed, prepare

        prepared = [
            prepare(each, given.only, given.start)
            for each in per_seed(load_study(given.study, given.set))
        ]
        return plan.show([(one.study, list(one.planned.values())) for one in prepared], given.json)
    from nanolab import screens
    from nanolab.study import run_study

    screen = screens.open_screen(
        "json" if given.json else "quiet" if given.quiet else "", given.verbose
    )
    return run_study(given.study, given.set, given.only, given.start, given.fresh, screen)
