"""What a task is: where its rows are published, how a row is checked, read, asked and graded."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nanolab.data.tasks.graders import Grader, Row

Message = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A public data set: its repository, its config, the revision this lab reads, and the folder of
    its parquet files there; or, by split, its files.
    """

    repository: str
    config: str | None
    revision: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # split -> path; .parquet, .jsonl, .csv

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision[:12]}"

    @property
    def local_folder(self) -> Path:
        """Where a local folder has the set's files."""
        return Path(self.repository, self.config or "")


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


@dataclass(frozen=True)
class Form:
    """Rows of one layout: columns (the first is what is asked), how a row is graded, checked, read
    and asked.
    """

    grader: Grader
    columns: tuple[str, ...]
    check: Callable[[Row, str], None]  # of a row and its split; raises Fault
    read: Callable[[Row], Any]  # a Question of choices, else a prompt and its answer
    note: str = ""  # a line below the prompt, for a model that was not trained on this form
    # An answer to a plain prompt ends before the first of these: a base model writes on. Without
    # any, all of it counts.
    stops: tuple[str, ...] = ()
    # An answer that the note asked for ends with the first line that matches: a model that was not
    # trained on this form may repeat it, until the limit cuts the last repeat.
    closes: str = ""
    # whether a plain prompt is the row's own, to be gone on from: a program's start
    is_continued: bool = False

    def answer(self, text: str) -> str:
        """What counts of a text written after a plain prompt."""
        places = [text.find(stop) for stop in self.stops]
        return text[: min((place for place in places if place >= 0), default=None)]

    def noted_answer(self, text: str) -> str:
        """What counts of a text that the form's note asked for."""
        found = re.search(self.closes, text) if self.closes else None
        return text[: found.end()] if found else text


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
    # (of a prompt, of an answer), for the costs: of public data, as a vocabulary of 4,096 cuts it;
    # in the embedded world, where it has the task, with its vocabulary of 896; estimates for the
    # sets that no model of ours was asked (all but the usual ones)
    public_tokens: tuple[int, int]
    embedded_tokens: tuple[int, int] | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)  # what the public set calls them
    usual: bool = True
    # the splits that may give solved examples, first choice first; without any none are shown
    shots: tuple[str, ...] = ("validation", "train")

    @property
    def kind(self) -> str:
        """How it is answered: "choice", "problem" or "program"."""
        return self.form.grader.kind

    @property
    def generates(self) -> bool:
        """Whether the model writes its answer, so that samplers can draw it."""
        return self.kind != "choice"

    @property
    def shown(self) -> bool:
        """Whether solved examples stand before a plain question."""
        return bool(self.shots) and not self.form.is_continued

    def messages(self, row: Row, choice_form: str = "letter", noted: bool = False) -> list[Message]:
        """A row as the conversation that a model is trained on; `noted` for a model that was not,
        whose prompt ends with the form's note.
        """
        found = self.form.read(row)
        if self.kind == "choice":
            answers = dict(zip(found.letters, found.answers(choice_form)))
            user, assistant = found.text, answers[found.answer]
            if choice_form == "continuation":
                user = found.question
        else:
            user, assistant = found
        if noted and self.form.note:
            user = f"{user}\n{self.form.note}"
        return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
