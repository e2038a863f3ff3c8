"""`report`: compiles the report of a study's latest execution again."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")


def main(given: argparse.Namespace) -> int:
    """Compiles the report and prints its summary table, and the paths of its Markdown, its page and its CSV.

    Raises UserError for a study that has not run: unlike the report's notebook, a command that reads starts no training.
    """
    from nanolab import pipeline, tracking
    from nanolab.experiment import load_study
    from nanolab.schema import UserError

    execution = pipeline.execution_to_report(load_study(given.study).experiment)
    if not execution:
        raise UserError(
            f"study {given.study!r} has no execution in {tracking.store_uri()}: run it first, with scripts/run_all.py "
            f"{given.study}"
        )
    metrics = pipeline.run_stage("report", experiment=given.study, parent_run_id=execution).metrics[
        "report"
    ]
    print(
        "\n".join(
            str(metrics[key]) for key in ("summary", "report", "html", "results") if key in metrics
        )
    )
    return 0
