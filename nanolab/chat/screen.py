"""A conversation in a terminal: answers as they grow, tool calls in colour, commands, and the cost
of each answer. Where the output is no terminal, an answer is printed once, when it is whole.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nanolab.chat.answer import Answer, ChatSettings, Part, chat_settings, read_value
from nanolab.chat.session import Moment, Session
from nanolab.errors import UserError
from nanolab.wording import clock

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
# as the embedded world asks
EXAMPLE = "Mia has 12 coins. Mia buys 7 more coins. How many coins does Mia have now?"
MOVES = {(True, True): "+", (True, False): "=", (False, False): "."}  # (accepted, moved)
HELP = """\
/greedy                    the likeliest token at each place
/sample [T] [TOP_K]        one draw at temperature T, from the TOP_K likeliest tokens
/power [ALPHA] [STEPS] [T] Metropolis-Hastings on p^ALPHA; the marks are its steps: + another text,
                          = the same text again, . rejected
/best [N]                  the likeliest of N samples
/majority [N]              the answer (after ####) that most of N samples give
/tokens N                  an answer is cut at N tokens
/seed N                    other random numbers
/new                       forget the conversation
/model SOURCE              talk to base, mid, sft, rl of this study, hf:..., gguf:... or wheel:...
/help, /quit               Ctrl-C stops an answer, Ctrl-D ends the program"""

SWITCHES = {  # command: the sampler that it chooses, and the settings that its words set
    "greedy": ("greedy", ()),
    "sample": ("sample", ("temperature", "top_k")),
    "power": ("power", ("alpha", "num_steps", "temperature")),
    "best": ("best_of", ("samples",)),
    "majority": ("majority", ("samples",)),
    "tokens": ("", ("max_new_tokens",)),
    "seed": ("", ("seed",)),
}


def switched(settings: ChatSettings, command: str, words: Sequence[str]) -> ChatSettings:
    """The settings after a command such as ("power", ["4", "10"])."""
    sampler, names = SWITCHES[command]
    usage = " ".join([f"/{command}", *(name.upper() for name in names)])
    if len(words) > len(names) or not (sampler or words):
        raise UserError(f"/{command} takes {len(names)} value(s): {usage}")
    given = {name: read_value(word, f"/{command} {word}") for name, word in zip(names, words)}
    values = asdict(settings) | given
    return chat_settings(values | {"sampler": sampler or settings.sampler})


class Screen:
    """A conversation at a terminal. `load` gives the session of another model by its source."""

    def __init__(
        self,
        session: Session,
        settings: ChatSettings,
        console: Console,
        load: Callable[[str], Session],
    ) -> None:
        self.session, self.settings = session, settings
        self.console, self.load = console, load

    def talk(self, read: Callable[[], str]) -> None:
        """Answers what `read` gives until EOFError or one of ENDS."""
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
                self._print(str(error), "error")

    def command(self, line: str) -> None:
        """Does what a line such as "/power 4 10" says."""
        name, *words = line[1:].split() or [""]
        if name in SWITCHES:
            self.settings = switched(self.settings, name, words)
            self._note(self.settings.line if SWITCHES[name][0] else " ".join([name, *words]))
            context = self.session.subject.context
            if name == "tokens" and self.settings.max_new_tokens >= context:
                self._note(f"an answer also ends where the model's context does: {context} tokens")
        elif name == "new":
            self.session.messages = []
            self._note("a new conversation")
        elif name == "model":
            if len(words) != 1:
                raise UserError("/model takes one source, e.g. /model base")
            self.session = self.load(words[0])
            self._greet()
        elif name == "help":
            self._print(HELP)
        else:
            raise UserError(f"unknown command {line!r}; /help lists them")

    def ask(self, prompt: str) -> Answer:
        """Draws and shows an answer."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            answer = self.session.answer(prompt, self.settings)
            self.console.print(styled(answer.parts), soft_wrap=True)
        else:
            with Live(
                console=self.console, auto_refresh=False, vertical_overflow="visible"
            ) as live:
                watch = _LiveAnswer(live, self.settings)
                answer = self.session.answer(prompt, self.settings, watch)
                live.update(styled(answer.parts), refresh=True)
        self._print(cost(answer), "cost")
        return answer

    def _greet(self) -> None:
        subject = self.session.subject
        self._print(f"{self.session.name}: {self.settings.line}. /help lists the commands.")
        if subject.plain:
            self._note("a base model is asked in plain text, each question by itself")
        if subject.facts.get("data") == "embedded":  # the model knows no other world
            self._note(f"for example: {EXAMPLE}")

    def _note(self, text: str) -> None:
        self._print(text, "note")

    def _print(self, text: str, style: str = "text") -> None:
        self.console.print(Text(text, STYLES[style]), soft_wrap=True)


class _LiveAnswer:
    """Shows the moments of an answer, of those between the steps of a chain some."""

    def __init__(self, live: Live, settings: ChatSettings) -> None:
        self.live, self.settings = live, settings
        self.moves = ""  # a mark for each step
        self.before, self.last = "", 0.0  # text and time of the last picture

    def __call__(self, moment: Moment) -> None:
        if moment.accepted is None and time.monotonic() - self.last < FRAME_SECONDS:
            return
        self.last = time.monotonic()
        picture = styled(moment.parts)
        if self.settings.sampler == "power":
            if moment.accepted is not None:
                self.moves += MOVES[moment.accepted, moment.moved]
            start = len(os.path.commonprefix([picture.plain, self.before]))  # noqa: RUF071
            picture.stylize(STYLES["new"], start)
            self.before = picture.plain
            log_p = "" if moment.log_p is None else f", log p {moment.log_p:.2f}"
            line = f"step {moment.step}/{self.settings.num_steps} {self.moves[-60:]}{log_p}"
            picture = Group(picture, Text(line, STYLES["cost"]))
        self.live.update(picture, refresh=True)


def styled(parts: Sequence[Part]) -> Text:
    """A tool call and its output as <<call=output>>, in their colours."""
    text, opened = Text(), False
    for part, after in zip(parts, [*parts[1:], {"type": "text"}]):
        kind, words = part["type"], part["text"]
        if kind == "python":
            opened = after["type"] == "output"
            text.append(f"<<{words}{'' if opened else '>>'}", STYLES["python"])
        elif kind == "output":
            text.append("=" if opened else "<<=", STYLES["python"])
            text.append(words, STYLES["output"]).append(">>", STYLES["python"])
            opened = False
        else:
            text.append(words.rstrip("\N{REPLACEMENT CHARACTER}"), STYLES["text"])
    return text


def cost(answer: Answer) -> str:
    """What an answer cost, in one line."""
    facts = [
        f"{answer.tokens} tokens",
        f"{answer.positions} positions",
        clock(answer.seconds),
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
