"""Claims: each number that a step ended with is one row of results.csv, with its interval, test and
cost in the row of its accuracy.
"""

import csv
import io
import time

import pytest

from nanolab.report import results_csv
from nanolab.results import read_flat
from nanolab.tracking import run_writer

COUNTS = {"passed": 50.0, "total": 100.0, "low": 0.4, "high": 0.6, "positions_per_problem": 95.0}


def rows_of(step, values):
    return [
        {key: value for key, value in row.items() if value != ""}
        for score in read_flat(step, values)
        for row in results_csv.score_rows(score)
    ]


def test_power_sampling_and_each_method_is_a_row_of_its_own():
    values = {
        "gsm8k": 0.585,
        **COUNTS,
        "acceptance": 0.7,
        **{f"greedy/{key}": value for key, value in COUNTS.items()},
        "greedy/accuracy": 0.55,
        "greedy/p_value": 0.02,
        "plain/pass_at_4": 0.7,
        "plain/pass_at_4_low": 0.6,
        "plain/pass_at_4_high": 0.8,
        "greedy/no_tool_share": 0.1,
    }
    details = {"low": 0.4, "high": 0.6, "n": 100.0, "positions": 95.0}
    assert rows_of("power_eval", values) == [
        {"task": "gsm8k", "metric": "accuracy", "method": "power", "value": 0.585, **details},
        {"metric": "acceptance", "value": 0.7},
        {
            "task": "gsm8k",
            "metric": "accuracy",
            "method": "greedy",
            "value": 0.55,
            **details,
            "p_value": 0.02,
        },
        {
            "task": "gsm8k",
            "metric": "pass_at_4",
            "method": "plain",
            "value": 0.7,
            "low": 0.6,
            "high": 0.8,
        },
        {"metric": "greedy/no_tool_share", "value": 0.1},
    ]


def test_tasks_of_an_evaluation_and_the_two_sides_of_reinforcement_learning():
    values = {
        "mmlu": 0.5,
        "mmlu/n": 200.0,
        "mmlu/low": 0.4,
        "mmlu/high": 0.6,
        "mmlu/passed": 100.0,
        "mmlu/macro": 0.45,
        "chat_core": 0.1,
    }
    assert rows_of("chat_eval_sft", values) == [
        {"task": "mmlu", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 200.0},
        {"task": "mmlu", "metric": "macro", "value": 0.45},
        {"metric": "chat_core", "value": 0.1},
    ]
    values = {
        "greedy/before": 0.5,
        "greedy/before_low": 0.4,
        "greedy/before_high": 0.6,
        "greedy/before_passed": 50.0,
        "greedy/after": 0.7,
        "greedy/after_low": 0.6,
        "greedy/after_high": 0.8,
        "greedy/after_passed": 70.0,
        "greedy/n": 100.0,
        "greedy/p_value": 0.001,
    }
    before, after = rows_of("rl", values)
    assert before == {
        "task": "gsm8k",
        "metric": "accuracy",
        "method": "greedy",
        "setting": "before",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 100.0,
    }
    assert after["setting"] == "after" and after["p_value"] == 0.001


def test_a_task_of_core_is_told_from_the_chat_task_of_its_name():
    one = {"": 0.25, "/n": 4.0, "/passed": 1.0, "/low": 0.05, "/high": 0.7, "/chance": 0.25}
    values = {
        "CORE": 0.1,
        **{
            f"{task}{key}": value
            for task in ("core/arc_easy", "core/sums", "arc_easy")
            for key, value in one.items()
        },
    }
    accuracy = {"metric": "accuracy", "value": 0.25, "low": 0.05, "high": 0.7, "n": 4.0}
    chance = {"metric": "chance", "value": 0.25}
    core = [
        {"task": task, "setting": "core", **row}
        for task in ("arc_easy", "sums")
        for row in (accuracy, chance)
    ]
    assert rows_of("base_eval", values) == [
        {"metric": "CORE", "value": 0.1},
        *core,
        {"task": "arc_easy", **accuracy},
        {"task": "arc_easy", **chance},
    ]


def test_an_execution_becomes_a_table_with_its_runs_commit_and_grid_points(store):
    parent = run_writer.open_execution({"experiment": "own"}, "own now", "scripts/run_all.py", {})
    start = round(time.time() * 1000)
    runs = {}
    for step, final, params in (
        ("sft", {"loss": 2.0}, {}),
        ("power_ablation", {"points": 1}, {"source": "rl", "task": "gsm8k"}),
        ("report", {"steps_reported": 2}, {}),
    ):
        runs[step] = run_writer.open_step(
            parent, step, "0123456789ab", params, {"earlier_seconds": "5.0"}, start
        )
        run_writer.set_tag(runs[step], "mlflow.source.git.commit", "c0ffee")
        run_writer.set_tag(runs[step], "git.dirty", "true")
        run_writer.log_metrics(runs[step], {f"final/{key}": value for key, value in final.items()})
        run_writer.close_run(runs[step], "FINISHED", start + 10_000)
    point = run_writer.open_point(runs["power_ablation"], "alpha=4", start)
    run_writer.log_params(
        point, {"method": "power", "alpha": 4.0, "temperature": 0.7, "num_steps": 10, "n": None}
    )
    run_writer.log_metrics(point, {"accuracy": 0.5, **COUNTS, "p_value": 0.3})
    text = results_csv.to_csv(results_csv.of_execution(parent))
    loss, points, grid = csv.DictReader(io.StringIO(text))
    assert tuple(loss) == results_csv.COLUMNS
    assert (
        loss["study"],
        loss["execution"],
        loss["step"],
        loss["model"],
        loss["metric"],
        loss["value"],
    ) == ("own", parent, "sft", "sft", "loss", "2.0")
    assert (
        float(loss["seconds"]) == pytest.approx(15)
        and loss["run_id"] == runs["sft"]
        and loss["commit"] == "c0ffee-dirty"
    )
    assert points["metric"] == "points" and points["model"] == "rl"
    assert (grid["run_id"], grid["method"], grid["setting"]) == (
        point,
        "power",
        "alpha=4 temperature=0.7 num_steps=10",
    )
    assert (grid["task"], grid["n"], grid["p_value"], grid["positions"]) == (
        "gsm8k",
        "100.0",
        "0.3",
        "95.0",
    )
