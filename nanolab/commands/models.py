"""Models in use: `chat` talks to one in the terminal, `model fetch` brings one from outside,
`register` has MLflow serve the best of a study, `export` writes one as a Hugging Face folder.
"""

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from nanolab.commands.plan import STUDY
from nanolab.errors import UserError
from nanolab.settings.model_source import FORMS, anchored, check_outside, is_outside

STEP = {"type": int, "metavar": "N", "help": "checkpoint step; default: the finished one"}


def chat_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `chat`."""
    add = parser.add_argument
    text = "experiments/NAME.yaml or NAME; default: the newest with a chat model in the store"
    add("study", nargs="?", help=text)
    text = f"base, mid, sft or rl of the study, or {FORMS}; default: sft, else the best there is"
    add("--source", metavar="MODEL", help=text)
    add("--step", **STEP)
    samplers = ["greedy", "sample", "power", "best_of", "majority"]
    add("--sampler", choices=samplers, default="greedy")
    text = "a setting of the sampler: alpha, num_steps, temperature, top_k, samples,"
    text += " max_new_tokens or seed; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    add("--prompt", metavar="TEXT", help="answer this and stop")
    text = "with --prompt: the answer and its cost as one JSON object"
    add("--json", action="store_true", help=text)
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    text = "what computes: nanolab (default), or vllm for a model from outside"
    add("--engine", choices=["nanolab", "vllm"], default="nanolab", help=text)


def chat(given: argparse.Namespace) -> int:
    """Talks until the input ends, or answers --prompt."""
    if given.json and given.prompt is None:
        raise UserError("--json needs --prompt TEXT: it prints one answer")
    from rich.console import Console

    from nanolab import dist
    from nanolab.chat.answer import chat_settings
    from nanolab.chat.screen import Screen
    from nanolab.chat.session import Session
    from nanolab.chat.trained import load_for_chat

    dist.check_device(given.device, "--device")
    settings = chat_settings({"sampler": given.sampler} | _values(given.set))

    def load(source: str | None) -> Session:
        step = given.step if source == given.source else None  # of the model that was asked for
        named = source and anchored(source)
        return Session(*load_for_chat(given.study, named, step, given.device, given.engine))

    session = load(given.source)
    if given.json:
        answer = session.answer(given.prompt, settings).to_dict()
        print(json.dumps({"model": session.name, **answer}, ensure_ascii=False))
        return 0
    screen = Screen(session, settings, Console(highlight=False), load)
    if given.prompt is not None:
        screen.ask(given.prompt)
        return 0
    with _history():
        screen.talk(lambda: input("> " if sys.stdin.isatty() else ""))
    return 0


def _values(items: list[str]) -> dict[str, object]:
    """Settings from KEY=VALUE words."""
    from nanolab.chat.answer import read_value

    values = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark:
            raise UserError(f"--set {item} must have the form KEY=VALUE, e.g. alpha=4")
        values[key] = read_value(value, f"--set {item}")
    return values


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Keeps the typed lines for the next conversation, where Python has readline."""
    if not sys.stdin.isatty() or importlib.util.find_spec("readline") is None:
        yield
        return
    import readline

    from nanolab import files

    path = files.MLRUNS / ".chat_history"
    if path.is_file():
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        readline.write_history_file(path)


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `model`."""
    parser.add_argument("what", choices=["fetch"], help="bring a model, ready to be used")
    parser.add_argument("source", help=FORMS)


def model(given: argparse.Namespace) -> int:
    """Brings a model from outside, checks that it can be served, and prints what it is."""
    source = anchored(given.source)
    if not is_outside(source):
        raise UserError(f"{given.source!r} names no model from outside: it must be {FORMS}")
    check_outside(source)
    import torch

    from nanolab.inference import hf_engine, hf_loading
    from nanolab.settings.model_source import title

    loaded, tokenizer = hf_loading.load(source, torch.device("cpu"))
    asked = "plain text" if tokenizer.plain else "its chat template"
    ends = ", ".join(repr(tokenizer.decode([token])) for token in sorted(tokenizer.end_tokens))
    print(
        f"{title(source)}: {loaded.num_parameters():,} parameters, {tokenizer.vocab_size:,} tokens,"
        f" a context of {hf_engine.context_length(loaded):,}; asked in {asked}; an answer ends with"
        f" {ends}\nready in {_near(hf_loading.folder_of(source))}"
    )
    return 0


def _near(folder: Path) -> str:
    """A folder as a person types it here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def register_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `register`."""
    parser.add_argument("study", **STUDY)


def register(given: argparse.Namespace) -> int:
    """Registers the model, and prints its version and how to serve it."""
    from nanolab.export import registry
    from nanolab.plan.steps import experiment_name
    from nanolab.tracking.address import as_variable

    study = experiment_name(given.study)
    line = registry.register(study)
    print(
        f"{line}\nserve it (with the environment's bin folder on the PATH, for MLflow starts"
        f" uvicorn from there):\n  {as_variable()}mlflow models serve -m {registry.uri_of(study)}"
        " --env-manager local --port 5001"
    )
    return 0


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument("study", **STUDY)
    text = "base, mid, sft (default) or rl"
    parser.add_argument("--source", default="sft", metavar="MODEL", help=text)
    parser.add_argument("--step", **STEP)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder")


def export(given: argparse.Namespace) -> int:
    """Writes the folder and prints its files."""
    from nanolab.chat.trained import load_trained
    from nanolab.export import hf_folder

    subject = load_trained(given.study, given.source, given.step)
    folder = Path(given.out)
    written = hf_folder.export(subject.model, subject.tokenizer, folder, chat=not subject.plain)
    print(f"{subject.facts['name']}: {', '.join(path.name for path in written)} in {given.out}")
    return 0
