"""Intervals and paired tests against published values; the runner resumes by example and ignores
the number of ranks.
"""

import itertools
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from nanolab.dist import World
from nanolab.evals import base
from nanolab.results import flat


def world(rank=0, size=1):
    return World(rank, size, torch.device("cpu"), torch.float32)


def test_wilson_interval_of_hand_computed_cases():
    low, high = base.wilson(78, 892)  # by the textbook formula, in a spreadsheet
    centre, n, z = 78 / 892, 892, 1.959964
    expected = [
        (
            (centre + z * z / (2 * n))
            + sign * z * ((centre * (1 - centre) / n + z * z / (4 * n * n)) ** 0.5)
        )
        / (1 + z * z / n)
        for sign in (-1, 1)
    ]
    assert [low, high] == pytest.approx(expected)
    assert base.wilson(0, 10) == (0.0, pytest.approx(0.27754, abs=1e-4))
    assert base.wilson(10, 10) == (pytest.approx(0.72246, abs=1e-4), 1.0)
    assert base.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(18, 2, 0.00040245), (27, 12, 0.02370), (5, 5, 1.0), (0, 0, 1.0), (1, 0, 1.0)],
)
def test_mcnemar_is_the_exact_two_sided_sign_test(gained, lost, p):
    first = [False] * gained + [True] * lost + [True, False] * 50
    second = [True] * gained + [False] * lost + [True, False] * 50
    assert base.mcnemar(first, second) == pytest.approx(p, rel=1e-3)
    assert base.mcnemar(second, first) == pytest.approx(p, rel=1e-3)


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert base.pass_at_k(n, c, k) == pytest.approx(
                sum(map(any, subsets)) / len(subsets), abs=1e-15
            )


def test_pass_at_k_keeps_its_digits_for_many_samples():
    assert base.pass_at_k(100_000, 1, 3) == 3e-5
    assert (
        base.pass_at_k(2000, 1000, 1) == 0.5
        and base.pass_at_k(2000, 1000, 1001) == 1.0
        and base.pass_at_k(2000, 0, 2000) == 0.0
    )
    with pytest.raises(AssertionError, match="3 of 2"):
        base.pass_at_k(2, 3, 1)


def test_a_result_has_its_flat_metrics_and_centred_score():
    records = [{"index": i, "passed": i < 3, "chance": 0.25 if i % 2 else 0.5} for i in range(4)]
    result = base.TaskResult("mmlu", records)
    assert (
        flat(result.scores())["mmlu"] == 0.75
        and flat(result.scores())["mmlu/n"] == 4
        and flat(result.scores())["mmlu/chance"] == 0.375
    )
    assert result.centred == pytest.approx((0.75 - 0.375) / 0.625)


def test_a_second_entry_does_only_what_is_missing(tmp_path):
    asked = []

    def evaluate(indexes, done):
        for index in indexes:
            asked.append(index)
            if index == 3:
                raise KeyboardInterrupt
            done({"index": index, "passed": index % 2 == 0})

    with pytest.raises(KeyboardInterrupt):
        base.Records(world(), tmp_path).run("task", 6, evaluate)
    with (tmp_path / "task.rank0.jsonl").open("a") as file:
        file.write('{"index": 5, "pas')  # what a killed process leaves
    asked.clear()

    def rest(indexes, done):
        asked.extend(indexes)
        for index in reversed(indexes):
            done({"index": index, "passed": index % 2 == 0})

    told = []
    kept = base.Records(world(), tmp_path, progress=lambda *words: told.append(words))
    records = kept.run("task", 6, rest)
    assert sorted(asked) == [3, 4, 5]
    assert told == [
        ("task", done, 6, "problems", accuracy) for done, accuracy in ((4, 0.5), (5, 0.6), (6, 0.5))
    ]
    assert [r["index"] for r in records] == list(range(6)) and [r["passed"] for r in records] == [
        True,
        False,
    ] * 3
    assert {p.name for p in tmp_path.iterdir()} == {"task.jsonl", base.SECONDS}
    assert [
        json.loads(line) for line in (tmp_path / "task.jsonl").read_text().splitlines()
    ] == records
    asked.clear()
    assert base.Records(world(), tmp_path).run("task", 6, rest) == records and not asked


def test_files_of_an_earlier_run_with_more_ranks_are_used(tmp_path):
    (tmp_path / "task.rank0.jsonl").write_text('\n{"index": 0, "passed": true}\n')
    (tmp_path / "task.rank1.jsonl").write_text('\n{"index": 1, "passed": false}\n')
    records = base.Records(world(), tmp_path).run(
        "task",
        3,
        lambda indexes, done: [done({"index": i, "passed": True}) for i in indexes],
    )
    assert [r["passed"] for r in records] == [True, False, True]


