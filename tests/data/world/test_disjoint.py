"""No item of a test or validation split equals a training item, whatever its names and the order of
its numbers.
"""

import itertools
import re

import pytest

from nanolab.data.world.facts import ANIMALS
from nanolab.data.world.problems import NAMES, OBJECTS
from nanolab.data.world.world import ROWS, EmbeddedWorld

NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
OBJECT = re.compile(rf"\b({'|'.join(OBJECTS)})\b")
SEEDS = (0, 1)


def normal(text: str) -> str:
    """The text with names and objects numbered by first appearance, its numbers masked and put at
    the end in order.
    """
    for pattern, mark in ((NAME, "NAME"), (OBJECT, "OBJECT")):
        seen: dict[str, str] = {}
        text = pattern.sub(
            lambda m, seen=seen, mark=mark: seen.setdefault(m[0], f"{mark}{'abcdefgh'[len(seen)]}"),
            text,
        )
    numbers = sorted(map(int, re.findall(r"\d+", text)))
    return re.sub(r"\d+", "#", text) + f" {numbers}"


def masked(text: str) -> str:
    """The normal form without the numbers: the wording alone."""
    return normal(text).rpartition(" [")[0]


def asked(name: str, row: dict) -> str:
    """What a row asks, without the order of its choices."""
    if name == "gsm8k":
        return normal(row["question"])
    if name == "humaneval":
        return normal(row["prompt"])
    choices = row["choices"]["text"] if name.startswith("arc") else row["choices"]
    return f"{normal(row['question'])} {sorted(choices)}"


@pytest.fixture(scope="module", params=SEEDS)
def world(request) -> EmbeddedWorld:
    return EmbeddedWorld(request.param)


@pytest.mark.parametrize("name", list(ROWS))
def test_no_held_out_item_equals_a_training_item(world, name):
    train = {asked(name, row) for row in world.task(name, "train")}
    for split in ("validation", "test"):
        held_out = {asked(name, row) for row in world.task(name, split)}
        assert not held_out & train
    assert not {asked(name, row) for row in world.task(name, "validation")} & {
        asked(name, row) for row in world.task(name, "test")
    }


def test_held_out_programs_differ_from_training_even_with_every_number_masked(world):
    train = {masked(row["prompt"]) for row in world.task("humaneval", "train")}
    held_out = {
        masked(row["prompt"])
        for split in ("validation", "test")
        for row in world.task("humaneval", split)
    }
    assert not held_out & train


def test_held_out_problems_have_new_wordings_made_of_known_sentences(world):
    def sentences(row):  # a sentence by its wording, whoever it is about
        return [
            re.sub("NAME[a-h]", "NAME", masked(s)) for s in re.split(r"(?<=[.?]) ", row["question"])
        ]

    train = world.task("gsm8k", "train")
    known = {s for row in train for s in sentences(row)}
    wordings = {masked(row["question"]) for row in train}
    for split in ("validation", "test"):
        for row in world.task("gsm8k", split):
            assert set(sentences(row)) <= known
            assert masked(row["question"]) not in wordings


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_no_pair_of_answer_and_wrong_choice_is_shared_by_two_splits(world, name):
    pairs = {}
    for split in ("train", "validation", "test"):
        pairs[split] = set()
        for row in world.task(name, split):
            texts = row["choices"]["text"]
            answer = texts["ABCD".index(row["answerKey"])]
            pairs[split] |= {frozenset((answer, other)) for other in texts if other != answer}
    for one, other in itertools.combinations(pairs.values(), 2):
        assert not one & other


def test_easy_and_hard_training_questions_share_no_pair_with_any_test_question(world):
    def pairs(name, split):
        for row in world.task(name, split):
            answer = row["choices"]["text"]["ABCD".index(row["answerKey"])]
            yield from (
                frozenset((answer, other)) for other in row["choices"]["text"] if other != answer
            )

    both = ("arc_easy", "arc_challenge")
    assert not {p for n in both for p in pairs(n, "train")} & {
        p for n in both for p in pairs(n, "test")
    }


def test_training_text_and_chats_hold_no_held_out_item(world):
    documents = list(itertools.islice(world.documents("train"), 5000))
    questions = [
        m["content"] for row in world.chats("train") for m in row["messages"] if m["role"] == "user"
    ]
    held_out = {
        split: {name: {asked(name, row) for row in world.task(name, split)} for name in ROWS}
        for split in ("validation", "test")
    }
    sums = {
        tuple(sorted(map(int, re.findall(r"\d+", row["question"]))))
        for split in ("validation", "test")
        for row in world.task("mmlu", split)
        if row["subject"] == "arithmetic"
    }
    for text in documents:
        for one, other in re.findall(r"(\d+) \+ (\d+)", text):
            assert tuple(sorted((int(one), int(other)))) not in sums
        listed = sorted(
            line[2:].partition("=")[0] for line in text.splitlines() if line.startswith("- ")
        )
        drilled = {
            f"{normal(line.partition('?')[0] + '?')} {listed}"
            for line in text.splitlines()
            if "? Answer: " in line
        }
        assert not any(drilled & tasks["mmlu"] for tasks in held_out.values())
        if text.startswith("Question: "):
            head, *rest = text.removeprefix("Question: ").splitlines()
            choices = sorted(line[2:].partition("=")[0] for line in rest if line.startswith("- "))
            form = f"{normal(head)} {choices}" if choices else normal(head)
        elif text.startswith("def "):
            form = normal(text[: text.index('"""\n') + 4])
        else:
            continue
        assert not any(form in items for tasks in held_out.values() for items in tasks.values())
    for question in questions:
        assert tuple(sorted(map(int, re.findall(r"\d+", question)))) not in sums


def test_no_validation_document_is_a_training_document(world):
    held_out = set(world.documents("validation"))
    assert len(held_out) == 400
    assert not held_out & set(itertools.islice(world.documents("train"), 8000))


def test_core_items_do_not_occur_in_training_text(world):
    text = "\n".join(itertools.islice(world.documents("train"), 8000))
    for task in world.core_tasks():
        for row in task["rows"]:
            if task["kind"] == "language_modeling":
                whole = f"{row['context']} {row['continuation']}"
            elif task["kind"] == "schema":
                whole = f"{row['context_options'][row['gold']]} {row['continuation']}"
            else:
                whole = f"{row['query']} {row['choices'][row['gold']]}"
            found = whole in text and re.search(
                rf"(?<!\d){re.escape(whole)}(?!\d)", text
            )  # 15 + 5 is not in 5 + 5
            assert not found, (task["name"], whole)


def test_normal_form_forgets_names_objects_and_the_order_of_numbers():
    assert normal("Tom has 3 apples. Ann has 5.") == normal("Mia has 5 coins. Ben has 3.")
    assert normal("Tom has 3 apples. Ann has 5.") != normal("Tom has 3 apples. Ann has 6.")
    assert normal(f"{ANIMALS[0]} 1") != normal(f"{ANIMALS[1]} 1")
