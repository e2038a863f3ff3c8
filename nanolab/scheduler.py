"""The scheduler: all chains of all prompts in one full batch (continuous batching).

A chain is a generator that yields `Decode` and receives `Suffix`. Each tick forwards one token (or one forced output) of every
active row; a row that ends, is given up or reaches its limit leaves at once and the next request or program takes its place.

Nothing is forwarded twice. Each position of a state keeps the candidates of its draw, so the first token of a new suffix needs no
forward; the last token of a completion is never forwarded; an accepted proposal's row becomes the state's row. Identical prompts
are prefilled once. A chain owns at most two rows: its state's and its proposal's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from nanolab.generation import (
    Completion,
    Counts,
    Decode,
    Done,
    Kernel,
    LanguageModel,
    Program,
    Suffix,
    candidates,
    check_lengths,
    check_sampling,
    draw,
    effective_top_k,
    power_term,
)
from nanolab.schema import UserError
from nanolab.seeds import noise

PREFILL_ROWS = 16  # prompts prefilled together at least, while the queue has as many


class _Handle:
    """A state: its completion tokens, how each was drawn, and the row whose first `cached` positions hold it."""

    __slots__ = ("cached", "candidates", "row", "tokens")

    def __init__(self, tokens: list[int], kept: list[Any], row: int, cached: int) -> None:
        self.tokens, self.candidates, self.row, self.cached = tokens, kept, row, cached


class _Prompt:
    """A prefilled prompt that several programs may share; `logits` (1, vocab) once its last token was forwarded."""

    def __init__(self, tokens: list[int], row: int, users: int) -> None:
        self.handle = _Handle([], [], row, len(tokens) - 1)
        self.users = users  # programs that have not yet taken their row
        self.unpaid = len(tokens)  # positions still to be charged to the first program
        self.logits: torch.Tensor | None = None
        self.waiting: list[_Chain] = []
        self.row, self.pending = row, tokens[-1:]


class _Chain:
    """A started program and the request it waits for."""

    def __init__(self, number: int, program: Program) -> None:
        self.number, self.prompt, self.kernel, self.noise = number, program.prompt, program.kernel, program.noise
        self.request: Decode | None = None
        self.suffix = Suffix()
        self.handle: _Handle | None = None
        self.row = -1
        self.rows: list[int] = []
        self.pending: list[int] = []
        self.drawn, self.total = 0, 0.0  # model tokens of the suffix, and the sum of their a in drawing order

    @property
    def group(self) -> tuple:
        request = self.request
        return request.temperature, effective_top_k(request.temperature, request.top_k), request.alpha


class _Scheduler:
    def __init__(self, model: LanguageModel, programs: Sequence[Program], batch_rows: int, on_done: Done | None) -> None:
        self.model, self.programs, self.batch_rows, self.on_done = model, programs, batch_rows, on_done
        self.queue = deque(range(len(programs)))
        self.users: dict[tuple[int, ...], int] = {}
        for program in programs:
            key = tuple(program.prompt)
            self.users[key] = self.users.get(key, 0) + 1
        self.prompts: dict[tuple[int, ...], _Prompt] = {}
        self.requests: list[_Chain] = []  # chains whose request has not begun
        self.active: list[_Chain | _Prompt] = []  # rows to forward in this tick
        self.running = 0
        self.results: list[Any] = [None] * len(programs)
        self.positions = self.forwards = 0

    def run(self) -> tuple[list[Any], Counts]:
        while self.queue or self.running:
            while self.queue and self.running < self.batch_rows:
                self._start()
            while self.requests:
                self._begin()
            if self.active:
                self._forward()
        return self.results, Counts(self.positions, self.forwards)

    def _start(self) -> None:
        number = self.queue.popleft()
        program = self.programs[number]
        if tuple(program.prompt) not in self.prompts:
            self._prefill(number)
        self.running += 1
        self._resume(_Chain(number, program), None)

    def _prefill(self, number: int) -> None:
        """Prefill the prompt of program `number` and the next ones in the queue that are not there yet."""
        room = max(PREFILL_ROWS, self.batch_rows - self.running)
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

    def _resume(self, chain: _Chain, suffix: Suffix | None) -> None:
        """Send the kernel its reply; take its next request or its result."""
        try:
            chain.request = next(chain.kernel) if suffix is None else chain.kernel.send(suffix)
        except StopIteration as stop:
            self._finish(chain, stop.value)
            return
        request = chain.request
        assert request.cut < request.limit <= request.max_length, f"nothing to draw between {request.cut} and {request.limit}"
        assert (request.parent is None) == (chain.handle is None), "parent = None is a program's first request, and only that"
        self.requests.append(chain)

    def _finish(self, chain: _Chain, result: Any) -> None:
        if chain.rows:
            self.model.fork(chain.rows, [-1] * len(chain.rows), [0] * len(chain.rows))
        if chain.handle is None:  # it never asked for its prompt's row
            prompt = self.prompts[tuple(chain.prompt)]
            if self._leave(prompt, chain):
                self.model.fork([prompt.row], [-1], [0])
        self.running -= 1
        self.results[chain.number] = result
        if self.on_done:
            self.on_done(chain.number, result)

    def _leave(self, prompt: _Prompt, chain: _Chain) -> bool:
        """One program fewer for `prompt`; True when it was the last, and may take the prompt's row."""
        prompt.users -= 1
        if prompt.users == 0:
            del self.prompts[tuple(chain.prompt)]
        return prompt.users == 0

    def _begin(self) -> None:
        """Branch a row for every waiting request (one fork call), then draw the first tokens that need no forward."""
        requests, self.requests = self.requests, []
        branches: list[tuple[_Chain, _Handle, int, bool]] = []
        rows: list[int] = []
        parents: list[int] = []
        lengths: list[int] = []
        for chain in requests:
            parent = self._parent(chain)
            if parent is None:
                continue
            cut, start = chain.request.cut, len(chain.prompt)
            found = cut < len(parent.candidates) and parent.candidates[cut] is not None and parent.candidates[cut][0] == chain.group[1]
            length = start + cut if found else min(start + cut - 1, parent.cached)
            assert length <= parent.cached
            dead = [row for row in chain.rows if row != parent.row]
            rows.append(chain.row if chain.handle is None else dead[0] if dead else -1)  # chain.row: -1, or the prompt's own row
            parents.append(parent.row)
            lengths.append(length)
            branches.append((chain, parent, length, found))
        new = self.model.fork(rows, parents, lengths) if rows else []
        groups: dict[tuple, list[tuple[_Chain, Any]]] = {}
        for (chain, parent, length, found), row in zip(branches, new, strict=True):
            first = parent.candidates[chain.request.cut] if found else None
            self._branch(chain, parent, length, row)
            if found:
                groups.setdefault(chain.group, []).append((chain, first))
            else:
                self.active.append(chain)
        for group in groups.values():
            ids, log_p = numpy.stack([kept[1] for _, kept in group]), numpy.stack([kept[2] for _, kept in group])
            self._draw([chain for chain, _ in group], ids, log_p)

    def _parent(self, chain: _Chain) -> _Handle | None:
        """The handle that a request branches from; None while its prompt's last token has not been forwarded."""
        chain.suffix = Suffix()
        chain.drawn, chain.total = 0, 0.0
        if chain.request.parent is not None:
            return chain.request.parent
        prompt = self.prompts[tuple(chain.prompt)]
        if prompt.logits is None:
            if not prompt.waiting:
                self.active.append(prompt)
            prompt.waiting.append(chain)
            return None
        chain.suffix.positions, prompt.unpaid = prompt.unpaid, 0
        top_k = chain.group[1]
        kept = candidates(prompt.logits, top_k)
        handle = _Handle([], [(top_k, kept.ids[0], kept.log_p[0])], prompt.row, len(chain.prompt))
        chain.row = prompt.row if self._leave(prompt, chain) else -1
        return handle

    def _branch(self, chain: _Chain, parent: _Handle, length: int, row: int) -> None:
        cut = chain.request.cut
        keep = [row, parent.row] if chain.request.parent is not None else [row]
        for spare in chain.rows:
            assert spare in keep, "a chain owns its state's row and its proposal's"
        chain.rows = list(dict.fromkeys(keep))
        chain.row = row
        tokens = parent.tokens[:cut]
        chain.handle = _Handle(tokens, parent.candidates[:cut], row, length)
        start = len(chain.prompt)
        chain.pending = (chain.prompt[length:] if length < start else []) + tokens[max(length - start, 0):]

    def _forward(self) -> None:
        """One decode of every active row, then a draw for each."""
        active, self.active = self.active, []
        logits = self.model.decode([entry.row for entry in active], [entry.pending for entry in active])
        self.forwards += 1
        groups: dict[tuple, list[int]] = {}
        for i, entry in enumerate(active):
            self.positions += len(entry.pending)
            if isinstance(entry, _Prompt):
                entry.logits = logits[i:i + 1].clone()
                entry.handle.cached += 1
                self.requests += entry.waiting
                entry.waiting = []
            else:
                entry.suffix.positions += len(entry.pending)
                entry.handle.cached += len(entry.pending)
                groups.setdefault(entry.group, []).append(i)
        for (_, top_k, _), where in groups.items():
            kept = candidates(logits if len(where) == len(active) else logits[where], top_k)
            self._draw([active[i] for i in where], kept.ids, kept.log_p)

    def _draw(self, chains: list[_Chain], ids: numpy.ndarray, log_p: numpy.ndarray) -> None:
        """Draw the next token of `chains`, all with the same settings, from candidates (chains, k); record it."""
        temperature, top_k, alpha = chains[0].group
        uniforms = [chain.noise((*chain.request.address, len(chain.handle.tokens))) for chain in chains]
        index, log_z = draw(log_p, temperature, numpy.array(uniforms))
        rows = numpy.arange(len(chains))
        tokens = ids[rows, index].tolist()
        chosen = log_p[rows, index].astype(numpy.float64)
        log_q = (chosen / (temperature or 1.0) - log_z).tolist()
        a = power_term(chosen, log_z, temperature, alpha).tolist()
        chosen = chosen.tolist()
        for i, chain in enumerate(chains):
            chain.handle.candidates.append((top_k, ids[i].copy(), log_p[i].copy()) if chain.request.revisit else None)
            self._append(chain, tokens[i], chosen[i], log_q[i], a[i])

    def _append(self, chain: _Chain, token: int, log_p: float, log_q: float, a: float) -> None:
        request, suffix, tokens = chain.request, chain.suffix, chain.handle.tokens
        suffix.tokens.append(token)
        suffix.forced.append(False)
        suffix.log_p.append(log_p)
        suffix.log_q.append(log_q)
        suffix.a.append(a)
        tokens.append(token)
        chain.drawn += 1
        chain.total += a
        suffix.ended = token == self.model.end_token
        suffix.given_up = not suffix.ended and request.floor is not None and chain.total < request.floor[chain.drawn]
        if not suffix.ended and not suffix.given_up:
            room = request.max_length - len(tokens)
            forced = self.model.forced(chain.row, token)[:room] if room else []
            if forced:
                count = len(forced)
                suffix.tokens += forced
                suffix.forced += [True] * count
                for numbers in (suffix.log_p, suffix.log_q, suffix.a):
                    numbers += [0.0] * count
                tokens += forced
                chain.handle.candidates += [None] * count
            if len(tokens) < request.limit:
                chain.pending = [token, *forced]
                self.active.append(chain)
                return
        suffix.handle = chain.handle
        self._resume(chain, suffix)


