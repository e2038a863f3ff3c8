"""How a model is asked: a chat model in its chat format; a base model, whose chat tokens are
untrained, in plain text after a few solved examples.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanolab import seeds
from nanolab.data.tasks import catalogue
from nanolab.data.tasks.catalogue import TASKS, Message, Row
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Asking:
    """A model's engine, the settings of its answers, and how its prompts are written."""

    tokenizer: Tokenizer
    make_language_model: Callable[[int], Any]  # longest row in tokens -> protocol.LanguageModel
    scorer: Any  # protocol.Scorer
    context: int  # tokens of a row in training: longer plain prompts lose their start
    stage: str  # part of the address of every random number
    seed: int
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    answers: int = 1  # drawn for each generated problem
    batch_rows: int = 64
    tool_timeout: float = 5.0  # seconds a test program may run
    plain: bool = False
    num_shots: int = 0
    # task -> rows with answers, never test rows
    shots: dict[str, list[Row]] = field(default_factory=dict)
    workers: int = 2  # test programs run at once
    choice_form: str = "letter"  # what competes: the letters, or each choice's "line" (trout=B)
    # tokenizer, conversation -> ids of a chat prompt
    render: Callable[[Any, list[Message]], list[int]] = chat.render_prompt
    # a line below every word problem, for a model that was not trained on its form
    problem_note: str = ""

    @property
    def room(self) -> int:
        """Tokens that a plain prompt may have before its generated answer."""
        return max(self.context - self.max_new_tokens, self.context // 2)


@dataclass(frozen=True)
class Questions:
    """The rows of a task as a model is asked them."""

    task: str
    rows: Sequence[Row]
    asking: Asking

    @property
    def about(self) -> catalogue.Task:
        """What the catalogue says of the task."""
        return TASKS[self.task]

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """The prompt of every row, in token ids."""
        return [self.prompt(index) for index in range(len(self.rows))]

    def messages(self, row: Row) -> list[Message]:
        """A row as the conversation that the model was trained on."""
        return self.about.messages(row, self.asking.choice_form, self.asking.problem_note)

    def text(self, index: int) -> str:
        """The plain prompt of a row: solved examples drawn for this row alone, then the row. A
        program is its own prompt.
        """
        asking, messages = self.asking, self.messages(self.rows[index])
        if not self.about.shown:
            return messages[0]["content"] + "\n"
        pool = asking.shots.get(self.task, [])
        order = seeds.generator(asking.seed, "shots", self.task, index).permutation(len(pool))
        shots = [self.messages(pool[int(i)]) for i in order[: asking.num_shots]]
        return chat.few_shot_prompt(shots, messages)

    def prompt(self, index: int) -> list[int]:
        """The token ids of a row's prompt, from <|bos|> to where the answer starts; a plain one
        loses its start where it leaves no room for the answer.
        """
        asking = self.asking
        if not asking.plain:
            return asking.render(asking.tokenizer, self.messages(self.rows[index])[:-1])
        start = asking.tokenizer.start
        ids = asking.tokenizer.encode(self.text(index))
        return [*start, *ids[len(start) - asking.room :]]

    def answers(self, index: int) -> list[str]:
        """What competes to be the answer of a multiple-choice row."""
        return self.about.form.read(self.rows[index]).answers(self.asking.choice_form)

    def candidates(self, index: int) -> list[list[int]]:
        """The prompt of a multiple-choice row followed by each answer; a plain prompt loses its
        start when it is longer than the context.
        """
        encode, start = self.asking.tokenizer.encode, self.asking.tokenizer.start
        if not self.asking.plain:
            prompt = self.prompt(index)
            return [[*prompt, *encode(answer)] for answer in self.answers(index)]
        encoded = self._with_answers(index)
        excess = max(0, max(map(len, encoded)) + len(start) - self.asking.context)
        return [[*start, *ids[excess:]] for ids in encoded]

    def _with_answers(self, index: int) -> list[list[int]]:
        # encoded whole: the blank belongs to the answer's first token
        text, encode = self.text(index), self.asking.tokenizer.encode
        return [encode(f"{text} {answer}") for answer in self.answers(index)]

    def cut(self) -> int:
        """How many rows have a plain prompt that loses its start (the first solved examples, where
        there are any) to fit into the context.
        """
        asking = self.asking
        if not asking.plain:
            return 0
        rows = range(len(self.rows))
        if self.about.generates:
            lengths, room = [len(asking.tokenizer.encode(self.text(i))) for i in rows], asking.room
        else:
            lengths, room = [max(map(len, self._with_answers(i))) for i in rows], asking.context
        return sum(len(asking.tokenizer.start) + length > room for length in lengths)
