"""Pretraining documents: facts, stories, sums, sequences, worked problems, questions and functions.

All but plain facts come from the combinations of their split only. A text kept for validation by
its hash never occurs in training.
"""

import itertools
import random
from collections.abc import Iterator

from nanolab.data.world.choices import (
    LETTERS,
    animal_question,
    companions,
    lettered,
    number_sequence,
    operands,
    plain_question,
    subject_question,
)
from nanolab.data.world.facts import ANIMALS, VALUES, Facts, article
from nanolab.data.world.problems import NAMES, OBJECTS, problem_rows, without_annotations
from nanolab.data.world.programs import program_rows
from nanolab.data.world.splits import held_out_text, split_of, weighted

# method of Writer -> share of the documents
KINDS_OF_TEXT = {"animal": 0.16, "group": 0.04, "meeting": 0.04, "reserved": 0.05, "roll": 0.06}
KINDS_OF_TEXT |= {"drill": 0.22, "question": 0.13, "sums": 0.05, "sequence": 0.03, "copy": 0.02}
KINDS_OF_TEXT |= {"story": 0.03, "problem": 0.10, "program": 0.07}
QUESTION_KINDS = {"easy": 0.5, "hard": 0.2, "subject": 0.3}
DRILL_QUESTIONS = 6
VALIDATION_SHARE = 0.03  # of the possible texts


