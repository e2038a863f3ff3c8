"""HumanEval (Chen et al. 2021): a function's head to be gone on from, with tests."""

import re

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import programs
from nanolab.data.tasks.programs import check_of
from nanolab.data.tasks.task import Form, Published, Row, Task

COLUMNS = ("prompt", "canonical_solution", "test", "entry_point", "task_id")


def program(row: Row) -> tuple[str, str]:
    """A HumanEval row: the assistant goes on from the prompt with the function's body.

    The body alone, since a copied signature costs a small model tokens and errors. Grading takes a
    whole function too, and ends a body before the next line at column 0: the form needs no stops.
    """
    return row["prompt"].rstrip("\n"), row["canonical_solution"].strip("\n")


def check_program(row: Row, split: str) -> None:
    """A prompt that names its function, its body, and a test that defines check."""
    for name in sorted(COLUMNS):
        checks.text(name, row[name])
    entry, prompt = row["entry_point"], checks.quoted(row["prompt"])
    if not entry.isidentifier() or not re.search(rf"\bdef +{entry}\b", row["prompt"]):
        checks.refuse("entry_point", entry, f"the name of the function in the prompt {prompt}")
    if not re.search(r"\bdef check\b|\bcheck *=", row["test"]):
        checks.refuse("test", row["test"], "a program that defines check(candidate)")


PROGRAM = Form(programs(check_of), COLUMNS, check_program, program, is_continued=True)
TASKS = (
    Task(
        name="humaneval",
        label="HumanEval",
        form=PROGRAM,
        published=Published(
            "openai/openai_humaneval",
            "openai_humaneval",
            "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            "openai_humaneval",
        ),
        splits=("test",),
        problems=164,
        public_tokens=(150, 150),
        embedded_tokens=(33, 21),
    ),
)
