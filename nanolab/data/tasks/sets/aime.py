"""AIME 2024 and 2025: thirty problems a year, whose answers are whole numbers from 0 to 999."""

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import INTEGER, integer_verdict
from nanolab.data.tasks.sets.math500 import NEXT_QUESTION, boxed_problem
from nanolab.data.tasks.task import Form, Published, Row, Task


def read_problem(row: Row) -> tuple[str, str]:
    """An AIME row, answered by its box alone."""
    return boxed_problem(row["problem"], str(row["answer"]))


def check_integer(row: Row, split: str) -> None:
    """A problem, and an answer from 0 to 999, as a number or as text."""
    checks.text("problem", row["problem"])
    answer = row["answer"]
    if type(answer) not in (int, str) or integer_verdict(row, "")["expected"] is None:
        checks.refuse("answer", answer, "a whole number from 0 to 999, perhaps as text")


AIME = Form(INTEGER, ("problem", "answer"), check_integer, read_problem, stops=(NEXT_QUESTION,))


def _aime(year: int, published: Published, split: str) -> Task:
    return Task(
        name=f"aime_{year}",
        label=f"AIME {year}",
        form=AIME,
        published=published,
        splits=("test",),
        problems=30,
        public_tokens=(180, 600),
        split_names={"test": split},
        usual=False,
        shots=(),
    )


TASKS = (
    _aime(
        2024,
        Published(
            "HuggingFaceH4/aime_2024", None, "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "data"
        ),
        "train",
    ),
    _aime(
        2025,
        Published(
            "math-ai/aime25",
            None,
            "563bb8404243c5f09de6ec262f2db674fe5bce9b",
            files={"test": "test.jsonl"},
        ),
        "test",
    ),
)
