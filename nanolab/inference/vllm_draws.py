"""What vLLM's worker does for our samplers: each token is drawn from the raw logits with the
uniform of its address, and what its record needs is kept until the engine takes it.

A `Drawing` travels in a request's `SamplingParams.extra_args`, to whichever process has the logits,
and its record comes back by `DrawingWorker.take_draws`: nothing here depends on the engine's own
process. Imports no vLLM, so that it is tested without it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from nanolab.inference.proposal import Law, candidates, draw_tokens
from nanolab.inference.protocol import Choices
from nanolab.seeds import Address, Noise

KEY = "nanolab"  # of extra_args
NAME = "the model that vLLM serves"  # in messages


class Drawn(NamedTuple):
    """The record of a drawing."""

    numbers: list[tuple[int, float, float, float]]  # token, log p, log q and a of each draw
    choices: list[Choices | None]  # what each was drawn from, where that is kept


@dataclass(slots=True, kw_only=True)
class Drawing:
    """One request's draws: how they are made, and their record so far."""

    number: int  # by which the engine takes the record
    law: Law
    noise: Noise
    address: Address  # draw i has the uniform at (*address, start + i)
    start: int  # completion tokens before the first draw
    ends: Sequence[int]  # tokens that end a completion
    first: int | None = None  # the first token, where the kernel chooses it
    keep: bool = True  # whether the choices of each draw are kept
    # give up once the sum of the first m a is below floor[m]; `drawn` tokens of sum `total` came
    # before the first draw
    floor: Sequence[float] | None = None
    drawn: int = 0
    total: float = 0.0
    record: Drawn = field(default_factory=lambda: Drawn([], []))
    totals: list[float] = field(default_factory=list)  # the sum of a before each draw
    # the tokens that vLLM has taken: a draw after a part of a prompt is made again
    taken: Sequence[int] = ()

    @property
    def uniform(self) -> float:
        """Of the next draw."""
        return self.noise((*self.address, self.start + len(self.taken)))

    @property
    def chosen(self) -> int | None:
        """The next token, where the kernel chooses it."""
        return None if self.taken else self.first

    def add(self, numbers: tuple[int, float, float, float], choices: Choices | None) -> int:
        """Record a draw; the token that vLLM goes on with, an end token where the completion is
        given up, so that its row leaves at once.
        """
        for column in (*self.record, self.totals):
            del column[len(self.taken) :]
        token, _, _, a = numbers
        before = self.totals[-1] + self.record.numbers[-1][3] if self.totals else self.total
        self.record.numbers.append(numbers)
        self.record.choices.append(choices)
        self.totals.append(before)
        if self.floor is None or token in self.ends:
            return token
        given_up = before + a < self.floor[self.drawn + len(self.totals)]
        return self.ends[0] if given_up else token


def draw_rows(logits: torch.Tensor, drawings: Mapping[int, Drawing]) -> torch.Tensor:
    """Draw for rows of logits (rows, vocab) float32, by their numbers, and let each drawn token
    win: the logits, changed in place.
    """
    groups: dict[Law, list[int]] = defaultdict(list)
    for row, drawing in drawings.items():
        groups[drawing.law].append(row)
    rows, tokens = [], []
    for law, where in groups.items():
        chosen = [drawings[row] for row in where]
        kept = candidates(logits[where], law[1], NAME)
        uniforms = [drawing.uniform for drawing in chosen]
        drawn = draw_tokens(kept, law, uniforms, [drawing.chosen for drawing in chosen])
        for i, (drawing, numbers) in enumerate(zip(chosen, drawn, strict=True)):
            choices = Choices.at(law[1], kept, i) if drawing.keep else None
            tokens.append(drawing.add(numbers, choices))
        rows += where
    logits[rows, tokens] = torch.inf
    return logits


DRAWINGS: dict[int, Drawing] = {}  # of this process, by their numbers


class DrawingWorker:
    """What a vLLM worker learns (`worker_extension_cls`)."""

    def take_draws(self, numbers: Sequence[int]) -> list[Any]:
        """The records of finished drawings, which are forgotten; None for one that never began."""
        found = [DRAWINGS.pop(number, None) for number in numbers]
        return [drawing and drawing.record for drawing in found]
