"""GSM8K (Cobbe et al. 2021): word problems, whose solutions call a calculator."""

import re

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import NUMBER
from nanolab.data.tasks.task import Form, Published, Row, Task

ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>]*)>>")  # the calculator's annotation <<48/2=24>>


def problem(row: Row) -> tuple[str, list[dict[str, str]]]:
    """A word problem, its solution's <<48/2=24>> turned into a call "48/2" and its output "24"."""
    pieces = enumerate(ANNOTATION.split(row["answer"]))  # text, call, output, text, ..., text
    parts = [{"type": ("text", "python", "output")[i % 3], "text": piece} for i, piece in pieces]
    return row["question"], [part for part in parts if part["text"] or part["type"] != "text"]


def check_problem(row: Row, split: str) -> None:
    """A question, and a solution that ends in "#### N"."""
    from nanolab.data.tasks.answers import final_number  # its patterns take time to compile

    checks.text("question", row["question"])
    checks.text("answer", row["answer"])
    if final_number(row["answer"]) is None:
        end = checks.quoted(row["answer"].rstrip()[-checks.SHOWN // 2 :])
        raise checks.Fault(
            f"answer ends in {end} without a number after ####, such as '#### 12': "
            "no answer would be right"
        )


PROBLEM = Form(
    NUMBER,
    ("question", "answer"),
    check_problem,
    problem,
    note="End with the answer as a number after ####.",
    closes=r"####[^\n]*[0-9][^\n]*",
    stops=("\n\n",),  # of a plain answer the first paragraph counts
)
TASKS = (
    Task(
        name="gsm8k",
        label="GSM8K",
        form=PROBLEM,
        published=Published(
            "openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866", "main"
        ),
        splits=("train", "test"),
        problems=1319,
        public_tokens=(95, 110),
        embedded_tokens=(46, 50),
    ),
)
