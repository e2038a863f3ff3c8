"""CORE: prompts, spans, order and shots of the reference; records that depend on nothing but the
example; what a mean covers.
"""

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from nanolab.data.sources.source import open_source
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.evals import core
from nanolab.evals.base import TaskResult, mean_centred
from nanolab.inference.gpt_engine import GPTScorer
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.settings.config import DataConfig

TINY = (
    Path(__file__).parent.parent / "data" / "tiny"
)  # a local folder with a bundle of three tasks, written for these tests
CHOICE = {"query": "Sky colour?", "choices": ["blue", "green"], "gold": 0}
SCHEMA = {
    "context_options": ["The cup broke; the cup", "The cup broke; the floor"],
    "continuation": "was fragile.",
    "gold": 0,
}
LANGUAGE = {"context": "One two ", "continuation": "three"}
ROWS = {"multiple_choice": CHOICE, "schema": SCHEMA, "language_modeling": LANGUAGE}


@dataclass
class Task:
    name: str = "task"
    kind: str = "multiple_choice"
    num_fewshot: int = 1
    continuation_delimiter: str = " "
    random_baseline: float = 0.5
    rows: list = field(default_factory=list)
    published_rows: int | None = None
    status: str = "exact"


@dataclass
class Score:
    log_p: float
    per_token: list
    greedy: bool = False


class LetterScorer:
    """Log p of a token id is -id/1000: a scorer whose answers can be computed by hand."""

    def score(self, ids, spans, sizes):
        assert sum(sizes) == len(ids)
        spanned = [row[a:b] for row, (a, b) in zip(ids, spans)]
        return [
            Score(-sum(tokens) / 1000, [-t / 1000 for t in tokens], tokens == sorted(tokens))
            for tokens in spanned
        ]


def encode(text):
    return [0, *text.encode()]


def test_the_three_forms():
    shot = "Sky colour? blue\n\n"
    assert core.prompts("multiple_choice", CHOICE, [CHOICE], " ") == [
        shot + "Sky colour? blue",
        shot + "Sky colour? green",
    ]
    assert core.prompts("schema", SCHEMA, [], " ")[1] == "The cup broke; the floor was fragile."
    assert core.prompts("language_modeling", LANGUAGE, [LANGUAGE], " ") == [
        "One two three\n\nOne two",
        "One two three\n\nOne two three",
    ]
    assert core.prompts("language_modeling", LANGUAGE, [], "\nAnswer: ") == [
        "One two\nAnswer:",
        "One two\nAnswer: three",
    ]


@pytest.mark.parametrize(
    ("kind", "row", "scored"),
    [
        ("multiple_choice", CHOICE, ["blue", "green"]),
        ("schema", SCHEMA, [" was fragile."] * 2),
        ("language_modeling", LANGUAGE, [" three"]),
    ],
)
def test_the_scored_span_is_the_continuation(kind, row, scored):
    ids, spans = core.spans(kind, [encode(text) for text in core.prompts(kind, row, [row], " ")])
    assert [bytes(tokens[a:b]).decode() for tokens, (a, b) in zip(ids, spans)] == scored


@pytest.mark.parametrize(
    ("choices", "chosen"),
    [(["dog", "dog house"], 0), (["dog house", "dog"], 0), (["dog house", "dog", "dogs"], 2)],
)
def test_a_choice_that_begins_all_others_is_chosen_only_where_it_comes_first(choices, chosen):
    """It has no token of its own, and a mean that is not a number: the reference's rule."""
    _, spans = core.spans("multiple_choice", [encode(f"Q {choice}") for choice in choices])
    assert (spans[choices.index("dog")][0] == spans[choices.index("dog")][1]) and len(
        {start for start, _ in spans}
    ) == 1
    scores = [
        Score(-1.0 * (b - a), [-1.0] * (b - a)) if choice != "dogs" else Score(-0.5, [-0.5])
        for choice, (a, b) in zip(choices, spans)
    ]
    assert core.judge("multiple_choice", {"gold": chosen}, scores) == (True, chosen)


def test_a_long_prompt_loses_its_start_and_keeps_its_continuation():
    ids = list(range(100))
    cropped, (start, end) = core.crop(ids, (90, 100), 20)
    assert cropped == ids[80:] and cropped[start:end] == ids[90:100]
    assert core.crop(ids, (90, 100), 200) == (ids, (90, 100))
    assert core.crop(ids, (10, 100), 20)[1] == (1, 20)  # nothing before position 0 predicts it


