"""Python functions in HumanEval's form: a docstring that chains one to three operations, a body
with one line for each. Held out: whole compositions (the ordered kinds of operation).
"""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

from nanolab.data.world.splits import grouped, split_of, weighted

# kind -> (what the docstring says, the line of the body); {k} is a small number.
NUMBER_OPERATIONS = {
    "add": ("add {k}", "x = x + {k}"),
    "subtract": ("subtract {k}", "x = x - {k}"),
    "multiply": ("multiply by {k}", "x = x * {k}"),
    "square": ("square it", "x = x * x"),
    "halve": ("halve it", "x = x // 2"),
    "remainder": ("take the remainder by {k}", "x = x % {k}"),
}
LIST_OPERATIONS = {
    "add each": ("add {k} to each", "x = [n + {k} for n in x]"),
    "multiply each": ("multiply each by {k}", "x = [n * {k} for n in x]"),
    "even": ("keep the even ones", "x = [n for n in x if n % 2 == 0]"),
    "above": ("keep those above {k}", "x = [n for n in x if n > {k}]"),
    "reverse": ("reverse the order", "x = x[::-1]"),
    "sort": ("sort them", "x = sorted(x)"),
}
LIST_ENDINGS = {
    "sum": ("add them up", "x = sum(x)"),
    "largest": ("take the largest", "x = max(x)"),
    "count": ("count them", "x = len(x)"),
}
OPERATIONS = NUMBER_OPERATIONS | LIST_OPERATIONS | LIST_ENDINGS

# What makes the functions harder or easier; number of operations -> weight.
TRAIN_OPERATIONS = {1: 0.15, 2: 0.45, 3: 0.40}
TEST_OPERATIONS = {2: 0.5, 3: 0.5}
FIRST_TOLD_LAST = 0.25  # docstrings that end in "but first ..."
NUMBERS = (2, 9)

NUMBER_INPUTS = [0, 1, 4, 7, 10, 13, 25]
LIST_INPUTS = [[3, 8, 1, 6], [5, 2, 9, 4, 7], [12, 10], [7, 7, 2, 15], [20, 1, 4]]

Composition = tuple[str, ...]


def compositions() -> list[Composition]:
    """Every ordered composition of one to three different operations, on a number or on a list."""
    numbers = [c for count in (1, 2, 3) for c in itertools.permutations(NUMBER_OPERATIONS, count)]
    lists = [c for count in (1, 2) for c in itertools.permutations(LIST_OPERATIONS, count)]
    return [*numbers, *lists, *((*c, ending) for c in lists for ending in LIST_ENDINGS)]


def composition_split(seed: int, composition: Composition) -> str:
    """The split of a composition; single operations are for training."""
    if len(composition) == 1:
        return "train"
    return split_of(seed, "program", *composition, test=0.2, validation=0.1)


def program(rng: random.Random, composition: Composition) -> dict | None:
    """A row {prompt, canonical_solution, test, entry_point} of this composition; None when fewer
    than four of the fixed inputs suit it, or its tests would pass with a line left out.
    """
    told, lines = [], []
    for kind in composition:
        phrase, line = OPERATIONS[kind]
        number = rng.randint(*NUMBERS)
        told.append(phrase.format(k=number))
        lines.append("    " + line.format(k=number))
    on_number = composition[0] in NUMBER_OPERATIONS
    subject = "the number" if on_number else "the list"
    if len(told) > 1 and rng.random() < FIRST_TOLD_LAST:
        sentence = f"Take {subject}, {', then '.join(told[1:])}, but first {told[0]}."
    else:
        sentence = f"Take {subject}, {', then '.join(told)}."
    run = compiled(lines)
    inputs = []
    for value in NUMBER_INPUTS if on_number else LIST_INPUTS:
        with contextlib.suppress(ValueError):  # the largest of no items
            inputs.append((value, run(value)))
    shorter = (compiled(lines[:i] + lines[i + 1 :]) for i in range(len(lines)))
    if len(inputs) < 4 or not all(_differs(other, inputs) for other in shorter):
        return None
    asserts = [f"    assert candidate({value}) == {result}" for value, result in inputs]
    return {
        "prompt": f'def solve(x):\n    """{sentence}"""\n',
        "canonical_solution": "\n".join([*lines, "    return x"]) + "\n",
        "test": "\n".join(["def check(candidate):", *asserts]) + "\n",
        "entry_point": "solve",
    }


def compiled(lines: list[str]) -> Callable:
    """The function `solve` with these body lines (the world's own text, never a model's)."""
    scope: dict = {}
    exec("\n".join(["def solve(x):", *lines, "    return x"]), scope)
    return scope["solve"]


def _differs(run: Callable, inputs: list[tuple]) -> bool:
    for value, result in inputs:
        try:
            if run(value) != result:
                return True
        except (TypeError, ValueError):
            return True
    return False


def program_rows(seed: int, rng: random.Random, split: str) -> Iterator[dict]:
    """Endless rows of a split in HumanEval's schema."""
    own = [c for c in compositions() if composition_split(seed, c) == split]
    groups = grouped(own, len)
    weights = TRAIN_OPERATIONS if split == "train" else TEST_OPERATIONS
    number = 0
    while True:
        row = program(rng, rng.choice(groups[weighted(rng, weights)]))
        if row is not None:
            yield {"task_id": f"Embedded/{split}/{number}"} | row
            number += 1
