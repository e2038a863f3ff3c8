"""The tasks: an entry of `TASKS` says all of a task, and everybody derives from it.

Settings read this table, so it imports nothing that takes time.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nanolab.data.tasks import checks

Row = dict[str, Any]
Message = dict[str, Any]
LETTERS = "ABCDEFGHIJ"  # what a prompt can call the choices of a question
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>]*)>>")  # GSM8K's calculator annotation <<48/2=24>>


@dataclass(frozen=True)
class Published:
    """A public data set: its repository, its config, the revision this lab reads, and the folder of
    its parquet files there.
    """

    repository: str
    config: str | None
    revision: str
    folder: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision[:12]}"

    @property
    def local_folder(self) -> Path:
        """Where a local folder has the set's files."""
        return Path(self.repository, self.config or "")


# ---- how rows are read: a question, or a prompt with its answer


class Question(NamedTuple):
    """A multiple-choice question; `letters` are A, B, C ... whatever labels the data set uses,
    `answer` is one of them.
    """

    question: str
    choices: list[str]
    letters: list[str]
    answer: str

    @property
    def text(self) -> str:
        """The question, then one line a choice: "- Paris=B". The letter comes last, so that it can
        attend to its choice.
        """
        return "\n".join([self.question, *(f"- {line}" for line in self.answers("line"))])

    def answers(self, form: str) -> list[str]:
        """What the assistant may answer: each letter (form "letter"), or each choice with its
        letter ("line"), or each choice's own text ("continuation").
        """
        if form == "letter":
            return list(self.letters)
        if form == "continuation":
            return list(self.choices)
        return [f"{choice}={letter}" for choice, letter in zip(self.choices, self.letters)]


def labelled_question(row: Row) -> Question:
    """An ARC row, its labels (some rows have 1, 2, 3, 4) renamed to A, B, C, D."""
    labels, choices = list(row["choices"]["label"]), list(row["choices"]["text"])
    letters = list(LETTERS[: len(choices)])
    return Question(row["question"], choices, letters, letters[labels.index(row["answerKey"])])


def numbered_question(row: Row) -> Question:
    """An MMLU row; its answer is an index."""
    letters = list(LETTERS[: len(row["choices"])])
    return Question(row["question"], list(row["choices"]), letters, letters[int(row["answer"])])


def problem(row: Row) -> tuple[str, list[dict[str, str]]]:
    """A word problem, its solution's <<48/2=24>> turned into a call "48/2" and its output "24"."""
    pieces = enumerate(ANNOTATION.split(row["answer"]))  # text, call, output, text, ..., text
    parts = [{"type": ("text", "python", "output")[i % 3], "text": piece} for i, piece in pieces]
    return row["question"], [part for part in parts if part["text"] or part["type"] != "text"]


def program(row: Row) -> tuple[str, str]:
    """A HumanEval row: the assistant goes on from the prompt with the function's body.

    The body alone, since a copied signature costs a small model tokens and errors. Grading takes a
    whole function too.
    """
    return row["prompt"].rstrip("\n"), row["canonical_solution"].strip("\n")


# ---- what is checked of a row


def check_labelled(row: Row, split: str) -> None:
    """ARC: choices {text, label} of one length, and the label of the right one."""
    checks.text("question", row["question"])
    choices, key = row["choices"], row["answerKey"]
    if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        checks.refuse("choices", choices, "a mapping of text and label, two lists")
    texts, labels = choices["text"], choices["label"]
    checks.texts("choices.text", texts, len(LETTERS))
    checks.texts("choices.label", labels)
    if len(texts) != len(labels):
        raise checks.Fault(
            f"choices has {len(texts)} texts and {len(labels)} labels {checks.quoted(labels)}, "
            "each text must have one label"
        )
    if len(set(labels)) < len(labels):
        checks.refuse("choices.label", labels, "different labels")
    checks.text("answerKey", key)
    if key not in labels:
        checks.refuse("answerKey", key, f"one of the labels {checks.quoted(labels)}")


def check_numbered(row: Row, split: str) -> None:
    """MMLU: a list of choices, and the place of the right one. Its training rows, which were not at
    hand to look at, may have blank choices and questions.
    """
    blank = split == "train"
    checks.text("question", row["question"], blank)
    checks.text("subject", row["subject"], blank=True)
    checks.texts("choices", row["choices"], len(LETTERS), blank)
    checks.place("answer", row["answer"], row["choices"], "choices")


