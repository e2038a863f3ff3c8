"""GPQA Diamond (Rein et al. 2023): graduate questions of four choices, answered in writing after
reasoning. The set is gated: whoever wants it accepts its terms on the hub.
"""

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import LETTERS, letter_verdict, one_by_one
from nanolab.data.tasks.sets.math500 import NEXT_QUESTION
from nanolab.data.tasks.task import Form, Published, Question, Row, Task

COLUMNS = (
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
)
ASKED = 'Think step by step, and end with a line "Answer: (X)", where X is one of'


def shuffled(row: Row) -> Question:
    """A row with its choices in an order of its own: drawn at the address (0, "choices", question),
    so it is the same in every run, whatever rows are asked beside it.
    """
    from nanolab import seeds

    question, *choices = (row[name].strip() for name in COLUMNS)
    order = seeds.generator(0, "choices", question).permutation(len(choices)).tolist()
    letters = list(LETTERS[: len(choices)])
    answer = letters[order.index(0)]
    return Question(question, [choices[place] for place in order], letters, answer)


def read_question(row: Row) -> tuple[str, str]:
    """A question that asks for reasoning and then a letter, and that letter."""
    found = shuffled(row)
    choices = [f"({letter}) {choice}" for letter, choice in zip(found.letters, found.choices)]
    asked = f"{ASKED} {', '.join(found.letters)}."
    return "\n".join([found.question, "", *choices, "", asked]), f"Answer: ({found.answer})"


def check_question(row: Row, split: str) -> None:
    """A question and four answers."""
    for name in COLUMNS:
        checks.text(name, row[name])


def verdict(row: Row, text: str) -> Row:
    """Right where the letter named last is that of the correct answer."""
    found = shuffled(row)
    return letter_verdict(found.answer, len(found.letters), text)


TASKS = (
    Task(
        name="gpqa_diamond",
        label="GPQA Diamond",
        form=Form(
            one_by_one(verdict), COLUMNS, check_question, read_question, stops=(NEXT_QUESTION,)
        ),
        published=Published(
            "Idavidrein/gpqa",
            "gpqa_diamond",
            "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
            files={"train": "gpqa_diamond.csv"},
        ),
        splits=("test",),
        problems=198,
        public_tokens=(300, 400),
        split_names={"test": "train"},
        usual=False,
        shots=(),
    ),
)
