"""Claims: studies stand side by side with their intervals, costs and the settings in which they
differ.
"""

import dataclasses

import pytest

from nanolab.errors import UserError
from nanolab.figures import comparison
from nanolab.notebook import records, side_by_side
from nanolab.tracking import run_reader
from nanolab.tracking.run_reader import RunRecord


def run(step, seconds=10.0, params=None, **metrics):
    final = {f"final/{key.replace('__', '/')}": float(value) for key, value in metrics.items()}
    values = {
        "id": f"{step}-id",
        "name": step,
        "status": "FINISHED",
        "start": 0,
        "end": round(1000 * seconds),
        "params": params or {},
        "metrics": final,
        "tags": {"step": step},
    }
    return RunRecord(
        **{field.name: values.get(field.name, "") for field in dataclasses.fields(RunRecord)}
    )


def power(accuracy):
    return run(
        "power_eval",
        gsm8k=accuracy,
        passed=50,
        total=100,
        low=0.4,
        high=0.6,
        positions_per_problem=400,
        greedy__accuracy=0.3,
        greedy__passed=30,
        greedy__total=100,
        greedy__low=0.2,
        greedy__high=0.4,
        greedy__positions_per_problem=95,
    )


@pytest.fixture
def compared(monkeypatch):
    monkeypatch.setattr(records, "run_address", lambda run_id: f"http://127.0.0.1:5000/{run_id}")
    monkeypatch.setattr(run_reader, "artifact_names", lambda run_id: [])  # no rows but flat metrics
    runs = {
        "a": {
            "sft": run("sft", 60, {"steps": "500", "seed": "0"}, validation_bits_per_byte=0.1234),
            "power_eval": power(0.5),
            "chat_eval_sft": run(
                "chat_eval_sft",
                mmlu=0.6,
                mmlu__low=0.5,
                mmlu__high=0.7,
                mmlu__passed=120,
                mmlu__n=200,
            ),
        },
        "b": {"sft": run("sft", 30, {"steps": "250", "seed": "0"}), "power_eval": power(0.7)},
    }
    return side_by_side.Comparison({"a": "execution a", "b": "execution b"}, runs)


def test_the_settings_that_differ_are_named(compared):
    assert compared.differences() == {"sft.steps": ["500", "250"]}
    assert (
        "1 settings differ" in compared.overview().data
        and "execution b" in compared.overview().data
    )


def test_tables_have_a_column_a_study_and_a_dash_where_it_has_no_number(compared):
    tasks = compared.tasks().data
    assert (
        tasks.index("0.123") < tasks.index("60.0%")
        and "[50.0%, 70.0%] · 120 of 200" in tasks
        and "–" in tasks
    )
    table = compared.power_table().data
    assert "50.0%" in table and "70.0%" in table and ">95 positions<" in table and "greedy" in table
    assert table.startswith(
        '<div style="overflow-x:auto"><table'
    )  # whatever does not fit can be reached


def test_studies_that_answered_other_problems_are_not_called_comparable(compared):
    assert "GSM8K: a and b of 100, not known to be the same problems" in compared.power_table().data
    digests = {"a": "d1", "b": "d1"}
    for study, runs in compared.runs.items():
        runs["power_eval"] = dataclasses.replace(
            runs["power_eval"], params={"problems.gsm8k.test": digests[study]}
        )
    assert "Problems, the same in every study of a row: GSM8K 100." in compared.power_table().data
    compared.runs["b"]["power_eval"] = dataclasses.replace(
        compared.runs["b"]["power_eval"], params={"problems.gsm8k.test": "d2"}
    )
    assert (
        "GSM8K: a of 100, b of 100, not the same problems: compare only within these groups"
        in compared.power_table().data
    )


def test_the_base_models_bits_per_byte_are_those_of_base_loss_with_error_and_tokens(compared):
    """Training reads fewer rows for its curve; a model has one figure."""
    compared.runs["a"]["base_train"] = run("base_train", validation_bits_per_byte=0.4424)
    assert "0.442" in compared.tasks().data
    compared.runs["a"]["base_loss"] = run(
        "base_loss",
        validation_bits_per_byte=0.4539,
        validation_bits_per_byte_se=0.0159,
        validation_tokens=11992,
    )
    html = compared.tasks().data
    assert (
        "0.4539" in html and "± 0.0159" in html and "11,992 tokens" in html and "0.442" not in html
    )


def test_positions_of_different_engines_are_refused_with_the_reason(compared):
    for study, engine in (("a", "nanolab"), ("b", "vllm")):
        found = compared.runs[study]["power_eval"]
        params = {"engine": engine, "source": "hf:org/Model-1B"}
        compared.runs[study]["power_eval"] = dataclasses.replace(found, params=params)
    assert "a nanolab, b vllm" in compared.power().data
    table = compared.power_table().data
    assert "50.0%" in table and "positions" not in table


def test_a_model_from_outside_has_rows_of_its_own(compared):
    params = {"source": "hf:org/Model-1B"}
    own = run("chat_eval_hf", params=params, mmlu=0.25, mmlu__n=100)
    compared.runs["b"]["chat_eval_hf"] = own
    table = compared.tasks().data
    assert table.index("SFT") < table.index("Model-1B") and "25.0%" in table


def test_costs_are_the_seconds_of_each_step_and_in_all(compared):
    costs = compared.costs().data
    assert "1:00" in costs and "<b>1:20</b>" in costs and "<b>40.0 s</b>" in costs


def test_figures_have_a_line_or_a_mark_for_each_study():
    curve = {"train/loss": [(step, 5 / step) for step in range(1, 101)]}
    figure, frame = comparison.losses(
        {"sft": {"a": curve, "b": curve}, "base_train": {"b": curve}},
        side_by_side.TRAINED,
        ["a", "b"],
    )
    assert len(frame) == 300 and [len(axis.lines) for axis in figure.axes] == [2, 1]
    assert (
        figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    )  # a study keeps its colour
    figure, frame = comparison.rewards({"b": {"train/reward": [(1, 0.5), (2, 0.7)]}}, ["a", "b"])
    assert len(frame) == 2 and len(figure.axes[0].lines) == 1
    rows = [
        {"method": method, "accuracy": 0.5, "low": 0.4, "high": 0.6, "positions_per_problem": 100.0}
        for method in ("power", "greedy")
    ]
    figure, frame = comparison.accuracy_by_cost({"a": rows, "b": rows[:1]})
    assert len(frame) == 3 and [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]


def test_an_unknown_study_is_refused_and_an_empty_store_says_what_to_run(store):
    assert side_by_side.choose([]).overview().data == records.NOTHING
    with pytest.raises(UserError, match="no study 'smokee'"):
        side_by_side.choose(["smokee"])
    empty = side_by_side.choose([])
    assert (
        empty.curves()
        is empty.rewards()
        is empty.tasks()
        is empty.power()
        is empty.power_table()
        is empty.costs()
        is None
    )
