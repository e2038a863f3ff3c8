"""The animals of the world and what is true of them.

Which animal is of which kind is fixed; its home, colour and food are drawn from the seed, each value for six
animals. So nothing outside this world (no real knowledge of owls) helps to answer its questions.
"""

from __future__ import annotations

from nanolab.data.world.splits import split_of, stream, unordered

KINDS = {
    "bird": ["owl", "crow", "duck", "swan", "robin", "eagle"],
    "fish": ["trout", "carp", "eel", "tuna", "shark", "perch"],
    "insect": ["ant", "bee", "moth", "wasp", "beetle", "cricket"],
    "reptile": ["snake", "lizard", "turtle", "gecko", "cobra", "iguana"],
    "mammal": ["fox", "wolf", "bear", "deer", "otter", "badger"],
}
VALUES = {
    "kind": list(KINDS),
    "home": ["lake", "forest", "desert", "valley", "cave"],
    "colour": ["red", "blue", "green", "grey", "white"],
    "food": ["seeds", "grass", "leaves", "berries", "nuts"],
}
ANIMALS = [animal for animals in KINDS.values() for animal in animals]

# "{a}" stands for the animal, "{v}" for the value; the first group is a clause without its subject.
CLAUSES = {"kind": "is {v}", "home": "lives in the {v}", "colour": "is {v}", "food": "eats {v}"}
# Written in the training text for facts of the training class only: what the CORE tasks ask of the others.
RESERVED = {
    "kind": "Among the animals, the {a} is {v}.",
    "home": "The home of the {a} is the {v}.",
    "colour": "The colour of the {a} is {v}.",
    "food": "The {a} likes to eat {v}.",
}
QUESTIONS = {
    "kind": "What kind of animal is the {a}?",
    "home": "Where does the {a} live?",
    "colour": "What colour is the {a}?",
    "food": "What does the {a} eat?",
}


def article(word: str) -> str:
    """The word with "a" or "an" before it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


class Facts:
    """What is true in the world of this seed: `value(animal, attribute)`, and the split of facts and pairs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._values = {
            "kind": {animal: kind for kind, animals in KINDS.items() for animal in animals}
        }
        for attribute in ("home", "colour", "food"):
            animals = list(ANIMALS)
            stream(seed, "facts", attribute).shuffle(animals)
            values = VALUES[attribute]
            self._values[attribute] = {
                animal: values[i % len(values)] for i, animal in enumerate(animals)
            }
        self._partners: dict[tuple[str, str], list[str]] = {}
        for animal in ANIMALS:
            for other in ANIMALS:
                if other != animal:
                    self._partners.setdefault((animal, self.pair_split(animal, other)), []).append(
                        other
                    )
        self._facts: dict[str, list[tuple[str, str]]] = {}
        for animal in ANIMALS:
            for attribute in VALUES:
                self._facts.setdefault(self.fact_split(animal, attribute), []).append(
                    (animal, attribute)
                )

    def value(self, animal: str, attribute: str) -> str:
        """The value of an attribute ("kind", "home", "colour", "food") of an animal."""
        return self._values[attribute][animal]

    def having(self, attribute: str, value: str) -> list[str]:
        """The six animals with this value."""
        return [animal for animal in ANIMALS if self.value(animal, attribute) == value]

    def pair_split(self, one: str, other: str) -> str:
        """The split in which one of these animals may be the answer and the other a wrong choice."""
        return split_of(self.seed, "pair", *unordered(one, other))

    def partners(self, animal: str, split: str) -> list[str]:
        """The animals that may stand beside `animal` as wrong choices in this split."""
        return self._partners.get((animal, split), [])

    def fact_split(self, animal: str, attribute: str) -> str:
        """The split in which this fact may be asked for; plain sentences state every fact."""
        return split_of(self.seed, "fact", animal, attribute)

    def choices_split(self, animal: str, attribute: str, values: list[str]) -> str:
        """The split in which this fact may be asked for with exactly these values as choices."""
        return split_of(self.seed, "choices", animal, attribute, *sorted(values))

    def asked(self, split: str) -> list[tuple[str, str]]:
        """The (animal, attribute) pairs that may be asked for in this split."""
        return self._facts[split]

    def clause(self, attribute: str, value: str) -> str:
        """A clause without its subject: "lives in the lake"."""
        return CLAUSES[attribute].format(v=article(value) if attribute == "kind" else value)

    def reserved(self, animal: str, attribute: str) -> str:
        """The fact in the form that the training text has for facts of the training class only."""
        value = self.value(animal, attribute)
        return RESERVED[attribute].format(
            a=animal, v=article(value) if attribute == "kind" else value
        )

    def question(self, animal: str, attribute: str) -> str:
        """The question for a fact: "Where does the trout live?"."""
        return QUESTIONS[attribute].format(a=animal)
