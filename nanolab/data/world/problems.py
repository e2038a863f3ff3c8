"""Word problems in GSM8K's form: a start, up to two changes and an ending, one to four operations
in all.

Held out: whole sequences of parts, each of which occurs in training. A step of a solution has one
phrasing (measured to suit power sampling), with a small share of a second.
"""

import itertools
import operator
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nanolab.data.world.solutions import WORKED, Solutions
from nanolab.data.world.splits import grouped, split_of, weighted, words

NAMES = words("Tom Ann Sam Mia Ben Eva Max Lea Dan Zoe Jim Ivy Leo Amy Bob Kim")
OBJECTS = words(
    "apples books coins cards stones shells pens cups hats toys eggs stamps balls flowers keys"
    " beads"
)

# What makes the problems harder or easier; operations -> weight.
TRAIN_OPERATIONS = {1: 0.15, 2: 0.30, 3: 0.30, 4: 0.25}
TEST_OPERATIONS = {2: 0.35, 3: 0.35, 4: 0.30}  # sequences of one operation are too few to hold out
DISTRACTORS = {0: 0.55, 1: 0.35, 2: 0.10}  # sentences with a number that is not needed -> weight
ALTERNATE_SHARE = 0.06  # solution steps in their second phrasing
LARGEST_RESULT = 150
WORTH = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}

Sequence = tuple[str, ...]  # start, changes..., ending


class _Unfit(Exception):
    """The numbers drawn do not suit the sequence; draw again."""


@dataclass
class Story:
    """A problem while it is written."""

    rng: random.Random
    terms: dict[str, Any]  # name, other (whom the start compares with), friend (at the end), thing
    held: int = 0
    told: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    question: str = ""

    def number(self, low: int, high: int) -> int:
        """A number drawn from low to high."""
        if high < low:
            raise _Unfit
        return self.rng.randint(low, high)

    def fewer(self) -> int:
        """A number that leaves 2 at least of what is held."""
        return self.number(2, min(19, self.held - 2))

    def divisor(self) -> int:
        """A number of friends who can share what is held."""
        friends = [k for k in range(2, 10) if self.held % k == 0 and self.held > k]
        if not friends:
            raise _Unfit
        return self.rng.choice(friends)

    def half(self) -> int:
        """2, where what is held can be halved."""
        if self.held % 2:
            raise _Unfit
        return 2


@dataclass(frozen=True)
class Part:
    """A part of a problem: how its numbers a and b are drawn, its sentence, and its solution steps.

    Two phrasings of one thing are parted by "|". A step is a calculation with a, b, held or the
    result of the step before (more), and how it is said, usually and seldom. A part without a step
    holds a.
    """

    numbers: Callable[[Story], tuple[int, ...]]
    told: str
    steps: tuple[tuple[str, str], ...] = ()
    question: str = ""


def _two(low: int, high: int) -> Callable[[Story], tuple[int, ...]]:
    return lambda story: (story.number(low, high), story.number(low, high))


START = "{name} has {} {thing}.|So {name} starts with {} {thing}."
NOW = "Now {name} has {} {thing}.|Then there are {} {thing}."
STARTS = {
    "has": Part(lambda s: (s.number(4, 24),), "{name} has {a} {thing}.|{name} owns {a} {thing}."),
    "boxes": Part(
        _two(2, 9),
        "{name} has {a} boxes with {b} {thing} each.|{name} fills {a} boxes with {b} {thing} each.",
        (("a * b", START),),
    ),
    "more": Part(
        _two(2, 19),
        "{other} has {a} {thing} and {name} has {b} more than {other}.",
        (("a + b", START),),
    ),
    "fewer": Part(
        lambda s: (s.number(6, 24), s.number(2, 15)),
        "{other} has {a} {thing} and {name} has {b} fewer than {other}.",
        (("a - b", START),),
    ),
    "rate": Part(
        _two(2, 9),
        "{name} finds {b} {thing} a day for {a} days.|{name} gets {b} {thing} a day for {a} days.",
        (("b * a", START),),
    ),
}
CHANGES = {
    "gain": Part(
        lambda s: (s.number(2, 19),),
        "{name} buys {a} more {thing}.|Then {name} gets {a} more {thing}.",
        (("held + a", NOW),),
    ),
    "lose": Part(
        lambda s: (s.fewer(),),
        "{name} loses {a} {thing}.|{name} gives away {a} {thing}.",
        (("held - a", NOW),),
    ),
    "half": Part(
        lambda s: (s.half(),),
        "{name} loses half of the {thing}.|{name} gives away half of the {thing}.",
        (("held / a", NOW),),
    ),
    "times": Part(
        lambda s: (s.number(2, 4),),
        "Then {name} ends up with {a} times as many {thing}."
        "|Soon {name} has {a} times as many {thing}.",
        (("held * a", NOW),),
    ),
    "gain boxes": Part(
        _two(2, 9),
        "{name} buys {a} boxes with {b} {thing} each."
        "|Then {name} gets {a} boxes with {b} {thing} each.",
        (("a * b", "The boxes have {} {thing}.|That adds {} {thing}."), ("held + more", NOW)),
    ),
    "lose daily": Part(
        _two(2, 6),
        "{name} loses {a} {thing} a day for {b} days."
        "|{name} gives away {a} {thing} a day for {b} days.",
        (("a * b", "In these days {} {thing} go.|That takes {} {thing}."), ("held - more", NOW)),
    ),
}
ENDINGS = {
    "now": Part(
        lambda s: (),
        "",
        (),
        "How many {thing} does {name} have now?|How many {thing} does {name} have in the end?",
    ),
    "share": Part(
        lambda s: (s.divisor(),),
        "{name} shares the {thing} among {a} friends."
        "|Then {a} friends share all {thing} of {name}.",
        (("held / a", "Each friend gets {} {thing}.|That is {} {thing} each."),),
        "How many {thing} does each friend get?",
    ),
    "price": Part(
        lambda s: (s.number(2, 6),),
        "{name} sells the {thing} for {a} dollars each."
        "|{name} gets {a} dollars for each of the {thing}.",
        (("held * a", "{name} gets {} dollars.|That makes {} dollars."),),
        "How many dollars does {name} get?",
    ),
    "total": Part(
        lambda s: (s.number(2, 19),),
        "{friend} brings {a} {thing}.|{friend} comes with {a} {thing}.",
        (("held + a", "Together they have {} {thing}.|In all there are {} {thing}."),),
        "How many {thing} do {name} and {friend} have together?",
    ),
    "difference": Part(
        lambda s: (s.fewer(),),
        "{friend} has only {a} {thing}.|{friend} owns only {a} {thing}.",
        (("held - a", "{name} has {} more {thing}.|The difference is {} {thing}."),),
        "How many more {thing} does {name} have than {friend}?",
    ),
}


