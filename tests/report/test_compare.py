"""Claims: accuracies on the same problems are paired problem by problem, others are not and say
why; nothing is compared with itself.
"""

import csv
import io
import json
import time

import pytest

from nanolab import artefacts, files
from nanolab.__main__ import main
from nanolab.errors import UserError
from nanolab.report import compare, results_csv
from nanolab.statistics import newcombe, newcombe_paired
from nanolab.tracking import environment, run_reader, run_writer
from nanolab.tracking.store import client

DATA = {"data.source": "embedded", "data.seed": 0}


def study(name, passes, seed=0, data=DATA, rate=None, records=True, expected="7", **params):
    """An execution with an SFT evaluation of one task and a power evaluation, whose problems passed
    as `passes` says.
    """
    facts = environment.unknown()
    facts["hardware"]["hourly_rate"] = rate
    parent = run_writer.open_execution(
        {"experiment": name, "seed": seed, **params},
        f"{name} now",
        "scripts/run_all.py",
        {"environment.json": json.dumps(facts)},
    )
    start, n = round(time.time() * 1000), len(passes)
    work = f"work/{name}/chat_eval_sft/0123456789ab"
    runs = {}
    for step, final in (
        ("sft", {"loss": 2.0 + seed, "tokens_per_second": 100}),
        ("chat_eval_sft", {"gsm8k": sum(passes) / n, "gsm8k/n": n}),
        (
            "power_eval",
            {"gsm8k": sum(passes) / n, "total": n, "greedy/accuracy": 1.0, "greedy/total": n},
        ),
    ):
        runs[step] = run_writer.open_step(
            parent,
            step,
            "0123456789ab",
            {**data, "source": "sft"},
            {"work_folder": work},
            start,
        )
        run_writer.log_metrics(runs[step], {f"final/{key}": value for key, value in final.items()})
        run_writer.close_run(runs[step], "FINISHED", start + 30_000)
    if records:
        lines = [
            {"index": index, "passed": passed, "expected": expected}
            for index, passed in enumerate(passes)
        ]
        files.write_atomic(
            files.MLRUNS / work / "records" / "gsm8k.jsonl",
            "\n".join(map(json.dumps, lines)) + "\n",
        )
        problems = [
            {"index": line["index"], "methods": {"power": line, "greedy": line | {"passed": True}}}
            for line in lines
        ]
        client().log_text(
            runs["power_eval"], "\n".join(map(json.dumps, problems)) + "\n", "problems.jsonl"
        )
    run_writer.close_run(parent, "FINISHED")
    return parent


def accuracy(rows, step="chat_eval_sft", method=""):
    (row,) = [
        row
        for row in rows
        if row["kind"] == "accuracy" and row["step"] == step and row["method"] == method
    ]
    return row


A, B = [True] * 30 + [False] * 20, [True] * 25 + [False] * 5 + [True] * 12 + [False] * 8


def test_the_same_problems_are_paired(store):
    study("one", A)
    study("two", B, seed=1)
    rows = compare.differences(compare.find("one"), compare.find("two"))
    row = accuracy(rows)
    assert (
        (row["only_a"], row["only_b"], row["n"]) == (5, 12, 50)
        and row["interval"] == compare.PAIRED
        and row["note"] == ""
    )
    assert row["difference"] == pytest.approx(37 / 50 - 30 / 50)
    assert (row["low"], row["high"]) == newcombe_paired(25, 12, 5, 8) and row[
        "p_value"
    ] == pytest.approx(0.1435, abs=1e-4)
    power, greedy = accuracy(rows, "power_eval", "power"), accuracy(rows, "power_eval", "greedy")
    assert (
        (power["only_a"], power["only_b"]) == (5, 12)
        and greedy["difference"] == 0
        and greedy["p_value"] == 1
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"data": DATA | {"data.seed": 1}}, "not the same test set, data.seed differs (0, 1)"),
        ({"records": False}, "b has no record of each problem"),
        ({"expected": "8"}, "the problems are not the same"),
    ],
)
def test_other_problems_are_not_paired_and_it_says_why(store, change, words):
    study("one", A)
    study("two", B, **change)
    row = accuracy(compare.differences(compare.find("one"), compare.find("two")))
    assert row["note"] == f"not paired: {words}" and row["interval"] == compare.UNPAIRED
    assert (row["low"], row["high"]) == newcombe(37, 50, 30, 50) and row["p_value"] is None


def test_unpaired_results_of_different_numbers_say_both(store):
    study("one", A)
    study("two", B[:40], data=DATA | {"data.seed": 1})
    row = accuracy(compare.differences(compare.find("one"), compare.find("two")))
    assert row["n"] is None and row["note"].endswith(
        "data.seed differs (0, 1); a of 50, b of 40 problems"
    )


