"""What power sampling is compared with at equal budget: greedy, plain and low-temperature sampling,
best of n by log p, majority vote.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Decode, Done, Draws, Kernel, LanguageModel
from nanolab.samplers.batch import Batch, sample
from nanolab.seeds import Noise


def best_of(completions: Sequence[Draws]) -> Draws:
    """The completion of highest log p (summed, not normalised by length); the first of equals."""
    return max(completions, key=lambda completion: completion.sum_log_p)


def majority(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer, the first of equals; None (no answer) has no vote, and wins only
    when nobody answered.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None


def generate(
    model: LanguageModel, batch: Batch, sampling: Sampling, on_done: Done | None = None
) -> list[list[Draws]]:
    """`batch.copies` completions of each prompt from q, tools run and forced in.

        generate(model, Batch(prompts, seed=0, stage="s"),
                 Sampling(temperature=0.7, top_k=50, max_new_tokens=64))

    Draws are addressed (seed, stage, example, copy, 0, position): copy c equals the first state of
    power-sampling chain c of the same batch and proposal. `on_done(i, completions)` is called when
    all completions of prompt i have ended. Raises UserError for lengths beyond the context.
    """
    ended: list[dict[int, Draws]] = [{} for _ in batch.prompts]  # by prompt and copy

    def completion(noise: Noise, i: int, c: int) -> Kernel:
        limit = sampling.max_new_tokens
        suffix = yield Decode(sampling=sampling, address=(c, 0), limit=limit, revisit=False)
        ended[i][c] = suffix[:]

    def in_order(i: int) -> list[Draws]:
        return [ended[i][c] for c in range(batch.copies)]

    def finished(i: int, _: None) -> None:
        if on_done and len(ended[i]) == batch.copies:
            on_done(i, in_order(i))

    sample(model, batch, sampling, finished, completion)
    return [in_order(i) for i in range(len(ended))]
