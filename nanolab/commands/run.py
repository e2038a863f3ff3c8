"""`run`: a study's steps in order, each through its notebook."""

from __future__ import annotations

import argparse

from nanolab.commands import plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting; may be repeated")
    parser.add_argument("--only", type=_names, default=[], metavar="STEP,..", help="run these steps, and what they need")
    parser.add_argument("--from", dest="start", metavar="STEP", help="leave out the steps before this one")
    parser.add_argument("--fresh", action="store_true", help="run finished steps anew")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(given: argparse.Namespace) -> int:
    """Runs the study, or shows what it would run."""
    if given.dry_run:
        from nanolab.experiment import load_study
        from nanolab.study import select
        return plan.show(given.study, given.set, select(load_study(given.study, given.set), given.only, given.start))
    from nanolab.study import run_study
    return run_study(given.study, given.set, given.only, given.start, given.fresh)
