"""Claims: following a page of docs/how_to literally gives what it promises.

In such a page ```python PATH (or another language with a path) is a whole new file, ```diff PATH a
change to one, and other blocks are run in order: `<!-- test: A => B; + --dry-run; needs micro -->`
above a block puts B for A, adds words to every line, and gives it the store of a finished small
study; a block under a line `*Not run by the tests: REASON*` is not run.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from nanolab.files import ROOT

FENCE = re.compile(
    r"(?P<before>(?:^[^\n]*\n)?)(?:\n)?^```(?P<language>[a-z]+)(?:"
    r" (?P<path>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"\*Not run by the tests: .{10,}\*")
HOW_TO = sorted((ROOT / "docs" / "how_to").glob("add_*.md"))


class Block(NamedTuple):
    """A fenced block of a page: its language, the file it is, the line before it, and its text."""

    page: str
    number: int
    language: str
    path: str | None
    before: str
    text: str


def blocks(page: Path) -> list[Block]:
    name = str(page.relative_to(ROOT))
    return [
        Block(
            name, number, found["language"], found["path"], found["before"].strip(), found["text"]
        )
        for number, found in enumerate(FENCE.finditer(page.read_text()), 1)
    ]


def says(block: Block) -> list[str]:
    """What the comment above a block says of how it is run."""
    found = re.search(r"<!-- test: (.*?) -->", block.before)
    return [part.strip() for part in found[1].split(";")] if found else []


def script(block: Block, folder: Path) -> str:
    """A block's commands as they are run."""
    text = block.text
    for part in says(block):
        if " => " in part:
            old, new = part.split(" => ")
            assert old in text, f"{block.page}: {old!r} does not stand in block {block.number}"
            text = text.replace(old, new.replace("{tmp}", str(folder)))
        elif part.startswith("+ "):
            text = "\n".join(
                f"{line.partition('  #')[0]} {part[2:]}" if line.strip() else line
                for line in text.splitlines()
            )
        else:
            assert part == "needs micro", f"{block.page}: {part!r} is no way of running a block"
    return text


def perform(block: Block, folder: Path, root: Path, store: Path, lines: str) -> str:
    """Runs a block's commands or its Python in `root` with the environment active; returns what it
    printed.
    """
    environment = {
        **os.environ,
        "NANOLAB_MLRUNS": str(store),
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = (
        [sys.executable, "-c", lines]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", lines]
    )
    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (
        f"{block.page}, block {block.number}:\n{lines}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    )
    return done.stdout


def apply(block: Block, root: Path) -> None:
    """Writes the file that a block is, or applies the change that it states; its context must occur
    exactly once.
    """
    path = root / block.path
    if block.language != "diff":
        assert not path.exists() or "/commands/" in block.path, f"{block.path} exists already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        return
    lines = block.text.splitlines()
    assert all(line[:1] in (" ", "-", "+", "") for line in lines), (
        f"{block.page}: a line of block {block.number} is no diff"
    )
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    have = "\n" + path.read_text()
    assert have.count("\n" + old) == 1, (
        f"{block.page}: {have.count(chr(10) + old)} places in {block.path} look like\n{old}"
    )
    path.write_text(have.replace("\n" + old, "\n" + new)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_following_a_page_gives_what_it_promises(page, tmp_path, finished_study):
    root, store = tmp_path / "nanolab", tmp_path / "mlruns"
    for name in ("nanolab", "notebooks", "scripts", "experiments", "tests"):
        shutil.copytree(
            ROOT / name,
            root / name,
            ignore=shutil.ignore_patterns("results", "*.ipynb_checkpoints"),
        )
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(finished_study[0], store)
    for block in blocks(page):
        if block.path:
            assert f"`{block.path}`" in page.read_text(), (
                f"{page.name} does not name {block.path} where it changes it"
            )
            apply(block, root)
        elif block.language in ("sh", "python") and not NOT_RUN.search(block.before):
            perform(block, tmp_path, root, store, script(block, tmp_path))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/test_layering.py",
            "-x",
            "-k",  # how long a file may be is for whoever adds to it
            "not files_are_short",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
