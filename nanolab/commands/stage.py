"""`stage`: one step in this process; the launcher starts it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("job", help="the job.json in the step's work folder")
    parser.add_argument(
        "--run-id", default="", help="the MLflow run that its journal is carried to"
    )


def main(given: argparse.Namespace) -> int:
    """Runs the step."""
    from nanolab import worker

    return worker.main(given.job, given.run_id)
