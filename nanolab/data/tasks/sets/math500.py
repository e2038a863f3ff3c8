"""MATH-500 (Lightman et al. 2023, of Hendrycks et al. 2021): competition problems with an answer in
LaTeX, graded by mathematical equality (nanolab/sandbox/expressions.py).
"""

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import EXPRESSION, boxed
from nanolab.data.tasks.task import Form, Published, Row, Task

ASKED = "Please reason step by step, and put your final answer within \\boxed{}."
# where a base model writes the next question of a plain prompt itself; its box is no answer
NEXT_QUESTION = "\nQuestion:"
LEVELS = 5


def boxed_problem(problem: str, answer: str) -> tuple[str, str]:
    """A problem that asks for its answer in a box, and that answer."""
    return f"{problem}\n{ASKED}", f"\\boxed{{{answer}}}"


def read_problem(row: Row) -> tuple[str, str]:
    """A MATH row, answered by its box alone: not every copy of the set has the solutions."""
    return boxed_problem(row["problem"], row["answer"])


def check_expression(row: Row, split: str) -> None:
    """A problem, an answer that can stand in a box, and subject and level where they are known."""
    checks.text("problem", row["problem"])
    checks.text("answer", row["answer"])
    if boxed(f"\\boxed{{{row['answer']}}}") != row["answer"].strip():
        checks.refuse("answer", row["answer"], "LaTeX whose braces are closed")
    if row["subject"] is not None:
        checks.text("subject", row["subject"])
    level = row.get("level")
    if level is not None and (type(level) is not int or not 1 <= level <= LEVELS):
        checks.refuse("level", level, f"a whole number from 1 to {LEVELS}, or null")


MATH = Form(
    EXPRESSION,
    ("problem", "answer", "subject"),
    check_expression,
    read_problem,
    stops=(NEXT_QUESTION,),
)
TASKS = (
    Task(
        name="math500",
        label="MATH-500",
        form=MATH,
        published=Published(
            "HuggingFaceH4/MATH-500",
            None,
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            files={"test": "test.jsonl"},
        ),
        splits=("test",),
        problems=500,
        public_tokens=(120, 300),
        usual=False,
        shots=(),
    ),
)
