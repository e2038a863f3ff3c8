"""The model's rows while programs are served: prompts and states, who owns them, and how one begins
where another stands.

A state is never forwarded again. Each position of it keeps the choices of its draw, so the first
token of a new suffix needs no forward. Identical prompts are prefilled once. A program owns the
rows of the states that its requests name and of their replies: a Metropolis-Hastings chain at most
two, a population about one for each living particle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nanolab.inference.proposal import Law
from nanolab.inference.protocol import Choices, Decode, LanguageModel, Program, Suffix


@dataclass(slots=True, eq=False)
class State:
    """Completion tokens, their choices, and the row whose first `cached` positions hold them."""

    tokens: list[int]
    choices: list[Choices | None]
    row: int
    cached: int
    users: int = 0  # requests that name it as their parent, let its row go, and have not begun


class Prompt:
    """A prefilled prompt that programs share; logits (1, vocab) once all of it was forwarded."""

    def __init__(self, tokens: Sequence[int], row: int) -> None:
        self.state = State([], [], row, len(tokens) - 1)
        self.pending = [tokens[-1]]
        self.unpaid = len(tokens)  # positions still to be charged to the first program
        self.logits: torch.Tensor | None = None
        self.waiting: list[Branch] = []


@dataclass(slots=True, eq=False)
class Task:
    """A program, the requests it waits for, and the rows it owns."""

    program: Program
    on_result: Callable[[Any], None]  # gets what its kernel returns
    branches: list[Branch] = field(default_factory=list)
    single: bool = True  # whether its last request was one, and no list
    started: bool = False  # whether it has made a request
    unborn: int = 0  # branches that have not begun
    open: int = 0  # branches that have not ended
    rows: set[int] = field(default_factory=set)
    spare: list[int] = field(default_factory=list)  # those of `rows` that no live state needs

    @property
    def prompt(self) -> tuple[int, ...]:
        """By which programs share."""
        return tuple(self.program.prompt)

    @property
    def at_prompt(self) -> bool:
        """Whether a row of it is still to be taken from its prompt's."""
        unborn = self.unborn > 0 and self.branches[0].request.parent is None
        return not self.started or unborn


@dataclass(slots=True, eq=False)
class Branch:
    """One request of a task while it is served."""

    task: Task
    request: Decode
    law: Law
    suffix: Suffix = field(default_factory=Suffix)
    state: State | None = None
    pending: list[int] = field(default_factory=list)  # tokens to be forwarded next
    drawn: int = 0  # tokens that the model chose
    total: float = 0.0  # the sum of their a, in drawing order

    def first_choices(self, parent: State) -> Choices | None:
        """What the parent keeps of the first token's draw; None where that token must be drawn
        from another number of tokens, or was never drawn.
        """
        cut = self.request.cut
        first = parent.choices[cut] if cut < len(parent.choices) else None
        return first if first is not None and first.top_k == self.law[1] else None


class Rows:
    """Prefills, branches, decodes and gives back the rows of one model."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        # of each prompt the programs that have not yet taken their rows
        self.users: Counter[tuple[int, ...]] = Counter()
        self.prompts: dict[tuple[int, ...], Prompt] = {}

    def expect(self, task: Task) -> None:
        """One program more that will take rows of its prompt."""
        self.users[task.prompt] += 1

    def prefill(self, tasks: Iterable[Task], room: int) -> None:
        """Prefill the prompts of the next programs that are not there yet, at most `room`."""
        new: dict[tuple[int, ...], None] = {}
        for key in (task.prompt for task in tasks):
            if key not in self.prompts:
                new[key] = None
            if len(new) >= room:
                break
        rows = self.model.prefill([list(key) for key in new])
        for key, row in zip(new, rows, strict=True):
            self.prompts[key] = Prompt(key, row)

    def decode(self, entries: Sequence[Branch | Prompt]) -> torch.Tensor:
        """Forward the pending tokens of all entries: logits (entries, vocab)."""
        pending = [entry.pending for entry in entries]
        logits = self.model.decode([entry.state.row for entry in entries], pending)
        for entry in entries:
            entry.state.cached += len(entry.pending)
        return logits

    def claim(self, task: Task) -> None:
        """Keep the rows of the parents that a task's new requests name; its others are spare."""
        keeps: dict[int, bool] = {}
        for request in (branch.request for branch in task.branches):
            parent = request.parent
            assert (parent is None) != task.started, "no parent: a program's first request, only"
            if parent is not None:
                keep = keeps.setdefault(parent.row, request.keep)
                assert keep == request.keep, "requests of one parent differ in keep"
                parent.users += not request.keep
        assert keeps.keys() <= task.rows, "a parent's row was let go"
        task.spare = sorted(task.rows - keeps.keys())
        task.started = True
        task.unborn = task.open = len(task.branches)

    def branch(self, begun: Sequence[tuple[Branch, State]]) -> list[Choices | None]:
        """Let each branch begin where its parent stands, all in one fork; returns what the first
        token of each is drawn from, None where its pending tokens must be forwarded before.
        """
        firsts, targets, lengths = [], [], []
        for branch, parent in begun:
            cut, start = branch.request.cut, len(branch.task.program.prompt)
            first = branch.first_choices(parent)
            length = min(start + cut - 1, parent.cached) if first is None else start + cut
            assert length <= parent.cached
            branch.task.unborn -= 1
            firsts.append(first)
            targets.append(self._target(branch, parent))
            lengths.append(length)
        parents = [parent.row for _, parent in begun]
        rows = self.model.fork(targets, parents, lengths) if begun else []
        for (branch, parent), length, row in zip(begun, lengths, rows, strict=True):
            task, cut = branch.task, branch.request.cut
            branch.state = State(parent.tokens[:cut], parent.choices[:cut], row, length)
            branch.pending = [*task.program.prompt, *branch.state.tokens][length:]
            task.rows.add(row)
            if task.unborn == 0:
                self._give_back(task.spare)
                task.rows.difference_update(task.spare)
                task.spare = []
        return firsts

    def _target(self, branch: Branch, parent: State) -> int:
        """The row that a branch writes to: its parent's where that is let go, one that no state
        needs, or a new one (-1).
        """
        task = branch.task
        if branch.request.parent is None:
            free = task.unborn == 0 and self._leave(task)
        else:
            parent.users -= not branch.request.keep
            free = not branch.request.keep and parent.users == 0
        if free:
            return parent.row
        return task.spare.pop() if task.spare else -1

    def finish(self, task: Task) -> None:
        """Give back what a program owns, and its prompt's row where it was the last to need it."""
        self._give_back([*task.rows])
        if task.at_prompt:
            prompt = self.prompts.get(task.prompt)
            if self._leave(task) and prompt is not None:
                self._give_back([prompt.state.row])

    def _leave(self, task: Task) -> bool:
        """One program fewer for a prompt; True for the last, which may take the prompt's row."""
        key = task.prompt
        self.users[key] -= 1
        if self.users[key]:
            return False
        del self.users[key]
        self.prompts.pop(key, None)
        return True

    def _give_back(self, rows: list[int]) -> None:
        if rows:
            self.model.fork(rows, [-1] * len(rows), [0] * len(rows))
