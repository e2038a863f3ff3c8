"""The command line: `python -m nanolab COMMAND`. Each command is a file of nanolab/commands/, imported when it is called."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (before anything is imported that an older Python cannot even read)
    sys.exit(
        "error: nanolab needs Python 3.11 or newer, this is {}.{}: run it with .venv/bin/python, or `make setup PYTHON=python3.11`".format(
            *sys.version_info[:2]
        )
    )

import argparse
import importlib
import io
import os

from nanolab.schema import UserError

COMMANDS = {  # name: what `--help` says of it
    "run": "run a study: its steps in order, each through its notebook",
    "plan": "show a study's steps, their state and their fingerprints",
    "chat": "talk to a trained model in the terminal",
    "register": "register a study's best chat model in MLflow, to be served",
    "doctor": "check this machine, this install and this store, and say what to do",
    "clean": "show what takes the disk, and remove what no latest result needs",
    "ui": "open the MLflow UI of this store",
    "report": "compile the report of a study's latest execution again",
    "compare": "compare two studies: settings, accuracies with intervals, training, cost",
    "results": "print the results of studies as one CSV",
    "data": "bring the hub data of a study ahead, so that it runs without a network",
    "export": "write a trained model and its tokenizer as a Hugging Face folder",
    "stage": "run one step in this process; the launcher starts this",
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The commands, and the arguments of `command`, whose file alone is imported."""
    main = argparse.ArgumentParser(
        prog="nanolab", description="A small-LLM research lab: raw text to reinforcement learning."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        if name == command:
            importlib.import_module(f"nanolab.commands.{name}").add_arguments(added)
    return main


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 with one line for a person's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # as stderr: a locale without UTF-8 must not end a run that says "→"
    try:
        given = parser(arguments[0] if arguments else None).parse_args(arguments)
        from nanolab import files

        files.check_mlruns()
        status = importlib.import_module(f"nanolab.commands.{given.command}").main(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (
        ModuleNotFoundError
    ) as error:  # an interrupted or an old install, or another Python than the one it went to
        if (error.name or "").split(".")[0] == "nanolab":
            raise
        return _mistake(
            f"the package {error.name} is not installed for {sys.executable}: run `make setup`, and use .venv/bin/python"
        )
    except Exception as error:
        if not files.is_full(error):
            raise
        return _mistake(files.full_line())


def _mistake(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
