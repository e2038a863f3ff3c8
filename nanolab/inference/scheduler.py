"""The scheduler: all chains and populations of all prompts in one full batch (continuous batching).

Each tick forwards one token (or one forced output) of every active row; a row that ends, is given
up or reaches its limit leaves at once and the next request or program takes its place. `serve` runs
given programs; whoever has programs that come one by one adds them to a `Scheduler` and ticks.
"""

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from nanolab.errors import UserError
from nanolab.inference.proposal import Candidates, candidates, draw_tokens
from nanolab.inference.protocol import Choices, Decode, Done, LanguageModel, Program
from nanolab.inference.rows import Branch, Prompt, Rows, State, Task

PREFILL_ROWS = 16  # prompts prefilled together at least, while the queue has as many


def serve(
    model: LanguageModel, programs: Sequence[Program], batch_rows: int, on_done: Done | None = None
) -> list[Any]:
    """Run every program to its end, at most `batch_rows` rows at a time; their return values in
    order.

    `on_done(number, result)` is called as each program ends. A program's draws do not depend on the
    others. A model that batches and caches by itself (`protocol.Server`) is asked to serve them.
    Raises UserError when the model's logits are not finite.
    """
    if batch_rows < 1:
        raise UserError(f"batch_rows = {batch_rows} must be at least 1")
    if hasattr(model, "serve"):
        return model.serve(programs, batch_rows, on_done)
    return Scheduler(model, batch_rows).serve(programs, on_done)


