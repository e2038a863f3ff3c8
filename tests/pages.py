"""The commands of README.md and docs/*.md, for the tests that run them.

A block of commands is fenced as ```sh. It is run as it stands, unless the page itself says above
    it, visibly, one of *Not run by the tests: REASON* *Run by tests/FILE.py ...*
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"\*(Not run by the tests: .{20,}|Run by (tests/\S+\.py).*)\*")
STUDY_COMMANDS = (
    "chat",
    "clean",
    "compare",
    "export",
    "register",
    "report",
    "results",
)  # they read a finished study
SERVERS = ("ui", "lab", "serve")  # they end when they are interrupted
LINE = re.compile(r"(make \w+|python -m \w|python scripts/|\.venv/bin/)")


class Block(NamedTuple):
    """A fenced block: its language, its text, and what the line above it says of running it."""

    page: Path
    language: str
    text: str
    mark: re.Match | None


class Command(NamedTuple):
    """One command of a page: its words, without the environment variables before it and the files
    that it writes to.
    """

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, found = page.read_text(), []
    for fence in FENCE.finditer(text):
        above = text[: fence.start()].rstrip().rpartition("\n")[2]
        found.append(Block(page, fence[1], fence[2], MARK.fullmatch(above)))
    return found


def commands(page: Path, text: str) -> list[Command]:
    """The commands of some lines of shell, `nanolab NAME ...` for every way of calling the command
    line.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                words.append(word)
                continue
            words = words[: words.index(">")] if ">" in words else words
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                found.append(Command(page, tuple(canonical(words))))
            words = []
    return found


def canonical(words: list[str]) -> list[str]:
    """The same command without the environment's folder; run_all.py is the command `run`."""
    words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    if words[:2] == ["python", "scripts/run_all.py"]:
        return ["nanolab", "run", *words[2:]]
    return ["nanolab", *words[3:]] if words[:3] == ["python", "-m", "nanolab"] else words


def to_run() -> list[Command]:
    """Every command of a block that is not marked, each once."""
    found = [
        command
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh" and not block.mark
        for command in commands(page, block.text)
    ]
    return list({command.words: command for command in found}.values())


def in_sentences() -> list[Command]:
    """Every command between backticks in a sentence."""
    found = []
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())):
            if LINE.match(span):
                found += commands(page, span)
    return list({command.words: command for command in found}.values())


def on_a_finished_study(name: str, folder: Path) -> list[list[str]]:
    """The arguments of the commands that read a finished study, on the study `name` and writing
    into `folder`; `clean` comes last.
    """
    studies = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    found = []
    for command in to_run():
        if command.words[0] == "nanolab" and command.words[1] in STUDY_COMMANDS:
            words = [name if word in studies else word for word in command.words[1:]]
            if "--out" in words:
                place = words.index("--out") + 1
                words[place] = str(folder / words[place])
            found.append(words)
    return sorted(found, key=lambda words: words[0] == "clean")
