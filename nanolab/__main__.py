"""The command line: `python -m nanolab COMMAND`. The command's file of nanolab/commands/ alone is
imported.
"""

import sys

# before anything is imported that an older Python cannot even read
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "error: nanolab needs Python 3.11 or newer, this is {}.{}: run it with .venv/bin/python, or"
        " `make setup PYTHON=python3.11`".format(*sys.version_info[:2])
    )

import argparse
import importlib
import io
import os
import traceback

from nanolab.errors import UserError

# name: the file of its function (and of NAME_arguments), and what `--help` says of it
COMMANDS = {
    "run": ("run", "run a study: its steps in order, each through its notebook"),
    "plan": ("plan", "show a study's steps, their state and their fingerprints"),
    "chat": ("models", "talk to a trained model in the terminal"),
    "model": ("models", "bring a published model, ready to be used without a network"),
    "register": ("models", "register a study's best chat model in MLflow, to be served"),
    "doctor": ("upkeep", "check this machine, this install and this store, and say what to do"),
    "clean": ("upkeep", "show what takes the disk, and remove what no latest result needs"),
    "ui": ("servers", "open the MLflow UI of this store"),
    "lab": ("servers", "open JupyterLab on the notebooks"),
    "serve": ("servers", "answer for a model behind OpenAI's interface, power sampling included"),
    "report": ("run", "compile the report of a study's latest execution again"),
    "compare": ("compare", "compare two studies: settings, accuracies, training, cost"),
    "results": ("compare", "print the results of studies as one CSV"),
    "data": ("plan", "bring the hub data of a study ahead, so that it runs without a network"),
    "export": ("models", "write a trained model and its tokenizer as a Hugging Face folder"),
    "stage": ("run", "run one step in this process; the launcher starts this"),
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The commands, and the arguments of `command`, whose file alone is imported."""
    about = "A small-LLM research lab: raw text to reinforcement learning."
    main = argparse.ArgumentParser(prog="nanolab", description=about)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (file, text) in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        if name == command:
            group = importlib.import_module(f"nanolab.commands.{file}")
            getattr(group, f"{name}_arguments")(added)
            added.set_defaults(action=getattr(group, name))
    return main


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 with one line for a person's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # as stderr: a locale without UTF-8 must not end a run that says "→"
        sys.stdout.reconfigure(errors="backslashreplace")
    from nanolab import files

    try:
        given = parser(arguments[0] if arguments else None).parse_args(arguments)
        files.check_mlruns()
        status = given.action(given)
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
    except ModuleNotFoundError as error:  # an old install, or another Python than its own
        if (error.name or "").split(".")[0] == "nanolab":
            raise
        return _mistake(
            f"the package {error.name} is not installed for {sys.executable}: run `make setup`, and"
            " use .venv/bin/python"
        )
    except Exception as error:
        if mistake := files.mistake_of(error):
            return _mistake(str(mistake))
        _say(traceback.format_exc())
        _say(f"error: {files.last_line(error)}")
        return 1


def _mistake(line: str) -> int:
    _say(f"error: {line}")
    return 2


def _say(text: str) -> None:
    """Prints to standard error, without what is secret."""
    from nanolab.tracking.address import masked

    print(masked(text.rstrip()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
