"""Every sampler's way to the scheduler: the same kernel, several times for each prompt, all in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanolab.generation import Done, Kernel, LanguageModel, Program, check_lengths
from nanolab.scheduler import serve
from nanolab.schema import UserError
from nanolab.seeds import Noise, noise


def sample_each(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    kernel: Callable[[Noise, int, int], Kernel],
    *,
    copies: int,
    called: str,
    max_new_tokens: int,
    seed: int,
    stage: str,
    batch_rows: int,
    on_done: Done | None,
    examples: Sequence[int | str] | None,
) -> list[Any]:
    """What kernel(noise, i, c) returns for each prompt i and copy c < `copies`, copies of a prompt together.

    The noise of prompt i is addressed (seed, stage, examples[i]); `examples` defaults to the prompts' numbers. `on_done(i, result)` is
    called as each copy ends. Raises UserError for lengths beyond the context, and below one copy, which the message names `called`.
    """
    check_lengths(model, prompts, max_new_tokens)
    if copies < 1:
        raise UserError(f"{called} = {copies} must be at least 1")
    programs = []
    for i, prompt in enumerate(prompts):
        uniforms = noise(seed, stage, examples[i] if examples else i)
        programs += [Program(prompt, kernel(uniforms, i, c), uniforms) for c in range(copies)]
    done = (lambda number, result: on_done(number // copies, result)) if on_done else None
    return serve(model, programs, batch_rows, done)[0]