def test_the_mean_per_token_decides_the_first_of_equals_wins_and_greedy_means_exact():
    scores = [Score(-2.0, [-1.0, -1.0]), Score(-1.5, [-1.5]), Score(-1.0, [-1.0])]
    assert core.judge("multiple_choice", {"gold": 0}, scores) == (True, 0) and core.judge(
        "schema", {"gold": 1}, scores
    ) == (False, 0)
    assert core.judge("language_modeling", {}, [Score(0, [], True)]) == (True, None)
    assert core.judge("language_modeling", {}, [Score(0, [], False)]) == (False, None)


def test_order_and_shots_are_the_reference_s():
    """Written out as the reference does it: a shuffle with seed 1337, then a sample with seed 1234
    + index from all other rows.
    """
    rows = [{"query": str(i)} for i in range(40)]
    expected = rows[:]
    random.Random(1337).shuffle(expected)
    asked = core.asked_rows(rows, 25)
    assert (
        asked == expected[:25]
        and core.asked_rows(rows, None) == expected
        and rows[0] == {"query": "0"}
    )
    for index in range(25):
        others = [row for i, row in enumerate(asked) if i != index]
        for count in (0, 1, 10):
            assert core.few_shot_rows(asked, index, count) == random.Random(1234 + index).sample(
                others, count
            )
    assert len(core.few_shot_rows(asked, 0, 50)) == 24


@pytest.mark.parametrize("kind", list(ROWS))
def test_records_do_not_depend_on_the_batch_or_the_order(kind):
    rows = [{**ROWS[kind], "gold": i % 2, "n": i} for i in range(7)]

    def records(indexes, batch):
        found = []
        core.evaluate_task(
            core.Reader(LetterScorer(), encode, 1000, batch),
            Task(kind=kind),
            rows,
            indexes,
            found.append,
        )
        return sorted(found, key=lambda record: record["index"])

    expected = records(range(7), 1)
    assert expected == records(range(7), 32) == records([6, 1, 0, 3, 2, 5, 4], 3)
    assert {r["chance"] for r in expected} == {0.5} and {r["cropped"] for r in expected} == {0}
    if kind != "language_modeling":
        assert {r["passed"] for r in expected} == {True, False}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(Tokenizer([bytes([i]) for i in range(256)]).vocab_size, 64, 2, 32, 2, 1))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    return model


def example(kind, i):
    """One of nine rows whose options differ in length; some begin another."""
    words = ["sun", "green tea", "a b", "river", "an old house", "no"]
    one, other = words[i % 6], words[(i + 3) % 6]
    if kind == "multiple_choice":
        return {
            "query": f"Which of these is number {i}?",
            "choices": [one, one + " or not", other],
            "gold": i % 3,
        }
    if kind == "schema":
        return {
            "context_options": [f"The {one} saw it and the {word}" for word in (one, other)],
            "continuation": "left.",
            "gold": i % 2,
        }
    return {"context": f"{one} and {i} ", "continuation": other}


@pytest.mark.parametrize("limit", [500, 40])
@pytest.mark.parametrize("kind", list(ROWS))
def test_the_fast_path_gives_every_choice_what_a_full_row_of_its_own_gives(model, kind, limit):
    """Prefix shared, many examples at once, cropped or not: the mean loss of a plain forward of
    each whole row, to 1e-5 nats.
    """
    rows = [example(kind, i) for i in range(9)]
    task, found = Task(kind=kind, num_fewshot=2), []
    reader = core.Reader(GPTScorer(model), encode, limit)
    core.evaluate_task(reader, task, rows, range(9), found.append)
    for index, record in enumerate(found):
        texts = core.prompts(kind, rows[index], core.few_shot_rows(rows, index, 2), " ")
        ids, places = core.spans(kind, [encode(text) for text in texts])
        assert record["cropped"] == max(0, max(map(len, ids)) - limit) and (
            record["cropped"] > 0
        ) == (limit == 40)
        for row, (start, end), log_p, tokens in zip(
            ids, places, record["log_p"], record["tokens"], strict=True
        ):
            shown = torch.tensor([row[-limit:]])
            with torch.no_grad():
                losses = torch.nn.functional.cross_entropy(
                    model.logits(model.trunk(shown))[0, :-1], shown[0, 1:], reduction="none"
                )
            own = losses[len(losses) - (end - start) :] if end > start else losses[:0]
            assert tokens == len(own) and log_p == pytest.approx(
                -float(own.sum()), abs=1e-5 * max(1, tokens)
            )


