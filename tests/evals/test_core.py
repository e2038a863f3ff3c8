"""The three CORE prompt forms, their spans, cropping, and scores that do not depend on the order of evaluation."""

from dataclasses import dataclass, field

import pytest

from nanolab.evals import core
from nanolab.evals.base import TaskResult

CHOICE = {"query": "Sky colour?", "choices": ["blue", "green"], "gold": 0}
SCHEMA = {"context_options": ["The cup broke; the cup", "The cup broke; the floor"], "continuation": "was fragile.", "gold": 0}
LANGUAGE = {"context": "One two ", "continuation": "three"}


@dataclass
class Task:
    name: str = "task"
    kind: str = "multiple_choice"
    num_fewshot: int = 1
    continuation_delimiter: str = " "
    random_baseline: float = 0.5
    rows: list = field(default_factory=list)


@dataclass
class Score:
    log_p: float
    per_token: list
    greedy: bool = False


class LetterScorer:
    """Log p of a token id is -id/1000: a scorer whose answers can be computed by hand."""

    def score(self, ids, spans):
        spanned = [row[a:b] for row, (a, b) in zip(ids, spans)]
        return [Score(-sum(tokens) / 1000, [-t / 1000 for t in tokens], tokens == sorted(tokens)) for tokens in spanned]


def encode(text):
    return [0, *text.encode()]


def test_the_three_forms():
    shot = "Sky colour? blue\n\n"
    assert core.prompts("multiple_choice", CHOICE, [CHOICE], " ") == [shot + "Sky colour? blue", shot + "Sky colour? green"]
    assert core.prompts("schema", SCHEMA, [], " ")[1] == "The cup broke; the floor was fragile."
    assert core.prompts("language_modeling", LANGUAGE, [LANGUAGE], " ") == ["One two three\n\nOne two", "One two three\n\nOne two three"]


@pytest.mark.parametrize(("kind", "row", "scored"), [
    ("multiple_choice", CHOICE, ["blue", "green"]), ("schema", SCHEMA, [" was fragile."] * 2), ("language_modeling", LANGUAGE, [" three"])])
def test_the_scored_span_is_the_continuation(kind, row, scored):
    ids, spans = core.spans(kind, [encode(text) for text in core.prompts(kind, row, [row], " ")])
    assert [bytes(tokens[a:b]).decode() for tokens, (a, b) in zip(ids, spans)] == scored


def test_a_choice_that_begins_another_still_has_a_token_to_score():
    row = {"query": "Q", "choices": ["dog", "dog house"], "gold": 0}
    _, spans = core.spans("multiple_choice", [encode(text) for text in core.prompts("multiple_choice", row, [], " ")])
    assert all(b > a for a, b in spans) and spans[0][0] == spans[1][0]


def test_a_long_prompt_loses_its_start_and_keeps_its_continuation():
    ids = list(range(100))
    cropped, (start, end) = core.crop(ids, (90, 100), 20)
    assert cropped == ids[80:] and cropped[start:end] == ids[90:100]
    assert core.crop(ids, (90, 100), 200) == (ids, (90, 100))
    assert core.crop(ids, (10, 100), 20)[1] == (1, 20)  # nothing before position 0 predicts it


def test_the_mean_per_token_decides_and_greedy_means_exact():
    scores = [Score(-2.0, [-1.0, -1.0]), Score(-1.5, [-1.5])]
    assert core.judge("multiple_choice", {"gold": 0}, scores) and not core.judge("multiple_choice", {"gold": 1}, scores)
    assert core.judge("language_modeling", {}, [Score(0, [], True)]) and not core.judge("language_modeling", {}, [Score(0, [], False)])


def test_shots_are_other_rows_and_belong_to_the_example():
    rows = [{"query": str(i)} for i in range(6)]
    for index in range(6):
        shots = core.few_shot_rows("task", rows, index, 3, seed=0)
        assert rows[index] not in shots and len({s["query"] for s in shots}) == 3
        assert shots == core.few_shot_rows("task", rows, index, 3, seed=0)
    assert len(core.few_shot_rows("task", rows, 0, 50, seed=0)) == 5
    assert len({core.few_shot_rows("task", rows, 0, 3, seed=s)[0]["query"] for s in range(20)}) > 1


@pytest.mark.parametrize("kind", ["multiple_choice", "schema", "language_modeling"])
def test_records_do_not_depend_on_the_batch_or_the_order(kind):
    row = {"multiple_choice": CHOICE, "schema": SCHEMA, "language_modeling": LANGUAGE}[kind]
    rows = [{**row, "gold": i % 2, "n": i} for i in range(7)]
    task = Task(kind=kind, rows=rows)

    def records(indexes, batch):
        found = []
        core.evaluate_task(LetterScorer(), encode, task, rows, indexes, found.append, limit=1000, seed=1, batch=batch)
        return sorted(found, key=lambda record: record["index"])

    expected = records(range(7), 1)
    assert expected == records(range(7), 16) == records([6, 1, 0, 3, 2, 5, 4], 3)
    assert {r["chance"] for r in expected} == {0.5}
    if kind != "language_modeling":
        assert {r["passed"] for r in expected} == {True, False}


def test_core_is_the_mean_of_centred_accuracies():
    def result(name, passed, chance):
        return TaskResult.of(name, [{"index": i, "passed": i < passed, "chance": chance} for i in range(4)])

    assert core.core_metric([result("a", 3, 0.5), result("b", 2, 0.0)]) == pytest.approx((0.5 + 0.5) / 2)
    assert core.core_metric([result("a", 1, 0.25)]) == 0
