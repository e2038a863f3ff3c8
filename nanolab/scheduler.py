"""The scheduler: all chains and populations of all prompts in one full batch (continuous batching).

A program is a generator that yields `Decode` requests, one or a list, and receives a `Suffix` for each. Each tick forwards one token
(or one forced output) of every active row; a row that ends, is given up or reaches its limit leaves at once and the next request or
program takes its place.

A state is never forwarded again. Each position of it keeps the candidates of its draw, so the first token of a new suffix needs no
forward; the last token of a completion is never forwarded; an accepted proposal's row becomes the state's row. Identical prompts are
prefilled once. A program owns the rows of the states that its requests name and of their replies; the others serve its next requests or
are given back: a Metropolis-Hastings chain owns at most two rows, a population about one for each living particle. Branches of one state
each forward its pending tokens (the last one drawn, with a tool's output). Rows of programs that wait lie beside those of the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from nanolab.generation import (
    Choices,
    Counts,
    Decode,
    Done,
    LanguageModel,
    Program,
    Suffix,
    candidates,
    draw,
    effective_top_k,
    power_term,
)
from nanolab.schema import UserError

PREFILL_ROWS = 16  # prompts prefilled together at least, while the queue has as many


class _Handle:
    """A state: its completion tokens, how each was drawn, and the row whose first `cached` positions hold it."""

    __slots__ = ("cached", "candidates", "row", "tokens", "users")

    def __init__(
        self, tokens: list[int], kept: list[Choices | None], row: int, cached: int
    ) -> None:
        self.tokens, self.candidates, self.row, self.cached = tokens, kept, row, cached
        self.users = 0  # requests that name it as their parent, let its row go, and have not begun


class _Prompt:
    """A prefilled prompt that several programs may share; `logits` (1, vocab) once its last token was forwarded."""

    def __init__(self, tokens: list[int], row: int, users: int) -> None:
        self.handle = _Handle([], [], row, len(tokens) - 1)
        self.users = users  # programs that have not yet taken their rows
        self.unpaid = len(tokens)  # positions still to be charged to the first program
        self.logits: torch.Tensor | None = None
        self.waiting: list[_Branch] = []
        self.row, self.pending = row, tokens[-1:]


class _Task:
    """A started program, the requests it waits for, and the rows it owns."""

    def __init__(self, number: int, program: Program) -> None:
        self.number, self.prompt, self.kernel, self.noise = (
            number,
            program.prompt,
            program.kernel,
            program.noise,
        )
        self.started = False  # whether it has made a request
        self.alone = True  # whether its last request was a single one
        self.branches: list[_Branch] = []
        self.unborn = self.open = 0  # branches that have not begun, and that have not ended
        self.rows: set[int] = set()
        self.spare: list[int] = []  # those of `rows` that no live state needs


class _Branch:
    """One request of a task while it is served."""

    __slots__ = ("drawn", "group", "handle", "pending", "request", "row", "suffix", "task", "total")

    def __init__(self, task: _Task, request: Decode) -> None:
        self.task, self.request, self.suffix = task, request, Suffix()
        self.group = (
            request.temperature,
            effective_top_k(request.temperature, request.top_k),
            request.alpha,
        )
        self.handle: _Handle | None = None
        self.row = -1
        self.pending: list[int] = []
        self.drawn, self.total = (
            0,
            0.0,
        )  # model tokens of the suffix, and the sum of their a in drawing order


class _Scheduler:
    def __init__(
        self,
        model: LanguageModel,
        programs: Sequence[Program],
        batch_rows: int,
        on_done: Done | None,
    ) -> None:
        self.model, self.programs, self.batch_rows, self.on_done = (
            model,
            programs,
            batch_rows,
            on_done,
        )
        self.name = getattr(model, "name", "the model")  # the toys of tests have none
        self.queue = deque(range(len(programs)))
        self.users: dict[tuple[int, ...], int] = {}
        for program in programs:
            key = tuple(program.prompt)
            self.users[key] = self.users.get(key, 0) + 1
        self.prompts: dict[tuple[int, ...], _Prompt] = {}
        self.requests: deque[_Branch] = deque()  # not begun
        self.active: list[_Branch | _Prompt] = []  # rows to forward in this tick
        self.open = 0  # requests that have not ended
        self.results: list[Any] = [None] * len(programs)
        self.positions = self.forwards = self.decodes = self.rows = 0

    def run(self) -> tuple[list[Any], Counts]:
        while self.queue or self.open:
            while self.queue and self.open < self.batch_rows:
                self._start()
            if self.requests and len(self.active) < self.batch_rows:
                self._begin()
            elif self.active:
                self._forward()
        return self.results, Counts(self.positions, self.forwards, self.decodes, self.rows)

    def _start(self) -> None:
        number = self.queue.popleft()
        program = self.programs[number]
        if tuple(program.prompt) not in self.prompts:
            self._prefill(number)
        self._resume(_Task(number, program), None)

    def _prefill(self, number: int) -> None:
        """Prefill the prompt of program `number` and the next ones in the queue that are not there yet."""
        room = max(PREFILL_ROWS, self.batch_rows - self.open)
        wanted: dict[tuple[int, ...], None] = {tuple(self.programs[number].prompt): None}
        for i in self.queue:
            if len(wanted) >= room:
                break
            key = tuple(self.programs[i].prompt)
            if key not in self.prompts:
                wanted[key] = None
        prompts = [list(key) for key in wanted]
        rows = self.model.prefill(prompts)
        self.forwards += 1
        self.positions += sum(len(prompt) - 1 for prompt in prompts)
        for key, prompt, row in zip(wanted, prompts, rows, strict=True):
            self.prompts[key] = _Prompt(prompt, row, self.users[key])

    def _resume(self, task: _Task, reply: Any) -> None:
        """Send the kernel its reply; take its next requests or its result."""
        try:
            asked = task.kernel.send(reply)
        except StopIteration as stop:
            self._finish(task, stop.value)
            return
        task.alone = isinstance(asked, Decode)
        task.branches = [_Branch(task, request) for request in ([asked] if task.alone else asked)]
        assert task.branches, "an empty list of requests"
        named, kept = set(), {}
        for request in (branch.request for branch in task.branches):
            assert request.cut < request.limit <= request.max_length, (
                f"nothing to draw between {request.cut} and {request.limit}"
            )
            assert (request.parent is None) != task.started, (
                "parent = None is a program's first request, and only that"
            )
            if request.parent is not None:
                named.add(request.parent.row)
                assert kept.setdefault(request.parent.row, request.keep) == request.keep, (
                    "requests of one parent differ in keep"
                )
                request.parent.users += not request.keep
        task.started = True
        assert named <= task.rows, "a parent's row was let go"
        task.spare = sorted(task.rows - named)
        task.unborn = task.open = len(task.branches)
        self.open += task.open
        self.requests += task.branches

    def _finish(self, task: _Task, result: Any) -> None:
        self._give_back(task, list(task.rows))
        if not task.started:  # it never asked for its prompt's row
            prompt = self.prompts[tuple(task.prompt)]
            if self._leave(prompt, task):
                self.model.fork([prompt.row], [-1], [0])
        self.results[task.number] = result
        if self.on_done:
            self.on_done(task.number, result)

    def _give_back(self, task: _Task, rows: list[int]) -> None:
        if rows:
            self.model.fork(rows, [-1] * len(rows), [0] * len(rows))
            task.rows.difference_update(rows)

    def _leave(self, prompt: _Prompt, task: _Task) -> bool:
        """One program fewer for `prompt`; True when it was the last, and may take the prompt's row."""
        prompt.users -= 1
        if prompt.users == 0:
            del self.prompts[tuple(task.prompt)]
        return prompt.users == 0

    def _begin(self) -> None:
        """Branch a row for the requests that fit into the batch (one fork call), then draw the first tokens that need no forward."""
        begun: list[tuple[_Branch, _Handle, int, Choices | None]] = []
        rows: list[int] = []
        for _ in range(min(len(self.requests), self.batch_rows - len(self.active))):
            branch = self.requests.popleft()
            parent = self._parent(branch)
            if parent is None:
                continue
            task, cut, start = branch.task, branch.request.cut, len(branch.task.prompt)
            first = parent.candidates[cut] if cut < len(parent.candidates) else None
            if first is not None and first.top_k != branch.group[1]:
                first = None  # drawn from another number of tokens: the position is forwarded again
            length = min(start + cut - 1, parent.cached) if first is None else start + cut
            assert length <= parent.cached
            task.unborn -= 1
            rows.append(self._row(branch, parent))
            begun.append((branch, parent, length, first))
        new = (
            self.model.fork(
                rows,
                [parent.row for _, parent, _, _ in begun],
                [length for _, _, length, _ in begun],
            )
            if rows
            else []
        )
        groups: dict[tuple, list[tuple[_Branch, Choices]]] = {}
        for (branch, parent, length, first), row in zip(begun, new, strict=True):
            self._branch(branch, parent, length, row)
            if first is None:
                self.active.append(branch)
            else:
                groups.setdefault(branch.group, []).append((branch, first))
        for group in groups.values():
            ids, log_p = (
                numpy.stack([first.ids for _, first in group]),
                numpy.stack([first.log_p for _, first in group]),
            )
            self._draw([branch for branch, _ in group], ids, log_p)

    def _parent(self, branch: _Branch) -> _Handle | None:
        """The handle that a request branches from; None while its prompt's last token has not been forwarded."""
        if branch.request.parent is not None:
            return branch.request.parent
        prompt = self.prompts[tuple(branch.task.prompt)]
        if prompt.logits is None:
            if not prompt.waiting:
                self.active.append(prompt)
            prompt.waiting.append(branch)
            return None
        branch.suffix.positions, prompt.unpaid = prompt.unpaid, 0
        top_k = branch.group[1]
        kept = candidates(prompt.logits, top_k, self.name)
        return _Handle(
            [], [Choices(top_k, kept.ids[0], kept.log_p[0])], prompt.row, len(branch.task.prompt)
        )

    def _row(self, branch: _Branch, parent: _Handle) -> int:
        """The row that a branch writes to: its parent's where that is let go, one that no state needs, or a new one (-1)."""
        task = branch.task
        if branch.request.parent is None:
            if task.unborn == 0 and self._leave(self.prompts[tuple(task.prompt)], task):
                return parent.row
        elif not branch.request.keep:
            parent.users -= 1
            if parent.users == 0:
                return parent.row
        return task.spare.pop() if task.spare else -1

    def _branch(self, branch: _Branch, parent: _Handle, length: int, row: int) -> None:
        task, cut = branch.task, branch.request.cut
        task.rows.add(row)
        branch.row = row
        tokens = parent.tokens[:cut]
        branch.handle = _Handle(tokens, parent.candidates[:cut], row, length)
        start = len(task.prompt)
        branch.pending = (task.prompt[length:] if length < start else []) + tokens[
            max(length - start, 0) :
        ]
        if task.unborn == 0 and task.spare:
            self._give_back(task, task.spare)
            task.spare = []

    def _forward(self) -> None:
        """One decode of every active row, then a draw for each."""
        active, self.active = self.active, []
        logits = self.model.decode(
            [entry.row for entry in active], [entry.pending for entry in active]
        )
        self.forwards += 1
        self.decodes += 1
        self.rows += len(active)
        groups: dict[tuple, list[int]] = {}
        for i, entry in enumerate(active):
            self.positions += len(entry.pending)
            entry.handle.cached += len(entry.pending)
            if isinstance(entry, _Prompt):
                entry.logits = logits[i : i + 1].clone()
                self.requests.extendleft(reversed(entry.waiting))
                entry.waiting = []
            else:
                entry.suffix.positions += len(entry.pending)
                groups.setdefault(entry.group, []).append(i)
        for (_, top_k, _), where in groups.items():
            kept = candidates(
                logits if len(where) == len(active) else logits[where], top_k, self.name
            )
            self._draw([active[i] for i in where], kept.ids, kept.log_p)

    def _draw(self, branches: list[_Branch], ids: numpy.ndarray, log_p: numpy.ndarray) -> None:
        """Draw the next token of `branches`, all with the same settings, from candidates (branches, k); record it."""
        temperature, top_k, alpha = branches[0].group
        uniforms = [
            branch.task.noise((*branch.request.address, len(branch.handle.tokens)))
            for branch in branches
        ]
        index, log_z = draw(log_p, temperature, numpy.array(uniforms))
        for i, branch in enumerate(branches):
            if branch.request.first is not None and branch.drawn == 0:
                chosen = numpy.flatnonzero(ids[i] == branch.request.first)
                assert len(chosen) == 1, f"q cannot reach token {branch.request.first}"
                index[i] = chosen[0]
        rows = numpy.arange(len(branches))
        tokens = ids[rows, index].tolist()
        chosen = log_p[rows, index].astype(numpy.float64)
        log_q = (chosen / (temperature or 1.0) - log_z).tolist()
        a = power_term(chosen, log_z, temperature, alpha).tolist()
        chosen = chosen.tolist()
        for i, branch in enumerate(branches):
            own = (
                ids[i] if ids.strides[0] == 0 else ids[i].copy()
            )  # all rows of the whole vocabulary are one
            kept = Choices(top_k, own, log_p[i].copy()) if branch.request.revisit else None
            branch.handle.candidates.append(kept)
            self._append(branch, tokens[i], chosen[i], log_q[i], a[i])

    def _append(self, branch: _Branch, token: int, log_p: float, log_q: float, a: float) -> None:
        request, suffix, tokens = branch.request, branch.suffix, branch.handle.tokens
        suffix.tokens.append(token)
        suffix.forced.append(False)
        suffix.log_p.append(log_p)
        suffix.log_q.append(log_q)
        suffix.a.append(a)
        tokens.append(token)
        branch.drawn += 1
        branch.total += a
        suffix.ended = token == self.model.end_token
        suffix.given_up = (
            not suffix.ended
            and request.floor is not None
            and branch.total < request.floor[branch.drawn]
        )
        if not suffix.ended and not suffix.given_up:
            room = request.max_length - len(tokens)
            forced = self.model.forced(branch.row, token)[:room] if room else []
            if forced:
                count = len(forced)
                suffix.tokens += forced
                suffix.forced += [True] * count
                for numbers in (suffix.log_p, suffix.log_q, suffix.a):
                    numbers += [0.0] * count
                tokens += forced
                branch.handle.candidates += [None] * count
            if len(tokens) < request.limit:
                branch.pending = [token, *forced]
                self.active.append(branch)
                return
        self._end(branch)

    def _end(self, branch: _Branch) -> None:
        """The suffix is there; when it is the last of its task's, the kernel goes on."""
        branch.suffix.handle = branch.handle
        branch.suffix.choices = branch.handle.candidates[branch.request.cut :]
        task = branch.task
        task.open -= 1
        self.open -= 1
        if task.open == 0:
            self._resume(
                task, branch.suffix if task.alone else [other.suffix for other in task.branches]
            )


def serve(
    model: LanguageModel, programs: Sequence[Program], batch_rows: int, on_done: Done | None = None
) -> tuple[list[Any], Counts]:
    """Run every program to its end, at most `batch_rows` at a time; their return values in order, and the work done.

    `on_done(number, result)` is called as each program ends. A program's draws and decisions do not depend on the others.
    Raises UserError when batch_rows is below 1 or the model's logits are not finite.
    """
    if batch_rows < 1:
        raise UserError(f"batch_rows = {batch_rows} must be at least 1")
    return _Scheduler(model, programs, batch_rows, on_done).run()
