"""`results`: what studies ended with, as one CSV (its columns: nanolab/report/results.py)."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "studies",
        nargs="+",
        metavar="STUDY",
        help="studies (the latest execution of each of their seeds), or run ids of executions",
    )
    parser.add_argument("--out", metavar="FILE", help="write it there instead of printing it")


def main(given: argparse.Namespace) -> int:
    """Prints or writes the rows of every study, one after another, below one header."""
    from nanolab import compare, files
    from nanolab.report import results
    from nanolab.schema import UserError

    found = [
        compare.find(name) for name in given.studies
    ]  # a study that never ran is refused before anything is printed
    sides = [
        each
        for name, side in zip(given.studies, found)
        for each in ([side] if name == side.execution.id else compare.seeds_of(side))
    ]
    text = results.to_csv(
        [row for side in sides for row in results.of_execution(side.execution.id)]
    )
    if given.out:
        try:
            files.write_atomic(given.out, text)
        except OSError as error:
            raise UserError(f"--out {given.out} cannot be written: {error.strerror}") from error
        print(f"{text.count(chr(10)) - 1} rows in {given.out}")
    else:
        print(text, end="")
    return 0
