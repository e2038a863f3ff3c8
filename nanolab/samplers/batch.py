"""Every sampler's way to the scheduler: the same kernel, several times for each prompt, all in one
batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanolab.errors import UserError
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import (
    Done,
    Draws,
    Kernel,
    LanguageModel,
    Program,
    check_lengths,
)
from nanolab.inference.scheduler import serve
from nanolab.seeds import Noise, noise


@dataclass(frozen=True)
class Batch:
    """Prompts that are answered together, and where their random numbers come from.

    Draws are addressed (seed, stage, example, copy, ...): they depend on nothing else of the batch.
    """

    prompts: Sequence[list[int]]  # token ids
    seed: int
    stage: str
    copies: int = 1  # completions, chains or populations of each prompt
    rows: int = 64  # decoded together at most
    examples: Sequence[int | str] | None = None  # names of the prompts; None: their numbers


class Sampler(Protocol):
    """The settings of a power sampler: PowerSettings, SmcSettings or RolloutSettings."""

    max_new_tokens: int

    def kernel(self, noise: Noise, problem: int, copy: int) -> Kernel:
        """The program of one chain, population or completion, which returns its `Result`."""


@dataclass
class Result:
    """What a power sampler made of a prompt."""

    problem: int
    copy: int  # number of the chain, population or completion
    final: Draws  # the sample
    infos: list[Any]  # of every step

    @property
    def positions(self) -> int:
        """Token positions forwarded, the prompt included where this was the first to use it."""
        return self.final.positions


def sample(
    model: LanguageModel,
    batch: Batch,
    settings: Sampler | Sampling,
    on_done: Done | None = None,
    kernel: Callable[[Noise, int, int], Kernel] | None = None,
) -> list[Any]:
    """What kernel(noise, i, c), None: the settings' own, returns for each prompt i and copy c,
    copies of a prompt together.

    `on_done(i, result)` is called as each copy ends. Raises UserError for lengths beyond the
    context, and below one copy.
    """
    check_lengths(model, batch.prompts, settings.max_new_tokens)
    if batch.copies < 1:
        raise UserError(f"copies = {batch.copies} must be at least 1")
    kernel = kernel or settings.kernel
    programs = []
    for i, prompt in enumerate(batch.prompts):
        uniforms = noise(batch.seed, batch.stage, batch.examples[i] if batch.examples else i)
        programs += [Program(prompt, kernel(uniforms, i, c), uniforms) for c in range(batch.copies)]

    def done(number: int, result: Any) -> None:
        if on_done:
            on_done(number // batch.copies, result)

    return serve(model, programs, batch.rows, done)