class Scheduler:
    """Programs that run in one batch of at most `batch_rows` rows. Not for several threads.

    `rows` has the model's rows (None: `Rows(model)`), forwarded by `decode`. A subclass that
    forwards in another way replaces `_prepare`, `_bare_prompt` and `_forward`.
    """

    def __init__(self, model: Any, batch_rows: int, rows: Any = None) -> None:
        self.model, self.batch_rows = model, batch_rows
        self.name = getattr(model, "name", "the model")  # the toys of tests have none
        self.rows = Rows(model) if rows is None else rows
        self.queue: deque[Task] = deque()  # not started
        self.requests: deque[Branch] = deque()  # not begun
        self.active: list[Branch | Prompt] = []  # to be forwarded in this tick
        self.open = 0  # requests that have not ended

    def serve(self, programs: Sequence[Program], on_done: Done | None = None) -> list[Any]:
        """Run every program to its end; their return values in order."""
        results: list[Any] = [None] * len(programs)

        def done(number: int, result: Any) -> None:
            results[number] = result
            if on_done:
                on_done(number, result)

        for number, program in enumerate(programs):
            self.add(program, functools.partial(done, number))
        self.run()
        return results

    def add(self, program: Program, on_result: Callable[[Any], None]) -> Task:
        """A program that starts once there is room; `on_result` gets what its kernel returns."""
        task = Task(program, on_result)
        self.rows.expect(task)
        self.queue.append(task)
        return task

    def cancel(self, task: Task) -> None:
        """Between two ticks: forget a program that has not ended, and give its rows back."""
        if task in self.queue:
            self.queue.remove(task)
        self.requests = deque(branch for branch in self.requests if branch.task is not task)
        # no prompt is among them: a tick forwards those that it begins
        self.active = [branch for branch in self.active if branch.task is not task]
        self.open -= task.open
        self.rows.finish(task)
        task.program.kernel.close()

    def run(self) -> None:
        """Run every program to its end, the batch as full as it can be."""
        while self.queue or self.open:
            while self.queue and self.open < self.batch_rows:
                self._start()
            if self.requests and len(self.active) < self.batch_rows:
                self._begin()
            elif self.active:
                self._forward()

    def tick(self) -> None:
        """Start and begin what there is room for, then forward every active row once. Whatever a
        program does, no other waits for more than this.
        """
        while self.queue and self.open < self.batch_rows:
            self._start()
        if self.requests and len(self.active) < self.batch_rows:
            self._begin()
        if self.active:
            self._forward()

    def _start(self) -> None:
        """Start the next program."""
        task = self.queue[0]
        self._prepare(task)
        self.queue.popleft()
        self._resume(task, None)

    def _prepare(self, task: Task) -> None:
        """Prefill the task's prompt where it is new, with those of the programs behind it."""
        if task.prompt not in self.rows.prompts:
            room = max(PREFILL_ROWS, self.batch_rows - self.open)
            self.rows.prefill(self.queue, room)

    def _resume(self, task: Task, reply: Any) -> None:
        """Send the kernel its reply; take its next requests or its result."""
        try:
            asked = task.program.kernel.send(reply)
        except StopIteration as stop:
            self.rows.finish(task)
            task.on_result(stop.value)
            return
        task.single = isinstance(asked, Decode)
        requests = [asked] if task.single else asked
        assert requests, "an empty list of requests"
        for request in requests:
            assert request.cut < request.limit <= request.sampling.max_new_tokens, (
                f"nothing to draw between {request.cut} and {request.limit}"
            )
        task.branches = [Branch(task, request, request.sampling.law) for request in requests]
        self.rows.claim(task)
        self.open += task.open
        self.requests += task.branches

    def _begin(self) -> None:
        """Branch rows for the requests that fit, and draw first tokens that need no forward."""
        begun: list[tuple[Branch, State]] = []
        for _ in range(min(len(self.requests), self.batch_rows - len(self.active))):
            branch = self.requests.popleft()
            parent = branch.request.parent or self._bare_prompt(branch)
            if parent is not None:
                begun.append((branch, parent))
        groups = defaultdict(list)
        for (branch, _), first in zip(begun, self.rows.branch(begun), strict=True):
            if first is None:
                self.active.append(branch)
            else:
                groups[branch.law].append((branch, first))
        for group in groups.values():
            branches, firsts = zip(*group)
            ids, log_p = (
                numpy.stack(column) for column in zip(*((x.ids, x.log_p) for x in firsts))
            )
            self._draw(branches, Candidates(ids, log_p))

    def _bare_prompt(self, branch: Branch) -> State | None:
        """The state that a program's first request branches from; None while its prompt's last
        token has not been forwarded.
        """
        prompt = self.rows.prompts[branch.task.prompt]
        if prompt.logits is None:
            if not prompt.waiting:
                self.active.append(prompt)
            prompt.waiting.append(branch)
            return None
        branch.suffix.positions, prompt.unpaid = prompt.unpaid, 0
        top_k = branch.law[1]
        kept = candidates(prompt.logits, top_k, self.name)
        first = Choices(top_k, kept.ids[0], kept.log_p[0])
        return State([], [first], prompt.state.row, prompt.state.cached)

    def _forward(self) -> None:
        """One decode of every active row, then a draw for each."""
        active, self.active = self.active, []
        logits = self.rows.decode(active)
        groups = defaultdict(list)
        for i, entry in enumerate(active):
            if isinstance(entry, Prompt):
                entry.logits = logits[i : i + 1].clone()
                self.requests.extendleft(reversed(entry.waiting))
                entry.waiting = []
            else:
                entry.suffix.positions += len(entry.pending)
                groups[entry.law].append(i)
        for (_, top_k, _), where in groups.items():
            some = logits if len(where) == len(active) else logits[where]
            self._draw([active[i] for i in where], candidates(some, top_k, self.name))

    def _draw(self, branches: Sequence[Branch], kept: Candidates) -> None:
        """Draw the next token of branches of one law, each from its candidates; record it."""
        uniforms, firsts = [], []
        for branch in branches:
            address = (*branch.request.address, len(branch.state.tokens))
            uniforms.append(branch.task.program.noise(address))
            firsts.append(None if branch.drawn else branch.request.first)
        law = branches[0].law
        drawn = draw_tokens(kept, law, uniforms, firsts)
        for i, (branch, numbers) in enumerate(zip(branches, drawn)):
            choices = Choices.at(law[1], kept, i) if branch.request.revisit else None
            branch.state.choices.append(choices)
            if self._append(branch, *numbers):
                self.active.append(branch)
            else:
                self._end(branch)

    def _append(self, branch: Branch, token: int, log_p: float, log_q: float, a: float) -> bool:
        """One token more, with the tool's output that it calls for; whether the branch goes on,
        with them pending.
        """
        request, suffix, state = branch.request, branch.suffix, branch.state
        suffix.append(token, log_p, log_q, a)
        state.tokens.append(token)
        branch.drawn += 1
        branch.total += a
        suffix.ended = token in self.model.end_tokens
        if branch.task.program.watch is not None:
            suffix.ended |= branch.task.program.watch(state.tokens, suffix)
        if not suffix.ended and request.floor is not None:
            suffix.given_up = branch.total < request.floor[branch.drawn]
        if suffix.ended or suffix.given_up:
            return False
        room = request.sampling.max_new_tokens - len(state.tokens)
        forced = self._forced(branch, token)[:room] if room else []
        suffix.append_forced(forced)
        state.tokens += forced
        state.choices += [None] * len(forced)
        branch.pending = [token, *forced]
        return len(state.tokens) < request.limit

    def _forced(self, branch: Branch, token: int) -> list[int]:
        """What the environment inserts after the branch's tokens, of which `token` is the last."""
        return self.model.forced(branch.state.row, token)

    def _end(self, branch: Branch) -> None:
        """The suffix is there; when it is the last of its task's, the kernel goes on."""
        task, suffix = branch.task, branch.suffix
        suffix.handle = branch.state
        suffix.choices = branch.state.choices[branch.request.cut :]
        task.open -= 1
        self.open -= 1
        if task.open == 0:
            suffixes = [other.suffix for other in task.branches]
            self._resume(task, suffix if task.single else suffixes)
