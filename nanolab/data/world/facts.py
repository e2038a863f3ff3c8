"""The animals of the world and what is true of them.

Their kinds are fixed; home, colour and food are drawn from the seed, each value for six animals, so
that no real knowledge of owls helps to answer.
"""

import itertools

from nanolab.data.world.splits import grouped, split_of, stream, words

KINDS = {
    "bird": words("owl crow duck swan robin eagle"),
    "fish": words("trout carp eel tuna shark perch"),
    "insect": words("ant bee moth wasp beetle cricket"),
    "reptile": words("snake lizard turtle gecko cobra iguana"),
    "mammal": words("fox wolf bear deer otter badger"),
}
VALUES = {
    "kind": list(KINDS),
    "home": words("lake forest desert valley cave"),
    "colour": words("red blue green grey white"),
    "food": words("seeds grass leaves berries nuts"),
}
ANIMALS = [animal for animals in KINDS.values() for animal in animals]

# "{a}" stands for the animal, "{v}" for the value; the first group is a clause without its subject.
CLAUSES = {"kind": "is {v}", "home": "lives in the {v}", "colour": "is {v}", "food": "eats {v}"}
# in the training text for facts of the training class only: the CORE tasks ask it of the others
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
    """What is true in the world of this seed, and the split of facts and pairs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._values = {
            "kind": {animal: kind for kind, animals in KINDS.items() for animal in animals}
        }
        for attribute in ("home", "colour", "food"):
            animals = list(ANIMALS)
            stream(seed, "facts", attribute).shuffle(animals)
            values = itertools.cycle(VALUES[attribute])
            self._values[attribute] = dict(zip(animals, values))
        pairs = itertools.permutations(ANIMALS, 2)
        by_split = grouped(pairs, lambda pair: (pair[0], self.pair_split(*pair)))
        self._partners = {key: [other for _, other in own] for key, own in by_split.items()}
        facts = itertools.product(ANIMALS, VALUES)
        self._facts = grouped(facts, lambda fact: split_of(seed, "fact", *fact))

    def value(self, animal: str, attribute: str) -> str:
        """The value of an attribute ("kind", "home", "colour", "food") of an animal."""
        return self._values[attribute][animal]

    def having(self, attribute: str, value: str) -> list[str]:
        """The six animals with this value."""
        return [animal for animal in ANIMALS if self.value(animal, attribute) == value]

    def pair_split(self, one: str, other: str) -> str:
        """The split in which one of these may be the answer and the other a wrong choice."""
        return split_of(self.seed, "pair", *sorted((one, other)))

    def partners(self, animal: str, split: str) -> list[str]:
        """The animals that may stand beside `animal` as wrong choices in this split."""
        return self._partners.get((animal, split), [])

    def choices_split(self, animal: str, attribute: str, values: list[str]) -> str:
        """The split in which this fact may be asked for with exactly these values as choices."""
        return split_of(self.seed, "choices", animal, attribute, *sorted(values))

    def asked(self, split: str) -> list[tuple[str, str]]:
        """The (animal, attribute) pairs that may be asked for; plain sentences state every fact."""
        return self._facts[split]

    def clause(self, attribute: str, value: str) -> str:
        """A clause without its subject: "lives in the lake"."""
        return CLAUSES[attribute].format(v=article(value) if attribute == "kind" else value)

    def reserved(self, animal: str, attribute: str) -> str:
        """The fact in the form of RESERVED."""
        value = self.value(animal, attribute)
        value = article(value) if attribute == "kind" else value
        return RESERVED[attribute].format(a=animal, v=value)

    def question(self, animal: str, attribute: str) -> str:
        """The question for a fact: "Where does the trout live?"."""
        return QUESTIONS[attribute].format(a=animal)
