"""`data fetch`: brings the hub data of a study ahead, so that it runs without a network."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("action", choices=["fetch"])
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="change a setting; may be repeated",
    )


def main(given: argparse.Namespace) -> int:
    """Fetches the files."""
    from nanolab.experiment import load_study
    from nanolab.fetch import fetch

    fetch(load_study(given.study, given.set))
    return 0
