"""Six tasks in the prompt forms of CORE, in words that training has for other combinations only."""

import random
from collections.abc import Iterator
from operator import itemgetter

from nanolab.data.world.choices import near_numbers, operands
from nanolab.data.world.facts import ANIMALS, VALUES, Facts, article
from nanolab.data.world.problems import OBJECTS
from nanolab.data.world.splits import distinct, stream
from nanolab.data.world.text import (
    copy_context,
    copy_split,
    meeting_context,
    meeting_ending,
    sighting,
    story_context,
)

ROWS = 120
SUM_ROWS = 60  # about a hundred sums are held out


def core_tasks(facts: Facts) -> list[dict]:
    """The fields of each `CoreTask`, all of the test split."""
    plan = [
        ("fact_choice", "multiple_choice", 0, 0.25, _fact_choices, "key"),
        ("story_sum", "multiple_choice", 2, 0.25, _story_sums, "query"),
        ("meeting", "schema", 0, 0.5, _meetings, "key"),
        ("fact_completion", "language_modeling", 0, 0.0, _fact_completions, "context"),
        ("sums", "language_modeling", 3, 0.0, _sums, "context"),
        ("copy", "language_modeling", 0, 0.0, _copies, "context"),
    ]
    tasks = []
    for name, kind, shots, baseline, generate, key in plan:
        endless = generate(facts, stream(facts.seed, "core", name))
        rows = distinct(endless, itemgetter(key), SUM_ROWS if name == "sums" else ROWS)
        for row in rows:
            row.pop("key", None)
        task = {"name": name, "kind": kind, "num_fewshot": shots, "continuation_delimiter": " "}
        tasks.append(task | {"random_baseline": baseline, "rows": rows})
    return tasks


def _fact_choices(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        animal, attribute = rng.choice(facts.asked("test"))
        value = facts.value(animal, attribute)
        choices = rng.sample(
            [value, *rng.sample([v for v in VALUES[attribute] if v != value], 3)], 4
        )
        shown = [(article(v) if attribute == "kind" else v) + "." for v in choices]
        query = facts.reserved(animal, attribute).removesuffix(shown[choices.index(value)])
        row = {"query": query.strip(), "choices": shown, "gold": choices.index(value)}
        yield {"key": f"{query} {shown}"} | row


def _story_sums(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        one, other = operands(facts.seed, rng, "test")
        choices = rng.sample([str(one + other), *near_numbers(rng, one + other)], 4)
        gold = choices.index(str(one + other))
        yield {"query": story_context(rng, one, other), "choices": choices, "gold": gold}


def _meetings(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        one = rng.choice(ANIMALS)
        other = rng.choice(facts.partners(one, "test"))
        attribute = rng.choice(list(VALUES))
        if facts.value(one, attribute) == facts.value(other, attribute):
            continue
        opening = meeting_context(rng, one, other, "").rstrip()
        animals = rng.sample([one, other], 2)
        yield {
            "key": f"{opening} {one} {attribute}",
            "context_options": [f"{opening} {animal}" for animal in animals],
            "continuation": meeting_ending(facts, one, attribute),
            "gold": animals.index(one),
        }


def _fact_completions(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        asked = [fact for fact in facts.asked("test") if fact[1] != "kind"]
        animal, attribute = rng.choice(asked)
        value = facts.value(animal, attribute)
        clause = facts.clause(attribute, value).removesuffix(value).strip()
        yield {"context": f"{sighting(rng, animal)} It {clause}", "continuation": value}


def _sums(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        one, other = operands(facts.seed, rng, "test")
        yield {"context": f"{one} + {other} =", "continuation": str(one + other)}


def _copies(facts: Facts, rng: random.Random) -> Iterator[dict]:
    while True:
        things = rng.sample(OBJECTS, 4)
        if copy_split(facts.seed, things) == "test":
            yield {"context": copy_context(things), "continuation": things[-1]}
