"""Claims: what the pages say can be done. Every command and snippet of README, CONTRIBUTING and docs/ runs (or the page says that it is not
run, and why), every link leads somewhere, every quoted message exists, and following a how-to page literally gives what it promises.

A page says how a block is run, where that differs from running it as it stands, in an HTML comment above it:
`<!-- test: A => B; + --dry-run; needs micro -->` puts B for A, adds words to every line, and gives it the store of a finished small study.
A block under a line `*Not run by the tests: REASON*` is not run. ```python PATH is a whole new file, ```diff PATH a change to one.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from nanolab import files
from nanolab.__main__ import COMMANDS

ROOT = files.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?P<before>(?:^[^\n]*\n)?)(?:\n)?^```(?P<language>[a-z]+)(?: (?P<path>\S+))?\n(?P<text>.*?)^```$",
                   re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"\*Not run by the tests: .{10,}\*")
STEPS_OF_THE_STORE = "sft"


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
    return [Block(name, number, found["language"], found["path"], found["before"].strip(), found["text"])
            for number, found in enumerate(FENCE.finditer(page.read_text()), 1)]


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
            text = "\n".join(f"{line.partition('  #')[0]} {part[2:]}" if line.strip() else line for line in text.splitlines())
        else:
            assert part == "needs micro", f"{block.page}: {part!r} is no way of running a block"
    return text


def perform(block: Block, folder: Path, root: Path, store: Path, lines: str) -> str:
    """Runs a block's commands or its Python in `root` with the environment active; returns what it printed."""
    environment = {**os.environ, "NANOLAB_MLRUNS": str(store), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", lines] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", lines]
    done = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{block.page}, block {block.number}:\n{lines}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


# ---- every command runs

ALL = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in ALL if block.language in ("sh", "python") and not block.path and not NOT_RUN.search(block.before)
       and "/how_to/" not in block.page]
HOW_TO = sorted((ROOT / "docs" / "how_to").glob("add_*.md"))


