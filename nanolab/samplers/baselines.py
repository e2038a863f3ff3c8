"""What power sampling is compared with at equal budget: best of n by log p, and majority vote, over independent completions.

Greedy, plain and low-temperature sampling are `nanolab.engine.generate` at their temperatures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from nanolab.generation import Completion


def best_of(completions: Sequence[Completion]) -> Completion:
    """The completion of highest log p (nats, summed, not normalised by length); the first of equals."""
    assert completions, "best of no completions"
    return max(completions, key=lambda completion: completion.sum_log_p)


def majority(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer, the first of equals; None (no answer) has no vote, and wins only when nobody answered."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None