def test_the_records_of_a_later_attempt_do_not_count(store):
    """A work folder holds the newest attempt only; here it does not give the accuracy that the run
    states.
    """
    study("one", A)
    study("two", B)
    path = next((store / "work" / "two").rglob("gsm8k.jsonl"))
    path.write_text(path.read_text().replace('"passed": false', '"passed": true', 1))
    row = accuracy(compare.differences(compare.find("one"), compare.find("two")))
    assert row["note"] == "not paired: b has no record of each problem"


def test_an_altered_or_torn_record_is_named_and_compared_unpaired_once_it_is_gone(store):
    """Two problems change places: the accuracy is the same, and the pairs are not."""
    study("one", A)
    study("two", B)
    path = next((store / "work" / "two").rglob("gsm8k.jsonl"))
    artefacts.write_result(path.parent.parent, "chat_eval_sft", {}, 0.0)
    whole = path.read_text()
    altered = whole.replace('"passed": true', '"passed": null', 1)
    altered = altered.replace('"passed": false', '"passed": true', 1)
    path.write_text(altered.replace('"passed": null', '"passed": false'))

    def compared():
        return accuracy(compare.differences(compare.find("one"), compare.find("two")))

    with pytest.raises(UserError, match=r"gsm8k\.jsonl was altered: .*remove it"):
        compared()
    (path.parent.parent / artefacts.RESULT).unlink()
    path.write_text(whole[:-9])
    with pytest.raises(UserError, match=r"gsm8k\.jsonl, line 50 is not valid JSON: .*remove it"):
        compared()
    path.unlink()
    assert compared()["note"] == "not paired: b has no record of each problem"


def test_of_different_numbers_of_problems_the_common_ones_are_paired(store):
    study("one", A)
    study("two", B[:40])
    row = accuracy(compare.differences(compare.find("one"), compare.find("two")))
    assert (
        row["n"] == 40
        and row["a"] == 0.75
        and row["note"] == "of the 40 problems that both answered"
    )


@pytest.mark.parametrize(
    "changes, passes, words",
    [
        ({"problems.gsm8k.test": "abc"}, B, "not paired: the problems are not the same"),
        ({}, B, "not paired: the problems are not known to be the same"),
        ({"problems.gsm8k.test": "abc"}, B[:40], "of the 40 problems that both answered"),
    ],
)
def test_problems_are_the_same_where_their_digests_are(store, changes, passes, words):
    """The answers expected are the same in both: they tell only where nothing else does."""
    study("one", A, data=DATA | {"problems.gsm8k.test": "xyz"})
    study("two", passes, data=DATA | changes)
    assert accuracy(compare.differences(compare.find("one"), compare.find("two")))["note"] == words


def test_programs_of_different_numbers_are_not_paired(store):
    """Their records name no answer, and 100 of 164 problems are not the first 100."""
    study("one", A, expected=None)
    study("two", B[:40], expected=None)
    row = accuracy(compare.differences(compare.find("one"), compare.find("two")))
    assert row["note"] == (
        "not paired: nothing tells which problems both answered; a of 50, b of 40 problems"
    )


def test_other_metrics_say_where_they_are_not_of_the_same_rows(store):
    study("one", A, data=DATA | {"problems.gsm8k.test": "xyz"})
    study("two", A, data=DATA | {"problems.gsm8k.test": "abc"})
    study("three", A, data=DATA | {"data.seed": 3})

    def note(name):
        rows = compare.differences(compare.find("one"), compare.find(name))
        return {row["note"] for row in rows if row["step"] == "sft" and row["kind"] == "metric"}

    assert note("two") == {"not the same problems"} and note("three") == {"data.seed differs"}


@pytest.mark.parametrize("records", [True, False])
def test_tasks_of_core_are_compared_and_paired_where_their_records_are(store, records):
    """A record of CORE names no expected answer."""
    for name, passes in (("one", A), ("two", B)):
        parent, work, n = study(name, passes), f"work/{name}/base_eval/0123456789ab", len(passes)
        run = run_writer.open_step(parent, "base_eval", "0123456789ab", DATA, {"work_folder": work})
        final = {key: sum(passes) / n for key in ("core/arc_easy", "arc_easy")} | {
            "core/arc_easy/n": n,
            "arc_easy/n": n,
        }
        run_writer.log_metrics(run, {f"final/{key}": value for key, value in final.items()})
        run_writer.close_run(run, "FINISHED")
        if records:
            lines = [
                json.dumps({"index": index, "passed": passed, "choice": 0})
                for index, passed in enumerate(passes)
            ]
            files.write_atomic(
                files.MLRUNS / work / "records" / "core_arc_easy.jsonl", "\n".join(lines) + "\n"
            )
    rows = compare.differences(compare.find("one"), compare.find("two"))
    found = {
        row["setting"]: row
        for row in rows
        if row["kind"] == "accuracy" and row["step"] == "base_eval"
    }
    core, chat = found["core"], found[""]
    assert core["task"] == chat["task"] == "arc_easy"
    assert core["difference"] == chat["difference"] == pytest.approx(7 / 50)
    assert (core["only_a"], core["only_b"], core["note"]) == (
        (5, 12, "") if records else (None, None, "not paired: no record of each problem is at hand")
    )
    assert chat["interval"] == compare.UNPAIRED


