"""The command line: `python -m nanolab COMMAND`. Each command is a file of nanolab/commands/, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from nanolab.schema import UserError

COMMANDS = {  # name: what `--help` says of it
    "run": "run a study: its steps in order, each through its notebook",
    "plan": "show a study's steps, their state and their fingerprints",
    "chat": "talk to a trained model in the terminal",
    "register": "register a study's best chat model in MLflow, to be served",
    "report": "compile the report of a study's latest execution again",
    "compare": "compare two studies: settings, accuracies with intervals, training, cost",
    "results": "print the results of studies as one CSV",
    "data": "bring the hub data of a study ahead, so that it runs without a network",
    "export": "write a trained model and its tokenizer as a Hugging Face folder",
    "stage": "run one step in this process; the launcher starts this",
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The commands, and the arguments of `command`, whose file alone is imported."""
    main = argparse.ArgumentParser(prog="nanolab", description="A small-LLM research lab: raw text to reinforcement learning.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        if name == command:
            importlib.import_module(f"nanolab.commands.{name}").add_arguments(added)
    return main


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 with one line for a person's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser(arguments[0] if arguments else None).parse_args(arguments)
    try:
        status = importlib.import_module(f"nanolab.commands.{given.command}").main(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
