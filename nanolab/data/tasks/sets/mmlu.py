"""MMLU (Hendrycks et al. 2021): questions of four choices on 57 subjects."""

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import CHOICE, LETTERS
from nanolab.data.tasks.task import Form, Published, Question, Row, Task


def numbered_question(row: Row) -> Question:
    """An MMLU row; its answer is an index."""
    letters = list(LETTERS[: len(row["choices"])])
    return Question(row["question"], list(row["choices"]), letters, letters[int(row["answer"])])


def check_numbered(row: Row, split: str) -> None:
    """A list of choices, and the place of the right one. The training rows, which were not at hand
    to look at, may have blank choices and questions.
    """
    blank = split == "train"
    checks.text("question", row["question"], blank)
    checks.text("subject", row["subject"], blank=True)
    checks.texts("choices", row["choices"], len(LETTERS), blank)
    checks.place("answer", row["answer"], row["choices"], "choices")


NUMBERED = Form(
    CHOICE, ("question", "choices", "answer", "subject"), check_numbered, numbered_question
)
TASKS = (
    Task(
        name="mmlu",
        label="MMLU",
        form=NUMBERED,
        published=Published("cais/mmlu", "all", "c30699e8356da336a370243923dbaf21066bb9fe", "all"),
        splits=("train", "validation", "dev", "test"),
        problems=14042,
        public_tokens=(140, 4),
        embedded_tokens=(60, 16),
        split_names={"train": "auxiliary_train"},
    ),
)
