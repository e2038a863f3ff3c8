"""What a person sees of a conversation in a terminal: answers as they grow, tool calls in colour, commands, and the cost of each answer.

Colours follow the console (rich): none where NO_COLOR is set or the output is no terminal; there an answer is printed once, when it is
whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nanolab.chat_session import Answer, ChatSettings, Moment, Session, chat_settings
from nanolab.schema import UserError

STYLES = {
    "text": "",
    "python": "bold cyan",
    "output": "green",
    "new": "bold",
    "cost": "dim",
    "note": "yellow",
    "error": "bold red",
}
FRAME_SECONDS = 1 / 30  # between two pictures of a growing answer
ENDS = ("/quit", "/exit", "quit", "exit")
EXAMPLE = "Mia has 12 coins. Mia buys 7 more coins. How many coins does Mia have now?"  # as the embedded world asks
MOVES = {(True, True): "+", (True, False): "=", (False, False): "."}  # (accepted, moved)
HELP = """\
/greedy                    the likeliest token at each place
/sample [T] [TOP_K]        one draw at temperature T, from the TOP_K likeliest tokens
/power [ALPHA] [STEPS] [T] Metropolis-Hastings on p^ALPHA; the marks are its steps: + another text, = the same text again, . rejected
/best [N]                  the likeliest of N samples
/majority [N]              the answer (after ####) that most of N samples give
/tokens N                  an answer is cut at N tokens
/seed N                    other random numbers
/new                       forget the conversation
/model SOURCE              talk to base, mid, sft or rl of this study, or to hf:NAME-or-folder
/help, /quit               Ctrl-C stops an answer, Ctrl-D ends the program"""

# command: the setting or sampler that it chooses, and what its words set
SWITCHES: dict[str, tuple[dict[str, Any], Sequence[tuple[str, type]]]] = {
    "greedy": ({"sampler": "greedy"}, ()),
    "sample": ({"sampler": "sample"}, (("temperature", float), ("top_k", int))),
    "power": ({"sampler": "power"}, (("alpha", float), ("num_steps", int), ("temperature", float))),
    "best": ({"sampler": "best_of"}, (("samples", int),)),
    "majority": ({"sampler": "majority"}, (("samples", int),)),
    "tokens": ({}, (("max_new_tokens", int),)),
    "seed": ({}, (("seed", int),)),
}


def switched(settings: ChatSettings, command: str, words: Sequence[str]) -> ChatSettings:
    """The settings after a command such as ("power", ["4", "10"]); raises UserError for a word that is not what it takes."""
    fixed, names = SWITCHES[command]
    usage = f"/{command}" + "".join(
        f" [{name.upper()}]" if fixed else f" {name.upper()}" for name, _ in names
    )
    if len(words) > len(names) or (not fixed and not words):
        raise UserError(
            f"/{command} takes {len(names)} value{'s' * (len(names) != 1)}{' at most' if fixed and names else ''}: {usage}"
        )
    values = dict(fixed)
    for word, (name, kind) in zip(words, names):
        try:
            values[name] = kind(word)
        except ValueError as error:
            raise UserError(
                f"{word!r} is not {'a whole number' if kind is int else 'a number'}: {usage}"
            ) from error
    chat_settings(values)  # the ranges
    return replace(settings, **values)


class Screen:
    """A conversation at a terminal. `load` gives the session of another model of the study by its source."""

    def __init__(
        self,
        session: Session,
        settings: ChatSettings,
        console: Console,
        load: Callable[[str], Session],
    ) -> None:
        self.session, self.settings, self.console, self.load = session, settings, console, load

    def talk(self, read: Callable[[], str]) -> None:
        """Answers what `read` gives until it raises EOFError or says /quit (or another of ENDS)."""
        self._greet()
        while True:
            try:
                line = read().strip()
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self._note("\nCtrl-D or /quit ends the program")
                continue
            if line in ENDS:
                return
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.ask(line)
            except KeyboardInterrupt:
                self._note("stopped; this question is not kept")
            except UserError as error:
                self.console.print(Text(str(error), STYLES["error"]), soft_wrap=True)

    def command(self, line: str) -> None:
        """Does what a line such as "/power 4 10" says; raises UserError for an unknown one."""
        name, *words = line[1:].split() or [""]
        if name in SWITCHES:
            self.settings = switched(self.settings, name, words)
            self._note(self.settings.line if SWITCHES[name][0] else f"{name} {words[0]}")
            if (
                self.settings.max_new_tokens >= (context := self.session.subject.context)
                and name == "tokens"
            ):
                self._note(
                    f"an answer also ends where the model's context does: {context} tokens, with the question and all before it"
                )
        elif name == "new":
            self.session.clear()
            self._note("a new conversation")
        elif name == "model" and len(words) == 1:
            self.session = self.load(words[0])
            self._greet()
        elif name == "help":
            self.console.print(Text(HELP), soft_wrap=True)
        elif name == "model":
            raise UserError("/model takes one source, e.g. /model base")
        else:
            raise UserError(f"unknown command {line!r}; /help lists them")

    def ask(self, prompt: str) -> Answer:
        """Draws and shows an answer."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            answer = self.session.answer(prompt, self.settings)
            self.console.print(shown(answer.parts), soft_wrap=True)
        else:
            with Live(
                console=self.console, auto_refresh=False, vertical_overflow="visible"
            ) as live:
                answer = self.session.answer(prompt, self.settings, _Growing(live, self.settings))
                live.update(shown(answer.parts), refresh=True)
        self.console.print(Text(cost(answer), STYLES["cost"]), soft_wrap=True)
        return answer

    def _greet(self) -> None:
        self.console.print(
            Text(f"{self.session.name}: {self.settings.line}. /help lists the commands."),
            soft_wrap=True,
        )
        if self.session.subject.plain:
            self._note(
                'a base model is asked in plain text ("Question: ... Answer:"), each question by itself'
            )
        if self.session.subject.facts.get("data") == "embedded":  # the model knows no other world
            self._note(f"for example: {EXAMPLE}")

    def _note(self, text: str) -> None:
        self.console.print(Text(text, STYLES["note"]), soft_wrap=True)


class _Growing:
    """Shows the moments of an answer; pictures that come too fast are left out, steps of a chain are not."""

    def __init__(self, live: Live, settings: ChatSettings) -> None:
        self.live, self.settings, self.moves, self.before, self.last = live, settings, "", "", 0.0

    def __call__(self, moment: Moment) -> None:
        if moment.accepted is None and time.monotonic() - self.last < FRAME_SECONDS:
            return
        self.last = time.monotonic()
        picture = shown(moment.parts)
        if self.settings.sampler == "power":
            if moment.accepted is not None:
                self.moves += MOVES[moment.accepted, moment.moved]
            picture.stylize(STYLES["new"], common_start(picture.plain, self.before))
            self.before = picture.plain
            log_p = "" if moment.log_p is None else f", log p {moment.log_p:.2f}"
            picture = Group(
                picture,
                Text(
                    f"step {moment.step}/{self.settings.num_steps} {self.moves[-60:]}{log_p}",
                    STYLES["cost"],
                ),
            )
        self.live.update(picture, refresh=True)


def common_start(text: str, before: str) -> int:
    """Characters with which two texts both begin."""
    return next(
        (i for i, (one, other) in enumerate(zip(text, before)) if one != other),
        min(len(text), len(before)),
    )


def shown(parts: Sequence[dict[str, str]]) -> Text:
    """The parts of an answer as a person reads them: a tool call and its output as <<call=output>>, in their colours."""
    text, opened = Text(), False
    for i, part in enumerate(parts):
        if part["type"] == "python":
            answered = i + 1 < len(parts) and parts[i + 1]["type"] == "output"
            text.append(f"<<{part['text']}{'' if answered else '>>'}", STYLES["python"])
            opened = answered
        elif part["type"] == "output":
            text.append("=" if opened else "<<=", STYLES["python"]).append(
                part["text"], STYLES["output"]
            ).append(">>", STYLES["python"])
            opened = False
        else:
            text.append(part["text"].rstrip("\N{REPLACEMENT CHARACTER}"), STYLES["text"])
    return text


def cost(answer: Answer) -> str:
    """What an answer cost, in one line."""
    facts = [
        f"{answer.tokens} tokens",
        f"{answer.positions} positions",
        f"{answer.seconds:.2f} s",
        f"log p {answer.log_p:.2f}",
        answer.sampler,
    ]
    if answer.steps is not None:
        facts.append(f"{answer.accepted} of {answer.steps} steps accepted")
    if answer.votes is not None:
        facts.append(f"{answer.votes} vote{'s' * (answer.votes != 1)}")
    if not answer.ended:
        facts.append(f"cut at {answer.tokens} tokens")
    if answer.dropped:
        facts.append(f"the first {answer.dropped} messages did not fit into the context")
    return "[" + ", ".join(facts) + "]"
