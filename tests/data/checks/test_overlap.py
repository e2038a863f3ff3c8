"""Claims about nanolab/data/checks/overlap.py: it counts what a search through all pairs of word
runs finds.
"""

import os
import random
import re

import numpy
import pytest

from nanolab.data.checks import overlap as contamination
from nanolab.data.checks.overlap import Index, core_fields, item_fields, overlap
from nanolab.data.sources.source import CoreTask, Document, EmbeddedSource, open_source
from nanolab.errors import UserError
from nanolab.settings.config import DataConfig
from nanolab.settings.evaluation_stages import CHAT_TASKS

real = pytest.mark.skipif(
    not os.environ.get("NANOLAB_DATA"),
    reason="the real sets are not at hand: set NANOLAB_DATA to their folder",
)


def runs(text, n):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def by_hand(items, documents, n):
    """Items with a field of which a run of n words stands in some document."""
    seen = set().union(*(runs(document.text, n) for document in documents))
    return sum(any(runs(field, n) & seen for field in fields) for fields in items)


def random_text(draw, count):
    return "".join(
        draw.choice(["Red", "blue", "pen", "7", "été"]) + draw.choice([" ", ", ", "\n- "])
        for _ in range(count)
    )


def test_counts_equal_a_search_through_all_runs(monkeypatch):
    monkeypatch.setattr(contamination, "BATCH_WORDS", 50)  # documents over many batches
    draw = random.Random(0)
    benchmarks = {
        name: [
            [random_text(draw, draw.randrange(9)) for _ in range(draw.randrange(4))]
            for _ in range(40)
        ]
        for name in "abc"
    }
    documents = [Document(str(i), random_text(draw, draw.randrange(30))) for i in range(40)]
    index = Index(benchmarks, (2, 4, 6))
    found, count, characters, cut = index.scan(documents, 10**9)
    assert (count, characters, cut) == (
        40,
        sum(len(document.text) for document in documents),
        False,
    )
    for n in (2, 4, 6):
        hits, examples = index.hits(n, found[n])
        assert hits == [by_hand(items, documents, n) for items in benchmarks.values()]
        assert index.long_enough(n) == [
            sum(any(runs(field, n) for field in fields) for fields in items)
            for items in benchmarks.values()
        ]
        for name, hit, example in zip(benchmarks, hits, examples):
            assert bool(hit) == bool(example)
            if hit:
                item, document, words = re.fullmatch(r"item (\d+) = (\d+): (.*)", example).groups()
                assert any(
                    tuple(words.split()) in runs(field, n) for field in benchmarks[name][int(item)]
                )
                assert tuple(words.split()) in runs(documents[int(document)].text, n)
    assert 0 < sum(index.hits(6, found[6])[0]) < sum(index.hits(2, found[2])[0])


def test_no_count_rests_on_a_hash(monkeypatch):
    """With a hash that is the same for all runs of words, only equal runs are found, none of
    different words.
    """

    def constant(ids, n):
        _, places = hashes(ids, n)
        return numpy.zeros(len(places), numpy.uint64), places

    hashes = contamination._hashes
    monkeypatch.setattr(contamination, "_hashes", constant)
    index = Index({"a": [["one two three"]]}, (3,))
    assert index.scan([Document("x", "three two one")], 100)[0] == {3: {}}
    assert index.scan([Document("x", "One, two: three!")], 100)[0] == {3: {0: "x"}}
    with pytest.raises(AssertionError, match="one hash"):
        Index({"a": [["one two three four"]]}, (3,))


def test_a_run_does_not_cross_fields_or_documents_and_the_budget_is_kept():
    index = Index({"a": [["one two", "three four"], ["five six seven"]]}, (3,))
    assert index.scan([Document("x", "one two three four five"), Document("y", "six seven")], 100)[
        0
    ] == {3: {}}
    documents = [Document("x", "nothing"), Document("y", "five six seven")]
    assert index.scan(documents, 7) == ({3: {}}, 1, 7, True)
    assert index.scan(documents, 8)[1:] == (2, 21, False)
    assert index.scan([], 8) == ({3: {}}, 0, 0, False)


def test_an_item_is_its_question_with_the_right_answer_and_the_wrong_ones():
    arc = {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"}
    assert item_fields("arc_easy", arc) == ["Q?", "a", "b"]
    assert item_fields("mmlu", {"question": "Q?", "choices": ["a", "b"], "answer": 0}) == [
        "Q?",
        "a",
        "b",
    ]

    def fields(kind, row):
        return core_fields(CoreTask("t", kind, 0, " ", 0.0, []), row)

    assert fields("multiple_choice", {"query": "Q", "choices": ["a", "b"], "gold": 1}) == [
        "a",
        "Q b",
    ]
    assert fields("schema", {"context_options": ["x", "y"], "continuation": "z", "gold": 0}) == [
        "x z",
        "y z",
    ]
    assert fields("language_modeling", {"context": "c", "continuation": "d"}) == ["c d"]


@real
@pytest.mark.slow
def test_the_real_sets_share_what_their_manifest_says():
    """Runs of 12 words of the text: 26 MMLU questions, no ARC, GSM8K or HumanEval item. Of 10 words
    of the chats: 15 HumanEval problems, no GSM8K item.
    """
    source = open_source(DataConfig(source="local"))
    index = Index(
        {
            task: [item_fields(task, row) for row in source.task(task, "test")]
            for task in CHAT_TASKS
        },
        (10, 12),
    )
    corpora = contamination.training_corpora(source, CHAT_TASKS)
    found, documents, _, cut = index.scan(corpora["text"](), 10**9)
    assert documents == 6454 and not cut
    assert dict(zip(CHAT_TASKS, index.hits(12, found[12])[0])) == {
        "arc_easy": 0,
        "arc_challenge": 0,
        "mmlu": 26,
        "gsm8k": 0,
        "humaneval": 0,
    }
    chats = dict(zip(CHAT_TASKS, index.hits(10, index.scan(corpora["chats"](), 10**9)[0][10])[0]))
    assert (chats["gsm8k"], chats["humaneval"]) == (0, 15)


def test_a_source_without_chats_is_compared_all_the_same():
    class Quiet(EmbeddedSource):
        def chats(self, split):
            raise UserError("no chats here")

    rows, corpora, missing = overlap(Quiet(DataConfig()), ["arc_easy"], 3_000)
    assert [corpus.name for corpus in corpora] == ["text", "tasks"] and missing == {
        "training chats": "no chats here"
    }
    assert rows[0]["chats_8"] is None and rows[0]["tasks_8"] >= 0


def test_every_corpus_of_the_embedded_world_is_compared():
    rows, corpora, missing = overlap(open_source(DataConfig()), ["arc_easy", "gsm8k"], 30_000)
    assert any(row["any_8"] for row in rows)
    assert (
        [corpus.name for corpus in corpora] == ["text", "chats", "tasks"]
        and all(corpus.cut for corpus in corpora)
        and not missing
    )
    assert [row["benchmark"] for row in rows[:3]] == ["arc_easy", "gsm8k", "core/fact_choice"]
    counted = {f"{name}_{n}" for name in ("long", "text", "chats", "tasks", "any") for n in (8, 13)}
    for row in rows:
        assert set(row) == {"benchmark", "items", "example", *counted}
        for n in (8, 13):
            each = [row[f"{name}_{n}"] for name in ("text", "chats", "tasks")]
            assert (
                max(each) <= row[f"any_{n}"] <= sum(each)
                and row[f"any_{n}"] <= row[f"long_{n}"] <= row["items"]
            )
        assert bool(row["any_8"]) == bool(row["example"])