@pytest.fixture(scope="session")
def micro_store(tmp_path_factory) -> Path:
    """The store of the micro study up to its chat model; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    store = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "micro-for-pages"
    with files.file_lock(store.with_suffix(".lock")):
        if not (store / "done").is_file():
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir()
            environment = {**os.environ, "NANOLAB_MLRUNS": str(store), "PYTHONPATH": str(ROOT)}
            done = subprocess.run([sys.executable, "-m", "nanolab", "run", "micro", "--only", STEPS_OF_THE_STORE], cwd=ROOT,
                                  env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            (store / "done").touch()
    return store


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}-{block.number}")
def test_the_commands_of_a_page_run(block, tmp_path, request):
    store = tmp_path / "mlruns"
    if "needs micro" in says(block):
        shutil.copytree(request.getfixturevalue("micro_store"), store)
    else:
        store.mkdir()
        shutil.copy(request.getfixturevalue("template_store"), store / "mlflow.db")
    perform(block, tmp_path, ROOT, store, script(block, tmp_path))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "team.md"], ids=lambda page: page.name)  # see tests/test_team.py
def test_a_page_has_its_commands_in_fences_and_no_untested_form_slips_by(page):
    assert {block.language for block in blocks(page)} <= {"sh", "python", "diff", "text", "yaml"}
    assert page.read_text().count("\n```") % 2 == 0
    assert not re.findall(r"\n\n    \S", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)), "use a fence for a command"
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_named_in_a_sentence_exist(page):
    text = page.read_text()
    commands = re.findall(r"python -m nanolab ([a-z_]+)", text)
    assert set(commands) <= set(COMMANDS), f"no command {set(commands) - set(COMMANDS)}"
    assert all((ROOT / path).is_file() for path in re.findall(r"python (scripts/\w+\.py)", text))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", text)) | set(re.findall(r"^make (\w+)", text, re.MULTILINE)) <= targets


def test_every_command_is_described():
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"python -m nanolab {name}" in text, f"docs/commands.md lacks {name}"


# ---- a how-to page, followed literally

def apply(block: Block, root: Path) -> None:
    """Writes the file that a block is, or applies the change that it states; its context must occur exactly once."""
    path = root / block.path
    if block.language != "diff":
        assert not path.exists() or "/commands/" in block.path, f"{block.path} exists already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        return
    lines = block.text.splitlines()
    assert all(line[:1] in (" ", "-", "+", "") for line in lines), f"{block.page}: a line of block {block.number} is no diff"
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    have = "\n" + path.read_text()
    assert have.count("\n" + old) == 1, f"{block.page}: {have.count(chr(10) + old)} places in {block.path} look like\n{old}"
    path.write_text(have.replace("\n" + old, "\n" + new)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_following_a_how_to_page_gives_what_it_promises(page, tmp_path, micro_store):
    root, store = tmp_path / "nanolab", tmp_path / "mlruns"
    for name in ("nanolab", "notebooks", "scripts", "experiments", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "results", "*.ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(micro_store, store)
    for block in blocks(page):
        if block.path:
            assert f"`{block.path}`" in page.read_text(), f"{page.name} does not name {block.path} where it changes it"
            apply(block, root)
        elif block.language in ("sh", "python") and not NOT_RUN.search(block.before):
            perform(block, tmp_path, root, store, script(block, tmp_path))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_layering.py", "-x"], cwd=root,
                          env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


# ---- links, messages, docstrings, generated pages

def anchors(text: str) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_or_image_of_a_page_is_dead(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]:
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if fragment:
            assert fragment in anchors(found.read_text()), f"{page.name}: no heading for {target}"


def test_every_page_is_reached_from_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES[2:]:
        if page.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index, f"docs/README.md does not list {page.name}"


def templates() -> list[re.Pattern]:
    """Every text of the package as a pattern, its values left open."""
    found = set()
    for path in sorted((ROOT / "nanolab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".*?" for part in node.values]
                found.add("".join(parts).split("\\\n")[0])  # the first line of several
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                found.add(re.escape(node.value))
    return [re.compile(text, re.DOTALL) for text in found if len(re.sub(r"\.\*\?|\\", "", text)) >= 18]


def test_every_message_in_troubleshooting_is_one_of_the_code():
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    known = templates()
    assert len(quoted) >= 15
    for message in quoted:
        assert any(pattern.fullmatch(message) for pattern in known), f"no text of the package gives: {message}"


def undocumented(path: Path) -> list[str]:
    """Public modules, classes, functions and methods of a file without a docstring, but for methods that a base class explains."""
    tree = ast.parse(path.read_text())
    missing = [] if ast.get_docstring(tree) or not tree.body else [path.stem]

    def look(node: ast.AST, name: str, inherits: bool) -> None:
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                if not ast.get_docstring(child) and not inherits:
                    missing.append(f"{path.name}: {name}{child.name}")
                if isinstance(child, ast.ClassDef):
                    look(child, f"{child.name}.", bool(child.bases))

    look(tree, "", False)
    return missing


@pytest.mark.parametrize("path", sorted((ROOT / "nanolab").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "nanolab")))
def test_everything_public_has_a_docstring(path):
    assert not undocumented(path)


def test_the_api_reference_builds(tmp_path):
    """One module that imports nothing slow; `make docs` makes all of it."""
    pdoc = pytest.importorskip("pdoc", reason="the extra docs is not installed")
    pdoc.pdoc("nanolab.seeds", "nanolab.intervals", output_directory=tmp_path)
    assert "def uniform" in re.sub("<.*?>", "", (tmp_path / "nanolab" / "seeds.html").read_text())
    assert "pdoc" in (ROOT / "Makefile").read_text()


def test_the_page_of_settings_is_current():
    command = [sys.executable, "scripts/write_settings_page.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, f"{done.stderr}run {shlex.join(command[1:-1])}"


def test_the_citation_file_has_what_the_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "authors", "license"))
    for entry in [citation, *citation["references"]]:
        assert all("name" in author or "family-names" in author for author in entry["authors"])
    assert any(one.get("value") == "2510.14901" for reference in citation["references"] for one in reference.get("identifiers", []))
