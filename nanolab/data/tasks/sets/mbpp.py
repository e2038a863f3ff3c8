"""MBPP (Austin et al. 2021), the sanitized rows: a function described in words and by its tests.
Licence of the rows: CC BY 4.0.
"""

import ast
import textwrap
from typing import TYPE_CHECKING

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import programs
from nanolab.data.tasks.programs import program_source
from nanolab.data.tasks.sets.math500 import NEXT_QUESTION
from nanolab.data.tasks.task import Form, Published, Row, Task

if TYPE_CHECKING:
    from nanolab.sandbox.programs import Check


def described_program(row: Row) -> tuple[str, str]:
    """A description with the tests, which alone name the function; the whole function answers."""
    tests = "\n".join(row["test_list"])
    return f"{row['prompt'].strip()} Your code must pass these tests:\n\n{tests}", row["code"]


def entry_point(row: Row) -> str | None:
    """The function of the reference that the tests call: the last defined of those that they do."""
    called = {
        node.func.id
        for test in row["test_list"]
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    defined = [
        node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)
    ]
    return next((name for name in reversed(defined) if name in called), None)


def check_described(row: Row, split: str) -> None:
    """A description, tests that call a function of the reference, and what they import."""
    checks.text("prompt", row["prompt"])
    checks.text("code", row["code"])
    for name in ("test_list", "test_imports"):
        if not isinstance(row[name], list):
            checks.refuse(name, row[name], "a list of texts")
        for place, line in enumerate(row[name]):
            checks.text(f"{name}[{place}]", line)
    try:
        entry = entry_point(row)
    except (SyntaxError, ValueError) as error:
        raise checks.Fault(f"code or test_list is no Python ({error})") from error
    if entry is None:
        checks.refuse("test_list", row["test_list"], "tests that call a function of code")


def described_check(row: Row, completion: str) -> "Check":
    """The program that a completion is, with the row's tests."""
    from nanolab.sandbox.programs import Check  # settings read the tasks: nothing slow at the top

    entry = entry_point(row)
    asserts = textwrap.indent("\n".join(row["test_list"]), "    ")
    test = "\n".join([*row["test_imports"], f"def check({entry}):", asserts, ""])
    return Check(program_source("", completion, entry), entry, test)


TASKS = (
    Task(
        name="mbpp",
        label="MBPP",
        form=Form(
            programs(described_check),
            ("prompt", "code", "test_list", "test_imports"),
            check_described,
            described_program,
            stops=(NEXT_QUESTION,),
        ),
        published=Published(
            "google-research-datasets/mbpp",
            "sanitized",
            "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            "sanitized",
        ),
        splits=("train", "validation", "test"),
        problems=257,
        public_tokens=(110, 80),
        usual=False,
    ),
)
