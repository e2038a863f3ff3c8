"""Claims: a study of a model from outside has a report of its own form: a column, what was asked
and how, no empty training; and positions of two engines never share a column.
"""

import copy
import json
import time
from pathlib import Path

import pytest

from nanolab import results
from nanolab.__main__ import main
from nanolab.evals import published
from nanolab.report import (
    compare,
    document,
    html_page,
    outside,
    published_figures,
    results_csv,
    store_values,
    tables,
)
from nanolab.results import Score
from nanolab.stages import report as report_stage
from nanolab.tracking import environment, notes, run_reader, run_writer
from nanolab.tracking.journal import Run

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
SOURCE = "hf:org/Small-1B-Instruct@main"


@pytest.fixture
def values():
    found = json.loads((HERE / "outside_values.json").read_text())
    rows = {step: results.from_json(rows) for step, rows in found["rows"].items()}
    return found | {"rows": rows}


def headings(text):
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_the_report_of_a_model_from_outside_byte_for_byte(values):
    assert document.render(values).encode() == (HERE / "outside_report.md").read_bytes()


def test_a_step_that_the_study_lists_and_did_not_run_is_said_and_no_other(values):
    del values["steps"]["power_eval"]
    power = "Power sampling evaluation"
    assert headings(document.render(values))[2:4] == [
        "Chat evaluation of Small-1B-Instruct",
        power,
    ]
    values["listed"] = ["base_train", *values["listed"]]  # a training: the whole form
    assert {"Tokenizer training", "Chat SFT", power, "Chat RL"} < set(
        headings(document.render(values))
    )


def test_beside_models_trained_here_it_has_a_column_more(values):
    trained = json.loads((GOLDEN / "reference_values.json").read_text())
    trained["steps"]["chat_eval_hf"] = values["steps"]["chat_eval_hf"]
    text = document.render(trained)
    names = ("BASE", "MID", "SFT", "POWER", "Small-1B-Instruct")
    (header,) = [line for line in text.splitlines() if line.startswith("| Metric ")]
    assert tuple(cell.strip() for cell in header.split("|")[2:-1]) == names
    assert "| 0.0455   | 0.0456   | 0.0758   | 0.0875   | 0.1000            |" in text
    assert "## Chat RL\n- status: skipped" in text  # the form of a training stays
    trained["steps"]["base_eval"]["source"] = SOURCE  # then the base model was not asked
    assert list(outside.columns(trained["steps"])) == [
        *("MID", "SFT", "POWER", "Small-1B-Instruct", "Small-1B-Instruct as text")
    ]


def test_two_models_of_one_name_are_told_apart_by_their_sources(values):
    other = "hf:mirror/Small-1B-Instruct"
    values["steps"]["power_eval"]["source"] = other
    assert list(outside.columns(values["steps"])) == [SOURCE, f"{other} POWER"]


def test_a_step_that_has_other_tasks_shows_those(values):
    rows = [Score("accuracy", 0.25, "humaneval", model=SOURCE, method="power", n=4, passed=1)]
    step = {**values["steps"]["power_eval"], "task": "humaneval", **results.flat(rows)}
    del step["gsm8k"]
    values["steps"]["power_eval"], values["rows"]["power_eval"] = step, rows
    text = document.render(values).split("## Power sampling evaluation")[1].split("\n## ")[0]
    assert "- HumanEval: 0.2500" in text and "GSM8K" not in text


def figure(task, value=0.5, method="", settings=(), differs="another harness"):
    of = ("org/Small-1B-Instruct", task, method, dict(settings))
    return published.Figure(*of, value, None, "a paper", "", differs)


def test_a_published_figure_stands_beside_ours_of_its_method_with_what_differs(values, monkeypatch):
    given = [
        figure("gsm8k"),
        figure("gsm8k", method="power", settings={"alpha": 4.0}),
        figure("gsm8k", method="power", settings={"alpha": 2.0}),
        figure("gsm8k", method="grpo", differs=""),
        figure("arc", 0.373),
        figure("mmlu"),  # which was not asked
    ]
    monkeypatch.setattr(published, "rows", lambda: given)
    found = published_figures.beside(values["steps"], values["rows"])
    assert [(row["task"], row["method"], row["value"], row["differs"]) for row in found] == [
        ("gsm8k", "", 0.1, "another harness"),
        ("gsm8k", "power", 0.2, "another harness"),
        ("gsm8k", "power", None, "another harness"),
        ("gsm8k", "grpo", None, ""),
        ("arc", "", pytest.approx(0.325), "another harness; a choice by its letter here"),
    ]
    assert found[0]["n"] == 20 and found[0]["low"] is not None and found[4]["n"] == 40
    for step in values["steps"].values():
        step["data"] = "embedded"  # whose GSM8K has no more than the name of the published one
    assert published_figures.beside(values["steps"], values["rows"]) == []
    values["steps"] = {"sft": {"loss": 1.0}}
    assert published_figures.beside(values["steps"], {}) == []


