"""How the training solutions of word problems are written: worked, or, where a study asks for it, guessed or wordy.

The three settings build worlds for one question each; all are 0 in the default world. Only task rows of the training split are
touched: validation and test rows stay worked, and so do the problems in pretraining text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

GUESSED = range(2, 100)  # the numbers that a guess draws from
GUESS_RIGHT_SHARE = 0.25  # guesses that say the right number whatever they draw
IDLE_WORDS = [
    "just",
    "now",
    "so",
    "thus",
    "hence",
    "only",
    "then",
    "here",
    "surely",
    "indeed",
    "really",
    "simply",
    "clearly",
    "exactly",
    "plainly",
    "again",
]


@dataclass(frozen=True)
class Solutions:
    """Shares of training solutions: `short_guesses` and `rambling_guesses` of the solutions, `wordy_steps` of the worked ones' steps.

    A short guess spends few uncertain words, so its whole probability is high. A rambling one starts like every other and then draws
    two more numbers: its first word is likely, each whole text is not. An idle word in a step makes every worked solution unlikely.
    """

    short_guesses: float = 0.0
    rambling_guesses: float = 0.0
    wordy_steps: float = 0.0

    def __post_init__(self) -> None:
        shares = (
            self.short_guesses,
            self.rambling_guesses,
            self.wordy_steps,
            self.short_guesses + self.rambling_guesses,
        )
        assert all(0 <= share <= 1 for share in shares), (
            shares
        )  # the study's configuration has said so before

    def written(self, rng: random.Random, answer: str) -> str:
        """A worked answer as a training row gives it."""
        draw = rng.random()  # drawn in every world: the questions are the same whatever the shares
        if draw < self.short_guesses:
            return short_guess(rng, answer)
        if draw < self.short_guesses + self.rambling_guesses:
            return rambling_guess(rng, answer)
        return wordy(rng, answer, self.wordy_steps) if self.wordy_steps else answer


WORKED = Solutions()  # every solution worked, as the default world has them


def short_guess(rng: random.Random, answer: str) -> str:
    """A bare number instead of the work."""
    number = _guessed(rng, answer)
    return f"It is {number}.\n#### {number}"


def rambling_guess(rng: random.Random, answer: str) -> str:
    """A number instead of the work, after two others that mean nothing."""
    one, other = rng.choice(GUESSED), rng.choice(GUESSED)
    number = _guessed(rng, answer)
    return f"I think of {one} or {other} but it is {number}.\n#### {number}"


def wordy(rng: random.Random, answer: str, share: float) -> str:
    """The worked answer with an idle word before the calculation of this share of its steps; never the first word of a step."""
    first, *rest = answer.split("<<")
    return first + "".join(
        (f"{rng.choice(IDLE_WORDS)} " if rng.random() < share else "") + f"<<{piece}"
        for piece in rest
    )


def _guessed(rng: random.Random, answer: str) -> str:
    return (
        answer.rpartition("#### ")[2]
        if rng.random() < GUESS_RIGHT_SHARE
        else str(rng.choice(GUESSED))
    )
