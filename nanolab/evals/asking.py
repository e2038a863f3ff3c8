"""How a model is asked: a chat model in its chat format; a base model, whose chat tokens are
untrained, in plain text after a few solved examples.

In the form "continuation" a multiple-choice question is asked of any model in plain text, without
its choices, and each choice's own text competes to go on from it: how most published figures were
made (EleutherAI's harness, whose token boundary this follows: the choice's tokens are those beyond
as many as the question alone has).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanolab import seeds
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.task import Message, Row, Task
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
    # what competes: the letters, each choice's "line" (trout=B), or as a "continuation" its text
    choice_form: str = "letter"
    # tokenizer, conversation -> ids of a chat prompt
    render: Callable[[Any, list[Message]], list[int]] = chat.render_prompt
    # whether prompts end with the note of their form, for a model that was not trained on it
    noted: bool = False
    system_prompt: str | None = None  # the system message of each conversation

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
    def about(self) -> Task:
        """What the catalogue says of the task."""
        return TASKS[self.task]

    @property
    def continues(self) -> bool:
        """Whether each choice's own text competes to go on from the question."""
        return not self.about.generates and self.asking.choice_form == "continuation"

    @property
    def plain(self) -> bool:
        """Whether the prompts are plain text, and no conversation."""
        return self.asking.plain or self.continues

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """The prompt of every row, in token ids."""
        return [self.prompt(index) for index in range(len(self.rows))]

    def messages(self, row: Row) -> list[Message]:
        """A row as the conversation that the model was trained on."""
        return self.about.messages(row, self.asking.choice_form, self.asking.noted)

    def text(self, index: int) -> str:
        """The plain prompt of a row: solved examples drawn for this row alone, then the row. A
        program is its own prompt.
        """
        messages = self.messages(self.rows[index])
        if self.about.form.is_continued:
            return messages[0]["content"] + "\n"
        return chat.few_shot_prompt(self._shots(index), messages)

    def _shots(self, index: int) -> list[list[Message]]:
        """The solved examples that stand before a row."""
        asking, pool = self.asking, self.asking.shots.get(self.task, [])
        order = seeds.generator(asking.seed, "shots", self.task, index).permutation(len(pool))
        return [self.messages(pool[int(i)]) for i in order[: asking.num_shots]]

    def prompt(self, index: int) -> list[int]:
        """The token ids of a row's prompt, from <|bos|> to where the answer starts, solved examples
        being earlier turns; a plain one loses its start where it leaves no room for the answer.
        """
        asking = self.asking
        if not self.plain:
            turns = [message for shot in self._shots(index) for message in shot]
            if asking.system_prompt is not None:
                turns.insert(0, {"role": "system", "content": asking.system_prompt})
            return asking.render(asking.tokenizer, [*turns, self.messages(self.rows[index])[0]])
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
        if not self.plain:
            prompt = self.prompt(index)
            return [[*prompt, *encode(answer)] for answer in self.answers(index)]
        encoded = self._with_answers(index)
        excess = self._excess(encoded)
        return [[*start, *ids[excess:]] for ids in encoded]

    def continuations(self, index: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """The rows of `candidates`, and the span of the choice in each."""
        encoded, start = self._with_answers(index), self.asking.tokenizer.start
        question = len(self.asking.tokenizer.encode(self.text(index)))
        first = len(start) + question - self._excess(encoded)
        rows = self.candidates(index)
        return rows, [(max(1, first), len(row)) for row in rows]

    def _excess(self, encoded: list[list[int]]) -> int:
        """Tokens that the longest of a row's candidates has too many for the context."""
        longest = max(map(len, encoded)) + len(self.asking.tokenizer.start)
        return max(0, longest - self.asking.context)

    def _with_answers(self, index: int) -> list[list[int]]:
        # encoded whole: the blank belongs to the answer's first token
        text, encode = self.text(index), self.asking.tokenizer.encode
        return [encode(f"{text} {answer}") for answer in self.answers(index)]

    def cut(self) -> int:
        """How many rows have a plain prompt that loses its start (the first solved examples, where
        there are any) to fit into the context.
        """
        asking = self.asking
        if not self.plain:
            return 0
        rows = range(len(self.rows))
        if self.about.generates:
            lengths, room = [len(asking.tokenizer.encode(self.text(i))) for i in rows], asking.room
        else:
            lengths, room = [max(map(len, self._with_answers(i))) for i in rows], asking.context
        return sum(len(asking.tokenizer.start) + length > room for length in lengths)
