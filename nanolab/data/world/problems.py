"""Word problems in GSM8K's form: a start, up to two changes and an ending, one to four operations in all.

Held out: whole operation sequences (start, changes, ending) of two to four operations, whose parts all occur in
training. One phrasing for each step of a solution (measured to suit power sampling), with a small share of a second.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from nanolab.data.world.solutions import WORKED, Solutions
from nanolab.data.world.splits import split_of, weighted

NAMES = [
    "Tom",
    "Ann",
    "Sam",
    "Mia",
    "Ben",
    "Eva",
    "Max",
    "Lea",
    "Dan",
    "Zoe",
    "Jim",
    "Ivy",
    "Leo",
    "Amy",
    "Bob",
    "Kim",
]
OBJECTS = [
    "apples",
    "books",
    "coins",
    "cards",
    "stones",
    "shells",
    "pens",
    "cups",
    "hats",
    "toys",
    "eggs",
    "stamps",
    "balls",
    "flowers",
    "keys",
    "beads",
]

# What makes the problems harder or easier; operations -> weight.
TRAIN_OPERATIONS = {1: 0.15, 2: 0.30, 3: 0.30, 4: 0.25}
TEST_OPERATIONS = {2: 0.35, 3: 0.35, 4: 0.30}  # sequences of one operation are too few to hold out
DISTRACTORS = {0: 0.55, 1: 0.35, 2: 0.10}  # sentences with a number that is not needed -> weight
ALTERNATE_SHARE = 0.06  # solution steps in their second phrasing
LARGEST_RESULT = 150

STARTS = {"has": 0, "boxes": 1, "more": 1, "fewer": 1, "rate": 1}  # part -> number of operations
CHANGES = {"gain": 1, "lose": 1, "half": 1, "times": 1, "gain boxes": 2, "lose daily": 2}
ENDINGS = {"now": 0, "share": 1, "price": 1, "total": 1, "difference": 1}

Sequence = tuple[str, ...]  # start, changes..., ending


def operations(sequence: Sequence) -> int:
    """The number of operations that a sequence of parts takes."""
    return (
        STARTS[sequence[0]]
        + sum(CHANGES[change] for change in sequence[1:-1])
        + ENDINGS[sequence[-1]]
    )


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
    return (
        "train"
        if operations(sequence) == 1
        else split_of(seed, "problem", *sequence, test=0.2, validation=0.1)
    )


class _Unfit(Exception):
    """The numbers drawn do not suit the sequence; draw again."""


@dataclass
class _Story:
    """A problem while it is written: its sentences, its solution steps and the number held now."""

    rng: random.Random
    name: str
    other: str  # whom the start compares with
    friend: str  # who comes at the end
    thing: str
    held: int = 0
    told: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    question: str = ""

    def number(self, low: int, high: int) -> int:
        if high < low:
            raise _Unfit
        return self.rng.randint(low, high)

    def tell(self, *phrasings: str) -> None:
        self.told.append(self.rng.choice(phrasings))

    def step(self, expression: str, result: int, usual: str, alternate: str) -> int:
        """Adds a solution step and gives its result; "{}" in a phrasing stands for the annotated result."""
        if not 2 <= result <= LARGEST_RESULT:
            raise _Unfit
        phrasing = alternate if self.rng.random() < ALTERNATE_SHARE else usual
        self.steps.append(phrasing.format(f"<<{expression}={result}>>{result}"))
        return result


def problem(rng: random.Random, sequence: Sequence) -> dict:
    """A row {question, answer} of this operation sequence; every annotation `<<expression=result>>` is exact."""
    while True:
        name, other, friend, third = rng.sample(NAMES, 4)
        thing, unused = rng.sample(OBJECTS, 2)
        story = _Story(rng, name, other, friend, thing)
        try:
            _start(story, sequence[0])
            for change in sequence[1:-1]:
                _change(story, change)
            told = len(story.told)
            _ending(story, sequence[-1])
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


def _start(story: _Story, part: str) -> None:
    name, other, thing = story.name, story.other, story.thing
    if part == "has":
        story.held = story.number(4, 24)
        story.tell(f"{name} has {story.held} {thing}.", f"{name} owns {story.held} {thing}.")
        return
    if part == "more":
        base, more = story.number(2, 19), story.number(2, 19)
        story.tell(f"{other} has {base} {thing} and {name} has {more} more than {other}.")
        expression, result = f"{base}+{more}", base + more
    elif part == "fewer":
        base, fewer = story.number(6, 24), story.number(2, 15)
        story.tell(f"{other} has {base} {thing} and {name} has {fewer} fewer than {other}.")
        expression, result = f"{base}-{fewer}", base - fewer
    else:
        count, each = story.number(2, 9), story.number(2, 9)
        if part == "boxes":
            story.tell(
                f"{name} has {count} boxes with {each} {thing} each.",
                f"{name} fills {count} boxes with {each} {thing} each.",
            )
        else:
            story.tell(
                f"{name} finds {each} {thing} a day for {count} days.",
                f"{name} gets {each} {thing} a day for {count} days.",
            )
        expression, result = (
            (f"{count}*{each}" if part == "boxes" else f"{each}*{count}"),
            count * each,
        )
    story.held = story.step(
        expression, result, f"{name} has {{}} {thing}.", f"So {name} starts with {{}} {thing}."
    )


def _change(story: _Story, part: str) -> None:
    name, thing, held = story.name, story.thing, story.held
    if part == "gain":
        more = story.number(2, 19)
        story.tell(f"{name} buys {more} more {thing}.", f"Then {name} gets {more} more {thing}.")
        expression, result = f"{held}+{more}", held + more
    elif part == "lose":
        fewer = story.number(2, min(19, held - 2))
        story.tell(f"{name} loses {fewer} {thing}.", f"{name} gives away {fewer} {thing}.")
        expression, result = f"{held}-{fewer}", held - fewer
    elif part == "half":
        if held % 2:
            raise _Unfit
        story.tell(f"{name} loses half of the {thing}.", f"{name} gives away half of the {thing}.")
        expression, result = f"{held}/2", held // 2
    elif part == "times":
        factor = story.number(2, 4)
        story.tell(
            f"Then {name} ends up with {factor} times as many {thing}.",
            f"Soon {name} has {factor} times as many {thing}.",
        )
        expression, result = f"{held}*{factor}", held * factor
    elif part == "gain boxes":
        count, each = story.number(2, 9), story.number(2, 9)
        story.tell(
            f"{name} buys {count} boxes with {each} {thing} each.",
            f"Then {name} gets {count} boxes with {each} {thing} each.",
        )
        more = story.step(
            f"{count}*{each}",
            count * each,
            f"The boxes have {{}} {thing}.",
            f"That adds {{}} {thing}.",
        )
        expression, result = f"{held}+{more}", held + more
    else:
        each, count = story.number(2, 6), story.number(2, 6)
        story.tell(
            f"{name} loses {each} {thing} a day for {count} days.",
            f"{name} gives away {each} {thing} a day for {count} days.",
        )
        fewer = story.step(
            f"{each}*{count}",
            each * count,
            f"In these days {{}} {thing} go.",
            f"That takes {{}} {thing}.",
        )
        expression, result = f"{held}-{fewer}", held - fewer
    story.held = story.step(
        expression, result, f"Now {name} has {{}} {thing}.", f"Then there are {{}} {thing}."
    )


def _ending(story: _Story, part: str) -> None:
    name, friend, thing, held = story.name, story.friend, story.thing, story.held
    if part == "now":
        story.question = story.rng.choice(
            [
                f"How many {thing} does {name} have now?",
                f"How many {thing} does {name} have in the end?",
            ]
        )
    elif part == "share":
        friends = [k for k in range(2, 10) if held % k == 0 and held > k]
        if not friends:
            raise _Unfit
        count = story.rng.choice(friends)
        story.tell(
            f"{name} shares the {thing} among {count} friends.",
            f"Then {count} friends share all {thing} of {name}.",
        )
        story.question = f"How many {thing} does each friend get?"
        story.held = story.step(
            f"{held}/{count}",
            held // count,
            f"Each friend gets {{}} {thing}.",
            f"That is {{}} {thing} each.",
        )
    elif part == "price":
        price = story.number(2, 6)
        story.tell(
            f"{name} sells the {thing} for {price} dollars each.",
            f"{name} gets {price} dollars for each of the {thing}.",
        )
        story.question = f"How many dollars does {name} get?"
        story.held = story.step(
            f"{held}*{price}", held * price, f"{name} gets {{}} dollars.", "That makes {} dollars."
        )
    elif part == "total":
        count = story.number(2, 19)
        story.tell(f"{friend} brings {count} {thing}.", f"{friend} comes with {count} {thing}.")
        story.question = f"How many {thing} do {name} and {friend} have together?"
        story.held = story.step(
            f"{held}+{count}",
            held + count,
            f"Together they have {{}} {thing}.",
            f"In all there are {{}} {thing}.",
        )
    else:
        count = story.number(2, min(19, held - 2))
        story.tell(f"{friend} has only {count} {thing}.", f"{friend} owns only {count} {thing}.")
        story.question = f"How many more {thing} does {name} have than {friend}?"
        story.held = story.step(
            f"{held}-{count}",
            held - count,
            f"{name} has {{}} more {thing}.",
            f"The difference is {{}} {thing}.",
        )


def problem_rows(
    seed: int, rng: random.Random, split: str, solutions: Solutions = WORKED
) -> Iterator[dict]:
    """Endless rows of a split in GSM8K's schema; training answers are written as `solutions` says, all others are worked."""
    groups: dict[int, list[Sequence]] = {}
    for sequence in sequences():
        if sequence_split(seed, sequence) == split:
            groups.setdefault(operations(sequence), []).append(sequence)
    weights = TRAIN_OPERATIONS if split == "train" else TEST_OPERATIONS
    while True:
        row = problem(rng, rng.choice(groups[weighted(rng, weights)]))
        if split == "train":
            row["answer"] = solutions.written(rng, row["answer"])
        yield row


def without_annotations(answer: str) -> str:
    """The solution as plain text, the form that base training reads: "Now Tom has <<12+3=15>>15." -> "Now Tom has 15."."""
    first, *rest = answer.split("<<")
    return first + "".join(piece.partition(">>")[2] for piece in rest)
