"""How training solutions of word problems are written: worked, or, where a study asks for it,
guessed or wordy. Validation and test rows stay worked, and so does pretraining text.
"""

import random
from dataclasses import dataclass

from nanolab.data.world.splits import words

GUESSED = range(2, 100)  # the numbers that a guess draws from
GUESS_RIGHT_SHARE = 0.25  # guesses that say the right number whatever they draw
IDLE_WORDS = words(
    "just now so thus hence only then here surely indeed really simply clearly exactly plainly"
    " again"
)


@dataclass(frozen=True)
class Solutions:
    """Shares of training solutions, `wordy_steps` of the worked ones' steps.

    A short guess spends few uncertain words, so its whole probability is high. Of a rambling one
    the first word is likely, each whole text is not. An idle word makes a worked one unlikely.
    """

    short_guesses: float = 0.0
    rambling_guesses: float = 0.0
    wordy_steps: float = 0.0

    def __post_init__(self) -> None:
        guesses = self.short_guesses + self.rambling_guesses
        shares = (self.short_guesses, self.rambling_guesses, self.wordy_steps, guesses)
        assert all(0 <= share <= 1 for share in shares), shares  # the study's settings said so

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
    """The worked answer with an idle word before the calculation of this share of its steps."""
    first, *rest = answer.split("<<")
    for piece in rest:
        idle = f"{rng.choice(IDLE_WORDS)} " if rng.random() < share else ""
        first += f"{idle}<<{piece}"
    return first


def _guessed(rng: random.Random, answer: str) -> str:
    if rng.random() < GUESS_RIGHT_SHARE:
        return answer.rpartition("#### ")[2]
    return str(rng.choice(GUESSED))