def test_an_example_without_a_record_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="got no record"):
        base.Records(world(), tmp_path).run(
            "task",
            3,
            lambda indexes, done: [done({"index": i, "passed": True}) for i in indexes[1:]],
        )


RANKS = """
import json, sys
from pathlib import Path
from nanolab import dist
from nanolab.evals import base

world = dist.open_world("cpu", "float32", 1)
asked = []

def evaluate(indexes, done):
    asked.extend(indexes)
    for index in indexes:
        done({"index": index, "passed": index % 3 == 0})

records = base.Records(world, Path(sys.argv[1])).run("task", 7, evaluate)
print(json.dumps({"records": records, "asked": asked}))
dist.close_world(world)
"""


@pytest.mark.dist
def test_ranks_share_the_examples_and_all_know_every_record(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "task.rank5.jsonl").write_text(
        '\n{"index": 2, "passed": true}\n'
    )  # left by an earlier attempt with more ranks
    processes = []
    for rank in range(2):
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", RANKS, str(tmp_path)],
                env=os.environ | place,
                stdout=subprocess.PIPE,
            )
        )
    first, second = (
        json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes
    )
    assert (
        first["records"]
        == second["records"]
        == [{"index": i, "passed": i % 3 == 0 or i == 2} for i in range(7)]
    )
    assert (
        sorted(first["asked"] + second["asked"]) == [0, 1, 3, 4, 5, 6]
        and abs(len(first["asked"]) - len(second["asked"])) <= 1
    )
    assert len((tmp_path / "task.jsonl").read_text().splitlines()) == 7


def test_shares_that_warn_are_of_what_was_written_and_of_choices():
    written = [{"passed": i < 2, "text": "t", "cut": i < 3, "answer": None} for i in range(10)]
    written[9]["answer"] = "9"
    assert base.warning_shares(written) == {"cut_share": 0.3, "no_answer_share": 0.9}
    assert base.warning_shares([{"passed": True, "text": "t", "answer": ""}]) == {
        "no_answer_share": 1.0
    }
    choices = [
        {"passed": i % 4 == 0, "answer": "A", "expected": "ABCD"[i % 4], "chance": 0.25}
        for i in range(8)
    ]
    assert base.warning_shares(choices) == {"commonest_choice_share": 1.0}
    assert base.warning_shares([{"passed": True}]) == base.warning_shares([]) == {}
    values = flat(base.TaskResult("gsm8k", written).scores())
    assert (values["gsm8k/cut_share"], values["gsm8k/no_answer_share"]) == (0.3, 0.9)
    assert "gsm8k/cut_share" not in flat(base.TaskResult("gsm8k", written).scores("core"))
    assert flat(base.TaskResult("mmlu", choices).scores())["mmlu/commonest_choice_share"] == 1.0


def test_what_warns_is_said_above_its_bound_alone():
    def warnings(cut=0, none=0):
        records = [
            {"passed": False, "text": "t", "cut": i < cut, "answer": None if i < none else "1"}
            for i in range(10)
        ]
        return base.TaskResult("gsm8k", records).warnings()

    assert warnings(1, 1) == []
    assert len(warnings(2)) == 1 and "20% of its answers were cut" in warnings(2)[0]
    assert len(warnings(none=2)) == 1 and "20% of its texts have no answer" in warnings(none=2)[0]

    def collapsed(answers, expected):
        records = [
            {"passed": a == e, "answer": a, "expected": e, "chance": 0.25}
            for a, e in zip(answers, expected)
        ]
        return base.TaskResult("arc_easy", records).warnings()

    assert collapsed("AAAAAAABCD", "ABCDABCDAB") == [
        "arc_easy: 70% of its answers are A, which is right for 30%: the model answers with a"
        " letter, not with a choice"
    ]
    assert collapsed("AAAAAABBCD", "ABCDABCDAB") == []  # 60%
    assert collapsed("AAAAAAABCD", "AAAADBCDBC") == []  # right for 40%


def test_accuracies_by_subject_and_level_have_the_mean_over_subjects_beside_them():
    records = [
        {"passed": i < 3, "subject": "ab"[i % 2], **({"level": 1 + i} if i else {})}
        for i in range(4)
    ]
    values = flat(base.TaskResult("math500", records).scores())
    assert (values["math500"], values["math500/macro"], values["math500/micro"]) == (0.75,) * 3
    assert values["math500/subject/a"] == 1.0 and values["math500/subject/b"] == 0.5
    assert values["math500/subject/level 2"] == 1.0 and values["math500/subject/level 4"] == 0.0
    records = [{"passed": True, "subject": "Counting & Probability (easy)"}]  # MLflow takes no &
    assert "math500/subject/Counting and Probability _easy_" in flat(
        base.TaskResult("math500", records).scores()
    )