def test_settings_metrics_time_and_dollars_stand_beside_each_other(store):
    study("one", A, rate=24.0, launch={"nproc": 8})
    study("two", B, seed=1, rate=3.0)
    a, b = compare.find("one"), compare.find("two")
    assert compare.settings(a, b) == [
        {"setting": "seed", "a": "0", "b": "1"},
        {"setting": "launch.nproc", "a": "8", "b": None},
    ]
    rows = {
        (row["step"], row["metric"]): row
        for row in compare.differences(a, b)
        if row["kind"] != "accuracy"
    }
    assert rows["sft", "loss"]["difference"] == 1.0 and rows["sft", "loss"]["low"] is None
    assert rows["all steps", "seconds"]["a"] == pytest.approx(90) and rows["all steps", "dollars"][
        "a"
    ] == pytest.approx(90 * 24 / 3600)
    assert rows["all steps", "dollars"]["difference"] == pytest.approx(90 * (3 - 24) / 3600)
    assert all(tuple(row) == compare.COLUMNS for row in compare.differences(a, b))


def test_an_execution_is_found_by_study_by_file_and_by_run_id(store, tmp_path):
    earlier, later = study("one", A), study("one", B)
    (tmp_path / "else.yaml").write_text("experiment: one\n")
    assert (
        compare.find("one").execution.id
        == later
        == compare.find(str(tmp_path / "else.yaml")).execution.id
    )
    assert compare.find(earlier).execution.id == earlier
    with pytest.raises(UserError, match="no execution of a study; its execution is"):
        compare.find(compare.find("one").runs["sft"].id)
    with pytest.raises(UserError, match="no run"):
        compare.find("0" * 32)
    with pytest.raises(UserError, match="no experiment file 'nothing'"):
        compare.find("nothing")
    with pytest.raises(UserError, match=r"has no execution in .*: run it first"):
        compare.find("micro")


def test_the_commands_print_a_table_json_and_csv(store, tmp_path, capsys):
    study("one", A)
    study("two", B, seed=1)
    assert main(["compare", "one", "two"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["seed", "0", "1"] in lines
    (row,) = [line for line in lines if line[:2] == ["chat_eval_sft", "gsm8k"]]
    assert row[2:6] == ["50", "0.6000", "0.7400", "+0.1400"]
    assert "3 of 3 intervals: Newcombe 1998, paired, method 10" in text
    assert main(["compare", "one", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["settings"] == [{"setting": "seed", "a": "0", "b": "1"}]
        and len(found["differences"]) == 9
    )
    assert main(["compare", "one", "two", "--csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 9
    assert main(["results", "one", "two", "--out", str(tmp_path / "both.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "both.csv").open()))
    assert (
        tuple(rows[0]) == results_csv.COLUMNS
        and {row["study"] for row in rows} == {"one", "two"}
        and len(rows) == 10
    )
    assert main(["results", "one", "nothing"]) == 2


def test_a_part_of_a_study_does_not_stand_for_it_and_every_seed_is_in_its_results(store, capsys):
    steps = {"steps": ["sft", "chat_eval_sft", "power_eval"], "seeds": [0, 1]}
    whole = [study("one", A, seed=seed, **steps) for seed in (0, 1)]
    part = run_writer.open_execution(
        {"experiment": "one", "seed": 1, **steps}, "one later", "scripts/run_all.py"
    )
    run_writer.close_run(part, "FINISHED")
    assert (
        run_reader.executions("one")[0].id == part and compare.find("one").execution.id == whole[1]
    )
    assert [side.execution.id for side in compare.seeds_of(compare.find("one"))] == whole
    assert main(["results", "one"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["execution"], row["seed"]) for row in rows} == {(whole[0], "0"), (whole[1], "1")}
    assert main(["results", whole[0]]) == 0
    assert {row["execution"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {
        whole[0]
    }
