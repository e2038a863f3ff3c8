"""`export`: writes a trained model of a study and its tokenizer as a Hugging Face folder."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")
    parser.add_argument(
        "--source", default="sft", metavar="MODEL", help="base, mid, sft (default) or rl"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint step; default: the finished one"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder")


def main(given: argparse.Namespace) -> int:
    """Writes the folder and prints its files."""
    from pathlib import Path

    from nanolab.hf_export import export
    from nanolab.trained import load_trained

    subject = load_trained(given.study, given.source, given.step)
    written = export(subject.model, subject.tokenizer, Path(given.out), chat=not subject.plain)
    print(f"{subject.facts['name']}: {', '.join(path.name for path in written)} in {given.out}")
    return 0
