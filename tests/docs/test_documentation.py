"""Claims: what README.md and docs/ say can be done. Their commands run, their links lead somewhere,
their messages are the code's.

Commands that read a finished study run in tests/smoke/test_end_to_end.py, which has one; servers
and Make targets are checked without being started.
"""

import ast
import importlib
import re
import subprocess

import pytest
import yaml
from pages import MARK, PAGES, ROOT, SERVERS, STUDY_COMMANDS, blocks, in_sentences, to_run

from nanolab.__main__ import COMMANDS, main, parser
from nanolab.plan import notebook_files
from nanolab.settings.study_file import study_from_dict

BLOCKS = [block for page in PAGES for block in blocks(page)]


def parsed(words: tuple[str, ...]) -> None:
    """The command line takes these words; placeholders of numbers stand for 1."""
    assert words[0] in COMMANDS, f"no command {words[0]}; there are {', '.join(COMMANDS)}"
    try:
        parser(words[0]).parse_args(["1" if word == "N" else word for word in words])
    except SystemExit as ended:
        assert ended.code == 0, f"nanolab {' '.join(words)} is not taken"  # 0: --help


def made(words: tuple[str, ...]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", to_run(), ids=str)
def test_a_command_of_a_page_runs(command, store, monkeypatch, capsys):
    """`run` as a dry run; `make TARGET` with -n; papermill up to its parameters, which
    test_end_to_end.py executes.
    """
    monkeypatch.chdir(ROOT)
    program, *rest = words = command.words
    if program == "nanolab" and rest[0] in COMMANDS:
        parsed(tuple(rest))
        if rest[0] in (*STUDY_COMMANDS, *SERVERS):
            return
        shows = rest[0] != "run" or {"--dry-run", "--list"} & set(rest)
        assert main(rest if shows else [*rest, "--dry-run"]) in (
            0,
            1 if rest[0] == "doctor" else 0,
        ), capsys.readouterr().err
        assert capsys.readouterr().out
    elif words == ("nanolab", "--help"):
        with pytest.raises(SystemExit, match="0"):
            main(rest)
    elif program == "make":
        made(words)
    elif program == "papermill":
        named = {rest[place + 1] for place, word in enumerate(rest) if word == "-p"}
        assert named and named <= set(notebook_files.defaults(ROOT / rest[0]))
    else:
        assert words == (
            ".",
            ".venv/bin/activate",
        ), f"{command}: say above the block why it is not run, or give it a way to be run here"


@pytest.mark.parametrize("command", in_sentences(), ids=str)
def test_a_command_named_in_a_sentence_exists(command):
    program, *rest = command.words
    if program == "nanolab":
        assert rest[0].startswith("-") or rest[0] in COMMANDS
        if len(rest) > 1:
            parsed(tuple(rest))
    elif program == "make":
        made(tuple(word for word in command.words if "…" not in word))
    elif program == "python" and rest[:1] == ["-m"]:
        assert importlib.util.find_spec(rest[1])
    else:
        assert program != "python" or not rest or (ROOT / rest[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_fences_and_marks_above_them(page):
    text, here = page.read_text(), blocks(page)
    assert text.count("\n```") == 2 * len(here)
    assert {block.language for block in here} <= {"sh", "python", "yaml", "text"}
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^\n    \S.*", plain, re.MULTILINE), (
        "a command in an indented block is not seen by the tests: use ```sh"
    )
    assert len(MARK.findall(text)) == sum(block.mark is not None for block in here), (
        "a mark stands on the line above its block"
    )
    for block in here:
        assert not (block.mark and block.mark[2]) or (ROOT / block.mark[2]).is_file()


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("python", "yaml")],
    ids=lambda block: block.page.name,
)
def test_a_snippet_is_valid(block):
    """YAML is settings of a study; of Python, the names that it imports are there."""
    if block.language == "yaml":
        study_from_dict({"base_train": {"steps": 1}, **yaml.safe_load(block.text)})
        return
    for node in ast.parse(block.text).body:
        for name in node.names if isinstance(node, ast.ImportFrom) else []:
            module = importlib.import_module(node.module)
            assert hasattr(module, name.name) or importlib.import_module(
                f"{node.module}.{name.name}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_relative_link_or_image_is_dead(page):
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in [
        *re.findall(r"\]\(([^)\s]+)\)", text),
        *re.findall(r'(?:src|href)="([^"]+)"', text),
    ]:
        if not re.match(r"https?:|mailto:", target):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), f"{page.name} links to {target}, which is not there"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
                assert anchor in {
                    re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                    for heading in headings
                }, target


def test_the_index_leads_to_every_page_and_one_page_names_every_command():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in index, (
            f"docs/README.md does not lead to {page.name}"
        )
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"python -m nanolab {name}" in text, f"docs/commands.md lacks {name}"


def texts() -> list[str]:
    """What the package can say: the constant texts of its code, parts of formatted ones apart, and
    the Makefile.
    """
    found = [(ROOT / "Makefile").read_text()]
    for path in sorted((ROOT / "nanolab").rglob("*.py")):
        tree = ast.parse(path.read_text())
        found += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    return found


def test_the_fixed_parts_of_every_quoted_message_are_the_codes():
    quoted = re.findall(
        r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE
    )
    known = texts()
    assert len(quoted) >= 30
    for message in quoted:
        # a clause that several messages end with is one constant of the code
        clauses = re.split(r"…|[;,] ", message)
        parts = [part.strip(" ():.,;") for part in clauses]
        said = sum(len(part.strip(" ():.")) for part in message.split("…"))
        assert said >= 14, f"{message} says too little"
        for part in parts:
            assert any(part in text for text in known), (
                f"{message!r}: no text of the package has {part!r}"
            )


def test_the_first_screen_of_the_readme_leads_to_a_report():
    lines = (ROOT / "README.md").read_text().splitlines()
    first = "\n".join(lines[:40])
    assert (
        len(lines) < 150
        and "make run" in first
        and "make ui" in first
        and "make lab" in first
        and "run_all.py" in first
    )
    assert first.index("![") < first.index("make run")
    for name in ("steps", "results", "plan"):
        assert lines.index(f"<!-- {name} -->") < lines.index(f"<!-- end {name} -->")