def check_problem(row: Row, split: str) -> None:
    """GSM8K: a question, and a solution that ends in "#### N"."""
    from nanolab.data.tasks.answers import final_number  # its patterns take time to compile

    checks.text("question", row["question"])
    checks.text("answer", row["answer"])
    if final_number(row["answer"]) is None:
        end = checks.quoted(row["answer"].rstrip()[-checks.SHOWN // 2 :])
        raise checks.Fault(
            f"answer ends in {end} without a number after ####, such as '#### 12': "
            "no answer would be right"
        )


def check_program(row: Row, split: str) -> None:
    """HumanEval: a prompt that names its function, its body, and a test that defines check."""
    for name in sorted(PROGRAM.columns):
        checks.text(name, row[name])
    entry, prompt = row["entry_point"], checks.quoted(row["prompt"])
    if not entry.isidentifier() or not re.search(rf"\bdef +{entry}\b", row["prompt"]):
        checks.refuse("entry_point", entry, f"the name of the function in the prompt {prompt}")
    if not re.search(r"\bdef check\b|\bcheck *=", row["test"]):
        checks.refuse("test", row["test"], "a program that defines check(candidate)")


# ---- the table


@dataclass(frozen=True)
class Form:
    """Rows of one layout: columns (the first is what is asked), how a row is graded (nanolab/evals:
    the likeliest choice, the final number, or the row's own tests), checked and read.
    """

    grader: Literal["choice", "number", "program"]
    columns: tuple[str, ...]
    check: Callable[[Row, str], None]  # of a row and its split; raises Fault
    read: Callable[[Row], Any]  # a Question of choices, else a prompt and its answer


LABELLED = Form("choice", ("question", "choices", "answerKey"), check_labelled, labelled_question)
NUMBERED = Form(
    "choice", ("question", "choices", "answer", "subject"), check_numbered, numbered_question
)
PROBLEM = Form("number", ("question", "answer"), check_problem, problem)
PROGRAM = Form(
    "program",
    ("prompt", "canonical_solution", "test", "entry_point", "task_id"),
    check_program,
    program,
)


@dataclass(frozen=True)
class Task:
    """A task: `name` in settings and results, `label` in reports, its rows and where they are
    published. `usual` tasks are asked by default and are part of mixtures.
    """

    name: str
    label: str
    form: Form
    published: Published
    splits: tuple[str, ...]  # of the public set
    problems: int  # of the public test set
    # (of a prompt, of an answer), for the costs: in the embedded world with its vocabulary of 896;
    # of public data, as a vocabulary of 4,096 cuts it
    embedded_tokens: tuple[int, int]
    public_tokens: tuple[int, int]
    split_names: dict[str, str] = field(default_factory=dict)  # what the public set calls them
    usual: bool = True

    @property
    def generates(self) -> bool:
        """Whether the model writes its answer, so that samplers can draw it."""
        return self.form.grader != "choice"

    @property
    def shown(self) -> bool:
        """Whether solved examples stand before a plain question; a program is its own prompt."""
        return self.form.grader != "program"

    def messages(self, row: Row, choice_form: str = "letter", note: str = "") -> list[Message]:
        """A row as the conversation that a model is trained on; `note` is a line below a word
        problem.
        """
        found = self.form.read(row)
        if self.form.grader == "choice":
            answers = dict(zip(found.letters, found.answers(choice_form)))
            user, assistant = found.text, answers[found.answer]
            if choice_form == "continuation":
                user = found.question
        else:
            user, assistant = found
        if note and self.form.grader == "number":
            user = f"{user}\n{note}"
        return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _published(repository: str, config: str, revision: str) -> Published:
    return Published(repository, config, revision, config)


ARC, ARC_REVISION = "allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453"
TASKS = {
    task.name: task
    for task in (
        Task(
            "arc_easy",
            "ARC-Easy",
            LABELLED,
            _published(ARC, "ARC-Easy", ARC_REVISION),
            ("train", "validation", "test"),
            problems=2376,
            embedded_tokens=(60, 16),
            public_tokens=(60, 4),
        ),
        Task(
            "arc_challenge",
            "ARC-Challenge",
            LABELLED,
            _published(ARC, "ARC-Challenge", ARC_REVISION),
            ("train", "validation", "test"),
            problems=1172,
            embedded_tokens=(60, 16),
            public_tokens=(60, 4),
        ),
        Task(
            "mmlu",
            "MMLU",
            NUMBERED,
            _published("cais/mmlu", "all", "c30699e8356da336a370243923dbaf21066bb9fe"),
            ("train", "validation", "dev", "test"),
            problems=14042,
            embedded_tokens=(60, 16),
            public_tokens=(140, 4),
            split_names={"train": "auxiliary_train"},
        ),
        Task(
            "gsm8k",
            "GSM8K",
            PROBLEM,
            _published("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
            ("train", "test"),
            problems=1319,
            embedded_tokens=(46, 50),
            public_tokens=(95, 110),
        ),
        Task(
            "humaneval",
            "HumanEval",
            PROGRAM,
            _published(
                "openai/openai_humaneval",
                "openai_humaneval",
                "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            ),
            ("test",),
            problems=164,
            embedded_tokens=(33, 21),
            public_tokens=(150, 150),
        ),
    )
}


def graded_by(*graders: str) -> tuple[str, ...]:
    """The names of the usual tasks that are graded in one of these ways."""
    return tuple(name for name, task in TASKS.items() if task.usual and task.form.grader in graders)
