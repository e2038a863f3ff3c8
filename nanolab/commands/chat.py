"""`chat`: a conversation with a trained model in the terminal, or one answer."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "study",
        nargs="?",
        help="experiments/NAME.yaml or NAME; default: the newest with a chat model in the store",
    )
    parser.add_argument(
        "--source",
        metavar="MODEL",
        help="base, mid, sft or rl of the study, or hf:NAME-or-folder; "
        "default: sft, else the best that is there",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint step; default: the finished one"
    )
    parser.add_argument(
        "--sampler", choices=["greedy", "sample", "power", "best_of", "majority"], default="greedy"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the sampler, e.g. alpha=4, num_steps=10, temperature=0.7, top_k=50, samples=11, "
        "max_new_tokens=128, seed=0; may be repeated",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and stop")
    parser.add_argument(
        "--json",
        action="store_true",
        help="with --prompt: the answer and its cost as one JSON object",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")


def main(given: argparse.Namespace) -> int:
    """Talks until the input ends, or answers --prompt."""
    from nanolab.schema import UserError

    if given.json and given.prompt is None:
        raise UserError("--json needs --prompt TEXT: it prints one answer")
    import json

    from rich.console import Console

    from nanolab import dist
    from nanolab.chat_screen import Screen
    from nanolab.chat_session import Session, chat_settings
    from nanolab.trained import load_for_chat

    dist.check_device(given.device, "--device")
    settings = chat_settings({"sampler": given.sampler} | _values(given.set))

    def load(source: str | None) -> Session:
        step = (
            given.step if source == given.source else None
        )  # a step is one of the model that was asked for
        return Session(*load_for_chat(given.study, source, step, given.device))

    session = load(given.source)
    if given.json:
        print(
            json.dumps(
                {"model": session.name, **session.answer(given.prompt, settings).to_dict()},
                ensure_ascii=False,
            )
        )
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
    import yaml

    from nanolab.schema import UserError

    values = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark:
            raise UserError(f"--set {item} must have the form KEY=VALUE, e.g. alpha=4")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {item}: {' '.join(str(error).split())}") from error
    return values


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Keeps the lines typed at a terminal from one conversation to the next, where Python has readline."""
    from nanolab import files

    if not sys.stdin.isatty() or importlib.util.find_spec("readline") is None:
        yield
        return
    import readline

    path = files.MLRUNS / ".chat_history"
    if path.is_file():
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        readline.write_history_file(path)
