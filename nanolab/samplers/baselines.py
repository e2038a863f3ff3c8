"""What power sampling is compared with at equal budget: greedy, plain and low-temperature sampling, best of n by log p, majority vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from nanolab.generation import Completion, Decode, Done, Kernel, LanguageModel, check_sampling
from nanolab.samplers.batch import sample_each


def best_of(completions: Sequence[Completion]) -> Completion:
    """The completion of highest log p (nats, summed, not normalised by length); the first of equals."""
    assert completions, "best of no completions"
    return max(completions, key=lambda completion: completion.sum_log_p)


def majority(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer, the first of equals; None (no answer) has no vote, and wins only when nobody answered."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None


def _one_completion(sample: int, limit: int, temperature: float, top_k: int | None) -> Kernel:
    suffix = yield Decode(None, 0, (sample, 0), limit, limit, temperature, top_k, revisit=False)
    return sample, Completion(
        suffix.tokens, suffix.forced, suffix.log_p, suffix.log_q, suffix.ended, suffix.positions
    )


def generate(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    *,
    temperature: float,
    top_k: int | None,
    max_new_tokens: int,
    seed: int,
    stage: str,
    samples_per_prompt: int = 1,
    batch_rows: int = 64,
    examples: Sequence[int | str] | None = None,
    on_done: Done | None = None,
) -> list[list[Completion]]:
    """`samples_per_prompt` completions of each prompt (temperature 0: greedy), tools run and forced in.

    Draws are addressed (seed, stage, examples[i], sample, 0, position); `examples` defaults to the prompts' numbers. Sample c
    equals the first state of power-sampling chain c with the same seed, stage, temperature and top_k.
    `on_done(i, completions)` is called when all completions of prompt i have ended. Raises UserError for settings or lengths out of range.
    """
    check_sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens)
    found: list[dict[int, Completion]] = [
        {} for _ in prompts
    ]  # prompt -> sample -> its completion, in the order in which they end

    def finished(i: int, sample: tuple[int, Completion]) -> None:
        found[i].update([sample])
        if on_done and len(found[i]) == samples_per_prompt:
            on_done(i, [found[i][c] for c in range(samples_per_prompt)])

    sample_each(
        model,
        prompts,
        lambda noise, i, c: _one_completion(c, max_new_tokens, temperature, top_k),
        copies=samples_per_prompt,
        called="samples_per_prompt",
        max_new_tokens=max_new_tokens,
        seed=seed,
        stage=stage,
        batch_rows=batch_rows,
        on_done=finished,
        examples=examples,
    )
    return [[samples[c] for c in range(samples_per_prompt)] for samples in found]
