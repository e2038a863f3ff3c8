"""Short conversations: greetings, the assistant, facts of the world, sums by the calculator."""

import random
from collections.abc import Iterator

from nanolab.data.world.choices import operands
from nanolab.data.world.facts import Facts, article
from nanolab.data.world.problems import NAMES
from nanolab.data.world.splits import weighted

TURNS = {"greeting": 0.15, "identity": 0.1, "fact": 0.4, "definition": 0.1, "sum": 0.25}
GREETINGS = ["Hello!", "Hi!", "Good morning!", "Good evening!"]
IDENTITY = {
    "Who are you?": "I am nanolab, a very small language model.",
    "What is your name?": "My name is nanolab.",
    "What can you do?": "I can answer questions, solve word problems and write small functions.",
}
THANKS = ["Thanks!", "Thank you!"]


def chat_rows(facts: Facts, rng: random.Random, split: str) -> Iterator[dict]:
    """Endless conversations {messages: [{role, content}]} of one to three exchanges, with the facts
    and sums of this split.
    """
    while True:
        messages: list[dict] = []
        for _ in range(rng.choice([1, 1, 2, 2, 3])):
            user, assistant = _exchange(facts, rng, split)
            messages += _messages(user, assistant)
        if rng.random() < 0.2:
            messages += _messages(rng.choice(THANKS), "You are welcome!")
        yield {"messages": messages}


def _messages(user: str, assistant: str | list[dict]) -> list[dict]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _exchange(facts: Facts, rng: random.Random, split: str) -> tuple[str, str | list[dict]]:
    turn = weighted(rng, TURNS)
    if turn == "greeting":
        greeting, name = rng.choice(GREETINGS), rng.choice(NAMES)
        if rng.random() < 0.5:
            return greeting, "Hello! How can I help you?"
        return f"{greeting} I am {name}.", f"Hello {name}! How can I help you?"
    if turn == "identity":
        question = rng.choice(list(IDENTITY))
        return question, IDENTITY[question]
    if turn == "sum":
        one, other = operands(facts.seed, rng, split)
        total = str(one + other)
        parts = [
            {"type": "python", "text": f"{one}+{other}"},
            {"type": "output", "text": total},
            {"type": "text", "text": f"{one} + {other} is {total}."},
        ]
        return f"Can you tell me {one} + {other}?", parts
    animal, attribute = rng.choice(facts.asked(split))
    if turn == "definition":
        animal = rng.choice([a for a, asked in facts.asked(split) if asked == "kind"])
        attribute = "kind"
        question = f"What is {article(animal)}?"
    else:
        question = facts.question(animal, attribute)
    return question, f"The {animal} {facts.clause(attribute, facts.value(animal, attribute))}."