class Writer:
    """Writes the documents of one split: `document()` draws one."""

    def __init__(self, facts: Facts, rng: random.Random, split: str) -> None:
        self.facts, self.rng, self.split = facts, rng, split
        self.problems = problem_rows(facts.seed, rng, split)
        self.programs = program_rows(facts.seed, rng, split)

    def documents(self) -> Iterator[str]:
        """Endless documents; those whose text is kept for the other split are passed over."""
        held_out = self.split != "train"
        while True:
            text = getattr(self, weighted(self.rng, KINDS_OF_TEXT))()
            if text and held_out_text(self.facts.seed, text, VALIDATION_SHARE) == held_out:
                yield text

    def animal(self) -> str:
        """Two to four facts of an animal, the first with its name."""
        animal = self.rng.choice(ANIMALS)
        chosen = self.rng.sample(list(VALUES), self.rng.choice([2, 3, 4]))
        clauses = [self.facts.clause(a, self.facts.value(animal, a)) for a in chosen]
        sentences = [f"The {animal} {clauses[0]}"]
        for clause in clauses[1:]:
            if self.rng.random() < 0.4 and " and " not in sentences[-1]:
                sentences[-1] += f" and {clause}"
            else:
                sentences.append(f"{self.rng.choice(['It', f'The {animal}'])} {clause}")
        return ". ".join(sentences) + "."

    def group(self) -> str:
        """Three animals with the same value."""
        attribute = self.rng.choice(list(VALUES))
        value = self.rng.choice(VALUES[attribute])
        one, two, three = self.rng.sample(self.facts.having(attribute, value), 3)
        clause = self.facts.clause(attribute, value)
        listed = f"Each of these {clause}: {one}, {two}, {three}."
        told = f"The {one} {clause}. The {two} {clause}. The {three} {clause} too."
        return self.rng.choice([listed, told])

    def meeting(self) -> str | None:
        """Two animals of a pair of this split, told apart by one fact."""
        one = self.rng.choice(ANIMALS)
        attribute = self.rng.choice(list(VALUES))
        value = self.facts.value(one, attribute)
        partners = self.facts.partners(one, self.split)
        others = [other for other in partners if self.facts.value(other, attribute) != value]
        if not others:
            return None
        context = meeting_context(self.rng, one, self.rng.choice(others), one)
        return f"{context} {meeting_ending(self.facts, one, attribute)}"

    def reserved(self) -> str:
        """A fact of this split in the forms that only the facts of a split's own class have."""
        animal, attribute = self.rng.choice(self.facts.asked(self.split))
        if self.rng.random() < 0.5:
            return self.facts.reserved(animal, attribute)
        clause = self.facts.clause(attribute, self.facts.value(animal, attribute))
        return f"{sighting(self.rng, animal)} It {clause}."

    def roll(self) -> str:
        """Words with their numbers or letters, and again in another order."""
        if self.rng.random() < 0.5:
            named = self.rng.sample(ANIMALS + OBJECTS, 6)
            lines = [f"- {word}={self.rng.randint(2, 99)}" for word in named]
        else:
            lines = lettered(self.rng.sample(ANIMALS, 4))
        return "\n".join([*lines, "Again:", *self.rng.sample(lines, len(lines))])

    def drill(self) -> str | None:
        """Several questions on the same four choices, each answered by its line."""
        if self.rng.random() < 0.35:
            choices, asked = self._about_values()
        else:
            choices = companions(self.facts, self.rng, self.split)
            if choices is None:
                return None
            asked = self._about_animals(choices)
        drawn = self.rng.sample(asked, min(DRILL_QUESTIONS, len(asked)))
        lines = [f"{question} Answer: {choices[i]}={LETTERS[i]}" for question, i in drawn]
        return "\n".join([*lettered(choices), *lines])

    def _about_animals(self, animals: list[str]) -> list[tuple[str, int]]:
        asked = []
        for (i, animal), attribute in itertools.product(enumerate(animals), VALUES):
            value = self.facts.value(animal, attribute)
            if [self.facts.value(other, attribute) for other in animals].count(value) == 1:
                asked.append((f"Which {self.facts.clause(attribute, value)}?", i))
        return asked

    def _about_values(self) -> tuple[list[str], list[tuple[str, int]]]:
        attribute = self.rng.choice(list(VALUES))
        values = self.rng.sample(VALUES[attribute], 4)
        asked = []
        for animal in ANIMALS:
            value = self.facts.value(animal, attribute)
            split = self.facts.choices_split(animal, attribute, values)
            if value in values and split == self.split:
                asked.append((self.facts.question(animal, attribute), values.index(value)))
        return values, asked

    def question(self) -> str | None:
        """One plain-text question with its choices and the letter."""
        kind = weighted(self.rng, QUESTION_KINDS)
        if kind == "subject":
            row = subject_question(self.facts, self.rng, self.split)
        else:
            row = animal_question(self.facts, self.rng, self.split, 1 if kind == "easy" else 2)
        return None if row is None else plain_question(row)

    def sums(self) -> str:
        """Four sums of this split's pairs of operands."""
        pairs = (operands(self.facts.seed, self.rng, self.split) for _ in range(4))
        return "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)

    def sequence(self) -> str:
        """Four numbers of an arithmetic sequence."""
        start, step = number_sequence(self.facts.seed, self.rng, self.split)
        return ", ".join(str(start + i * step) for i in range(4)) + "."

    def copy(self) -> str | None:
        """A list of words, twice."""
        if self.rng.random() < 0.3:
            things = self.rng.sample(OBJECTS, 4)
        else:
            things = self.rng.sample(ANIMALS + OBJECTS, 10)
        if copy_split(self.facts.seed, things) != self.split:
            return None
        return f"{copy_context(things)} {things[-1]}."

    def story(self) -> str:
        """One sum as a story."""
        one, other = operands(self.facts.seed, self.rng, self.split)
        return f"{story_context(self.rng, one, other)} {one + other}."

    def problem(self) -> str:
        """A word problem with its solution in plain text."""
        row = next(self.problems)
        return f"Question: {row['question']}\nAnswer: {without_annotations(row['answer'])}"

    def program(self) -> str:
        """A function with its body."""
        row = next(self.programs)
        return row["prompt"] + row["canonical_solution"].rstrip("\n")


def meeting_context(rng: random.Random, one: str, other: str, about: str) -> str:
    """The opening of a meeting of two animals that goes on about one of them."""
    first, second = rng.sample([one, other], 2)
    return f"The {first} met the {second}. The {about}"


def meeting_ending(facts: Facts, animal: str, attribute: str) -> str:
    """What tells the animal from the other one."""
    return f"is the one that {facts.clause(attribute, facts.value(animal, attribute))}."


def sighting(rng: random.Random, animal: str) -> str:
    """A person sees an animal."""
    return f"{rng.choice(NAMES)} sees {article(animal)}."


def copy_context(things: list[str]) -> str:
    """A list once, and a second time without its last word."""
    return ", ".join(things) + ". Again: " + ", ".join(things[:-1]) + ","


def copy_split(seed: int, things: list[str]) -> str:
    """The split of a list of objects, in this order."""
    return split_of(seed, "copy", *things)


def story_context(rng: random.Random, one: int, other: int) -> str:
    """A sum as a story, up to its result."""
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
    return f"{name} has {one} {thing} and finds {other} more. Now {name} has"
