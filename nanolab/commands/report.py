"""`report`: compiles the report of a study's latest execution again."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")


def main(given: argparse.Namespace) -> int:
    """Compiles the report and prints its summary table, and the paths of its Markdown, its page and its CSV."""
    from nanolab import pipeline
    metrics = pipeline.run_stage("report", experiment=given.study).metrics["report"]
    print("\n".join(str(metrics[key]) for key in ("summary", "report", "html", "results") if key in metrics))
    return 0