def serve(model: LanguageModel, programs: Sequence[Program], batch_rows: int, on_done: Done | None = None) -> tuple[list[Any], Counts]:
    """Run every program to its end, at most `batch_rows` at a time; their return values in order, and the work done.

    `on_done(number, result)` is called as each program ends. A program's draws and decisions do not depend on the others.
    Raises UserError when batch_rows is below 1 or the model's logits are not finite.
    """
    if batch_rows < 1:
        raise UserError(f"batch_rows = {batch_rows} must be at least 1")
    return _Scheduler(model, programs, batch_rows, on_done).run()


def _one_completion(sample: int, limit: int, temperature: float, top_k: int | None) -> Kernel:
    suffix = yield Decode(None, 0, (sample, 0), limit, limit, temperature, top_k, revisit=False)
    return Completion(suffix.tokens, suffix.forced, suffix.log_p, suffix.log_q, suffix.ended, suffix.positions)


def generate(model: LanguageModel, prompts: Sequence[list[int]], *, temperature: float, top_k: int | None, max_new_tokens: int, seed: int,
             stage: str, samples_per_prompt: int = 1, batch_rows: int = 64, examples: Sequence[int | str] | None = None,
             on_done: Done | None = None) -> list[list[Completion]]:
    """`samples_per_prompt` completions of each prompt (temperature 0: greedy), tools run and forced in.

    Draws are addressed (seed, stage, examples[i], sample, 0, position); `examples` defaults to the prompts' numbers. Sample c
    equals the first state of power-sampling chain c with the same seed, stage, temperature and top_k.
    `on_done(i, completion)` is called as each completion of prompt i ends. Raises UserError for settings or lengths out of range.
    """
    check_sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens)
    check_lengths(model, prompts, max_new_tokens)
    if samples_per_prompt < 1:
        raise UserError(f"samples_per_prompt = {samples_per_prompt} must be at least 1")
    programs = []
    for i, prompt in enumerate(prompts):
        uniforms = noise(seed, stage, examples[i] if examples else i)
        programs += [Program(prompt, _one_completion(c, max_new_tokens, temperature, top_k), uniforms) for c in range(samples_per_prompt)]
    done = (lambda number, result: on_done(number // samples_per_prompt, result)) if on_done else None
    flat, _ = serve(model, programs, batch_rows, done)
    return [flat[i:i + samples_per_prompt] for i in range(0, len(flat), samples_per_prompt)]
