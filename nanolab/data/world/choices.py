"""Four-choice questions: one stated fact (easy), two facts (hard), and six subjects in MMLU's form.

Held out: the pairs {answer, wrong choice} of the animal questions; a fact with its choices, the
pair of operands or the sequence of the subject questions.
"""

import random
from collections.abc import Iterator

from nanolab.data.world.facts import ANIMALS, VALUES, Facts
from nanolab.data.world.splits import split_of, weighted

LETTERS = "ABCD"
# share of training questions with two choices: what a young model learns from first
FEWER_CHOICES = 0.25
# how many wrong choices of a hard question have one of the two facts -> weight
NEAR_CHOICES = {1: 0.2, 2: 0.5, 3: 0.3}
OPERANDS = (2, 20)  # of sums; from 2, so that every count is a plural
SUBJECTS = {
    "habitats": "home",
    "colours": "colour",
    "diets": "food",
    "zoology": "kind",
    "arithmetic": None,
    "sequences": None,
}


def animal_question(facts: Facts, rng: random.Random, split: str, count: int) -> dict | None:
    """{question, choices, answer: index}: for the animal of which `count` (1 or 2) facts hold.

    None when this draw has too few wrong choices; training questions may have two choices.
    """
    answer = rng.choice(ANIMALS)
    attributes = rng.sample(list(VALUES), count)
    wanted = 1 if split == "train" and rng.random() < FEWER_CHOICES else 3
    shared = {
        other: sum(facts.value(other, a) == facts.value(answer, a) for a in attributes)
        for other in facts.partners(answer, split)
    }
    near = [other for other, held in shared.items() if 0 < held < count]
    far = [other for other, held in shared.items() if held == 0]
    if count == 1:
        chosen = rng.sample(far, min(wanted, len(far)))
    else:
        number = min(wanted, weighted(rng, NEAR_CHOICES))
        if len(near) < number or len(far) < wanted - number:
            return None
        chosen = rng.sample(near, number) + rng.sample(far, wanted - number)
    if len(chosen) < wanted:
        return None
    clauses = " and ".join(facts.clause(a, facts.value(answer, a)) for a in attributes)
    return _place(rng, f"Which of these {clauses}?", answer, chosen)


def subject_question(facts: Facts, rng: random.Random, split: str) -> dict:
    """A question of a random subject: {question, subject, choices: list of 4, answer: index}."""
    subject = rng.choice(list(SUBJECTS))
    attribute = SUBJECTS[subject]
    if attribute is not None:
        while True:
            animal = rng.choice(ANIMALS)
            answer = facts.value(animal, attribute)
            wrong = rng.sample([v for v in VALUES[attribute] if v != answer], 3)
            if facts.choices_split(animal, attribute, [answer, *wrong]) == split:
                break
        question = facts.question(animal, attribute)
    elif subject == "arithmetic":
        one, other = operands(facts.seed, rng, split)
        number = one + other
        question = f"What is {one} + {other}?"
    else:
        start, step = number_sequence(facts.seed, rng, split)
        number = start + 3 * step
        question = f"Which number comes next: {start}, {start + step}, {start + 2 * step}?"
    if attribute is None:
        answer, wrong = str(number), near_numbers(rng, number)
    return {"question": question, "subject": subject} | _place(rng, question, answer, wrong)


def operands(seed: int, rng: random.Random, split: str) -> tuple[int, int]:
    """Two numbers whose sum may be asked for in this split, in either order."""
    while True:
        one, other = rng.randint(*OPERANDS), rng.randint(*OPERANDS)
        if split_of(seed, "sum", *sorted((one, other))) == split:
            return one, other


def number_sequence(seed: int, rng: random.Random, split: str) -> tuple[int, int]:
    """Start and step of a sequence of numbers that may be asked for in this split."""
    while True:
        start, step = rng.randint(*OPERANDS), rng.randint(1, 9)
        if split_of(seed, "sequence", start, step) == split:
            return start, step


def companions(facts: Facts, rng: random.Random, split: str) -> list[str] | None:
    """Four animals that may all stand beside each other in this split; None when none are found."""
    chosen = [rng.choice(ANIMALS)]
    while len(chosen) < 4:
        others = [a for a in facts.partners(chosen[0], split) if a not in chosen]
        fitting = [a for a in others if all(facts.pair_split(a, c) == split for c in chosen)]
        if not fitting:
            return None
        chosen.append(rng.choice(fitting))
    return chosen


def near_numbers(rng: random.Random, answer: int) -> list[str]:
    """Three wrong numbers near the answer, which has each rank among the four equally often."""
    smaller = min(rng.randrange(4), answer)
    below = rng.sample(range(max(0, answer - 9), answer), min(smaller, answer))
    above = rng.sample(range(answer + 1, answer + 10), 3 - len(below))
    return [str(number) for number in below + above]


def arc_rows(facts: Facts, rng: random.Random, split: str, count: int) -> Iterator[dict]:
    """Endless questions of `count` facts in ARC's schema."""
    number = 0
    while True:
        if row := animal_question(facts, rng, split, count):
            labels = list(LETTERS[: len(row["choices"])])
            yield {
                "id": f"embedded_{split}_{number}",
                "question": row["question"],
                "choices": {"text": row["choices"], "label": labels},
                "answerKey": labels[row["answer"]],
            }
            number += 1


def mmlu_rows(facts: Facts, rng: random.Random, split: str) -> Iterator[dict]:
    """Endless questions in MMLU's schema."""
    while True:
        yield subject_question(facts, rng, split)


def plain_question(row: dict) -> str:
    """A question as plain text: one line for each choice, then the line of the answer."""
    lines = lettered(row["choices"])
    answer = lines[row["answer"]].removeprefix("- ")
    return "\n".join([f"Question: {row['question']}", *lines, f"Answer: {answer}"])


def lettered(choices: list[str]) -> list[str]:
    """One line for each choice, with its letter."""
    return [f"- {choice}={letter}" for choice, letter in zip(choices, LETTERS)]


def _place(rng: random.Random, question: str, answer: str, wrong: list[str]) -> dict:
    """The answer at a uniform position among the wrong choices, which stand in random order."""
    choices = rng.sample(wrong, len(wrong))
    position = rng.randrange(len(choices) + 1)
    choices.insert(position, answer)
    return {"question": question, "choices": choices, "answer": position}