def parts_of(sequence: Sequence) -> list[Part]:
    """The parts that a sequence names."""
    start, *changes, ending = sequence
    return [STARTS[start], *(CHANGES[change] for change in changes), ENDINGS[ending]]


def operations(sequence: Sequence) -> int:
    """The number of operations that a sequence of parts takes."""
    return sum(len(part.steps) for part in parts_of(sequence))


def sequences() -> list[Sequence]:
    """Every sequence of one to four operations with at most two changes."""
    made = [
        (start, *changes, ending)
        for start in STARTS
        for count in range(3)
        for changes in itertools.product(CHANGES, repeat=count)
        for ending in ENDINGS
    ]
    return [sequence for sequence in made if 1 <= operations(sequence) <= 4]


def sequence_split(seed: int, sequence: Sequence) -> str:
    """The split of a sequence; those of one operation are for training."""
    if operations(sequence) == 1:
        return "train"
    return split_of(seed, "problem", *sequence, test=0.2, validation=0.1)


def problem(rng: random.Random, sequence: Sequence) -> dict:
    """A row {question, answer} of this sequence, every annotation `<<expression=result>>` exact."""
    while True:
        name, other, friend, third = rng.sample(NAMES, 4)
        thing, unused = rng.sample(OBJECTS, 2)
        story = Story(rng, {"name": name, "other": other, "friend": friend, "thing": thing})
        *parts, ending = parts_of(sequence)
        try:
            for part in parts:
                _write(story, part)
            told = len(story.told)
            _write(story, ending)
        except _Unfit:
            continue
        numbers = [rng.randint(2, 19) for _ in range(4)]
        extras = [
            f"{third} has {numbers[0]} {thing}.",
            f"{third} buys {numbers[1]} {thing}.",
            f"{name} also has {numbers[2]} {unused}.",
            f"{third} loses {numbers[3]} {unused}.",
        ]
        for extra in rng.sample(extras, weighted(rng, DISTRACTORS)):
            story.told.insert(rng.randint(1, told), extra)
        return {
            "question": " ".join([*story.told, story.question]),
            "answer": "\n".join([*story.steps, f"#### {story.held}"]),
        }


def _write(story: Story, part: Part) -> None:
    rng, terms = story.rng, story.terms
    numbers = part.numbers(story)
    terms.update(zip("ab", numbers))
    if part.told:
        story.told.append(rng.choice(part.told.split("|")).format(**terms))
    if part.question:
        first, *others = part.question.split("|")
        story.question = (rng.choice([first, *others]) if others else first).format(**terms)
    if numbers and not part.steps:
        story.held = numbers[0]
    terms["held"] = story.held
    for calculation, phrasings in part.steps:
        one, sign, other = calculation.split()
        result = WORTH[sign](terms[one], terms[other])
        if not 2 <= result <= LARGEST_RESULT:
            raise _Unfit
        usual, alternate = phrasings.split("|")
        phrasing = alternate if rng.random() < ALTERNATE_SHARE else usual
        annotated = f"<<{terms[one]}{sign}{terms[other]}={result}>>{result}"
        story.steps.append(phrasing.format(annotated, **terms))
        story.held = terms["more"] = result


def problem_rows(
    seed: int, rng: random.Random, split: str, solutions: Solutions = WORKED
) -> Iterator[dict]:
    """Endless rows of a split in GSM8K's schema; `solutions` is for training answers."""
    own = [sequence for sequence in sequences() if sequence_split(seed, sequence) == split]
    groups = grouped(own, operations)
    weights = TRAIN_OPERATIONS if split == "train" else TEST_OPERATIONS
    while True:
        row = problem(rng, rng.choice(groups[weighted(rng, weights)]))
        if split == "train":
            row["answer"] = solutions.written(rng, row["answer"])
        yield row


def without_annotations(answer: str) -> str:
    """The solution as base training reads it: "Tom has <<12+3=15>>15." -> "Tom has 15."."""
    return re.sub("<<.*?>>", "", answer)