def test_positions_of_two_engines_stand_in_two_columns():
    line = {"model": SOURCE, "task": "gsm8k", "method": "power", "accuracy": 0.5, "p_value": None}
    lines = [
        {**line, "positions_per_problem": 90.0, "engine": "nanolab"},
        {**line, "positions_per_problem": 70.0, "engine": "vllm"},
    ]
    table = tables.sharpening(lines)
    assert table.header[-3:-1] == (
        "positions per problem, nanolab",
        "positions per problem, vllm",
    )
    assert [row[-3:-1] for row in table.rows] == [("90.0", "-"), ("-", "70.0")]
    assert "positions per problem" in tables.sharpening(lines[:1]).header


# ---- stores


def log_study(name, source, values, engine="nanolab", accuracy=0.1):
    """An execution that asked a model from outside, as the pipeline records it."""
    listed = str(values["listed"])
    parent = run_writer.open_execution(
        {"experiment": name, "steps": listed},
        f"{name} now",
        "scripts/run_all.py",
        {"environment.json": json.dumps(environment.unknown())},
    )
    for step, found in values["steps"].items():
        start = round(time.time() * 1000)
        rows = results.of_model(values["rows"][step], source)
        facts = json.loads(found["model"]) | {"source": source, "engine": engine}
        settings = {
            key: value
            for key, value in found.items()
            if isinstance(value, str) and key not in ("data", "data.seed", "model")
        }
        settings |= {"source": source, "engine": engine}
        settings |= {f"model.{key}": value for key, value in facts.items()}
        run_id = run_writer.open_step(parent, step, "0123456789ab", settings, {}, start)
        numbers = results.flat(rows) | {"gsm8k": accuracy}
        run_writer.log_metrics(run_id, {f"final/{key}": one for key, one in numbers.items()})
        run_writer.set_tag(run_id, "final/model", json.dumps(facts))
        run_writer.log_curves(run_id, [("system/processes_memory_megabytes", 2000.0, start + 1, 1)])
        run_writer.close_run(run_id, "FINISHED", start + 30_000)
    return parent


@pytest.fixture
def two(store, values):
    """Two studies of two models, on two engines."""
    for step in values["steps"]:
        values["rows"][step] = [
            row for row in values["rows"][step] if not row.metric.endswith("_share")
        ]
    return (
        log_study("first", SOURCE, values),
        log_study("second", "hf:org/Other-1B", copy.deepcopy(values), "vllm", accuracy=0.25),
    )


def test_a_store_gives_report_page_figures_and_table_with_the_models_name(two, tmp_path):
    with Run(tmp_path) as run:
        report_stage.compile_report(two[0], tmp_path, run, "A title")
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert headings(text) == [
        "Environment",
        "Model Small-1B-Instruct",
        "Chat evaluation of Small-1B-Instruct",
        "Power sampling evaluation of Small-1B-Instruct",
        "Summary",
    ]
    assert "- peak memory: 1.86 GiB" in text and "figures/tasks.png" in text
    assert (tmp_path / "figures" / "tasks.csv").read_text().count("Small-1B-Instruct,") == 3
    assert "<th>Small-1B-Instruct</th>" in page and "Small-1B-Instruct POWER" in page
    assert "Small-1B-Instruct model" in page and ">sft<" not in page
    csv = (tmp_path / "results.csv").read_text().splitlines()
    column = results_csv.COLUMNS.index("engine")
    assert {line.split(",")[column] for line in csv[1:]} == {"nanolab"} and SOURCE in csv[1]
    notes.describe_execution(two[0])
    execution = run_reader.record(two[0])
    said = "GSM8K: Small-1B-Instruct power 0.1000 (n = 20), Small-1B-Instruct 0.1000 (n = 20)"
    assert execution.tags["result"].startswith(said)
    assert execution.metrics["gsm8k/outside"] == 0.1
    step = run_reader.children(two[0])[0].tags["mlflow.note.content"]
    assert "Small-1B-Instruct: 1,234,567,890 parameters" in step


def test_two_models_from_outside_compare_and_speeds_of_two_engines_say_so(two, capsys):
    rows = compare.differences(*map(compare.find, ("first", "second")))
    (asked,) = [
        row
        for row in rows
        if row["kind"] == "accuracy" and row["step"] == "chat_eval_hf"
        if row["task"] == "gsm8k"
    ]
    assert (asked["a"], asked["b"], asked["model"]) == (0.1, 0.25, f"{SOURCE}, hf:org/Other-1B")
    speeds = {row["note"] for row in rows if row["metric"] in compare.SPEEDS}
    assert speeds == {"the engines differ (nanolab, vllm)"}
    assert main(["compare", "first", "second"]) == 0
    printed = capsys.readouterr().out
    assert ", of Small-1B-Instruct\n" in printed and ", of Other-1B\n" in printed


def test_the_steps_that_a_study_lists_come_from_its_execution(two):
    execution = run_reader.record(two[0])
    assert store_values.listed_steps(execution) == [
        *("chat_eval_hf", "power_eval", "power_ablation", "report")
    ]
    found = store_values.collect(two[0])
    assert html_page.render(found | {"figures": {}}, Path(), "http://127.0.0.1:5000")