def test_two_ranks_give_the_records_of_one(model):
    """Each takes its share of the examples: the same choices, and log-probabilities to float32's
    rounding.
    """
    rows, found = [example("multiple_choice", i) for i in range(9)], {1: [], 2: []}
    for size in found:
        for rank in range(size):
            core.evaluate_task(
                core.Reader(GPTScorer(model), encode, 64),
                Task(num_fewshot=2),
                rows,
                range(rank, 9, size),
                found[size].append,
            )
    for one, two in zip(
        found[1], sorted(found[2], key=lambda record: record["index"]), strict=True
    ):
        assert two.pop("log_p") == pytest.approx(one.pop("log_p"), abs=1e-5) and two == one


def test_core_is_the_mean_of_centred_accuracies():
    def result(name, passed, chance):
        return TaskResult(
            name, [{"index": i, "passed": i < passed, "chance": chance} for i in range(4)]
        )

    assert mean_centred([result("a", 3, 0.5), result("b", 2, 0.0)]) == pytest.approx(
        (0.5 + 0.5) / 2
    )
    assert mean_centred([result("a", 1, 0.25)]) == 0


def test_what_the_mean_covers_is_said():
    tasks = [
        Task("whole", rows=[CHOICE]),
        Task("gone", published_rows=9),
        Task("part", rows=[CHOICE] * 2, published_rows=1000),
        Task("other", rows=[CHOICE], published_rows=1, status="converted"),
    ]
    assert (
        core.coverage(tasks)
        == "3 of 4 tasks; no data for gone; part has 2 of 1,000 rows; other is converted from"
        " another publication"
    )
    assert core.coverage(tasks[:1], 1) == "1 of 1 tasks"
    assert core.coverage(tasks[2:3], 1).startswith("1 of 1 tasks; at most 1 examples a task;")
    assert core.known_faults(tasks) == "" and "71 rows" in core.known_faults(
        [Task("arc_easy", rows=[CHOICE] * 2376)]
    )


def test_a_bundle_is_read_with_its_absent_task():
    tasks = {
        task.name: task for task in open_source(DataConfig(source="local", root=str(TINY))).core()
    }
    assert [len(task.rows) for task in tasks.values()] == [3, 2, 2, 0] and tasks[
        "tiny_letters"
    ].random_baseline == 0.25
    assert (
        core.coverage(list(tasks.values()))
        == "3 of 4 tasks; no data for tiny_absent; tiny_pronouns has 2 of 5 rows"
    )


@pytest.mark.skipif(
    "NANOLAB_DATA" not in os.environ,
    reason="needs the published sets: set NANOLAB_DATA to a folder that holds them",
)
def test_the_published_bundle_has_22_tasks_and_the_faults_that_are_told_of_it():
    source = open_source(DataConfig(source="local"))
    tasks = {task.name: task for task in source.core()}
    assert len(tasks) == 22 and core.coverage(list(tasks.values())).startswith(
        "21 of 22 tasks; no data for coqa; "
    )
    for name, wrong, twice in (("arc_easy", 71, 7), ("arc_challenge", 20, 4)):
        # question -> right answers, by the labels of the set that the file was made from
        answers = {}
        for row in source.task(name, "test"):
            right = row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
            answers.setdefault("Question: " + row["question"], set()).add(right)
        rows = tasks[name].rows
        assert (
            sum(row["choices"][row["gold"]] not in answers[row["query"]] for row in rows) == wrong
        )
        assert sum(len(set(row["choices"])) < len(row["choices"]) for row in rows) == twice
        assert f"{wrong} rows name a wrong answer" in core.KNOWN_FAULTS[name][1]
    for name, (count, told) in core.KNOWN_FAULTS.items():
        texts = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in tasks[name].rows]
        assert len(texts) == count
        for number, words in (
            (len(texts) - len(set(texts)), "rows are repeats"),
            (sum("\ufffd" in text for text in texts), "unreadable"),
        ):
            assert (number > 0) == (words in told) and (
                words not in told or f"{number} row" in told
            )
