"""What people read in the MLflow UI is there, is right, and leads where it says."""

import json
import re

import pytest

from nanolab import files, tracking, tracking_notes, tracking_views
from nanolab.config import STEPS
from nanolab.notebook_page import write_page


def log_step(parent, step, final, name="", fingerprint="0123456789ab", tags=None):
    run = tracking.open_step("tiny", parent, step, fingerprint, {}, tags or {}, name=name)
    tracking.log_metrics(run, {f"final/{key}": value for key, value in final.items()})
    tracking.close_run(run, "FINISHED")
    return run


@pytest.fixture
def study(store):
    """An execution of two steps and a grid point, described."""
    parent = tracking.open_execution(
        {"experiment": "tiny", "description": "A tiny study."}, "tiny now", "scripts/run_all.py"
    )
    sft = log_step(parent, "sft", {"loss": 0.5, "steps": 4}, "01 sft")
    ablation = log_step(
        parent,
        "power_ablation",
        {"best_accuracy": 0.5, "points": 1, "problems": 4},
        "02 power_ablation",
        tags={"input.sft": "work/tiny/sft/0123456789ab"},
    )
    point = tracking.open_point(ablation, "α=4 T=.7 2 steps", 1000)
    tracking.close_run(parent, "FINISHED")
    tracking_notes.describe_execution(parent)
    tracking_views.save_views(parent)
    return {"parent": parent, "sft": sft, "power_ablation": ablation, "point": point}


def test_every_step_has_a_description_and_a_main_result():
    for step, spec in STEPS.items():
        assert step in tracking_notes.ABOUT or spec.module in tracking_notes.ABOUT, step
        assert step in tracking_notes.RESULTS or spec.module in tracking_notes.RESULTS, step


def test_a_main_result_leaves_out_what_is_not_known():
    values = {
        "gsm8k": 0.585,
        "low": 0.536,
        "high": 0.632,
        "positions_per_problem": 404.4,
        "greedy/accuracy": 0.555,
    }
    assert (
        tracking_notes.result_of("power_eval_rl", values)
        == "GSM8K 0.585 [0.536, 0.632] at 404 positions"
    )
    assert tracking_notes.result_of("chat_eval_sft", {"gsm8k": 0.5, "mmlu": None}) == "GSM8K 0.500"
    assert (
        tracking_notes.result_of("unknown", values) == ""
        and tracking_notes.result_of("sft", {}) == ""
    )


def test_descriptions_lead_from_run_to_run(study):
    runs = {name: tracking.record(run_id) for name, run_id in study.items()}
    note = runs["power_ablation"].tags["mlflow.note.content"]
    assert note.startswith(
        "**best 0.500 of 1 points on 4 problems**\n\nreads [01 sft](#/experiments/1/runs/"
        + study["sft"]
    )
    assert note.endswith(tracking_notes.ABOUT["power_ablation"])  # the UI hides the end
    assert runs["sft"].tags["result"] == "loss 0.500, 4 steps"
    whole = runs["parent"].tags["mlflow.note.content"]
    assert whole.startswith("A tiny study.") and re.findall(r"\[(\d\d \w+)\]", whole) == [
        "01 sft",
        "02 power_ablation",
    ]
    assert {run.tags["execution"] for run in runs.values()} == {study["parent"]}


def latest():
    return {run.tags["step"]: run.id for run in tracking.search("tiny", "tags.latest = 'true'")}


def shown(view):
    """The runs that a view shows."""
    state = json.loads(
        json.loads(tracking.client().get_experiment("1").tags[tracking_views.PREFIX + view])[
            "state"
        ]
    )
    return {run.id for run in tracking.search("tiny", state["searchFilter"])}


def test_a_notebook_run_beside_a_study_changes_none_of_its_views(study):
    """Its model is another one than that of the study's evaluations."""
    alone = tracking.open_execution({"experiment": "tiny"}, "tiny alone", "notebooks/06_sft.ipynb")
    log_step(alone, "sft", {"loss": 0.1}, "01 sft")
    tracking.close_run(alone, "FINISHED")
    tracking_views.save_views(alone)
    assert latest() == {"sft": study["sft"], "power_ablation": study["power_ablation"]}
    assert shown(tracking_views.TREE) == {
        study["parent"],
        study["sft"],
        study["power_ablation"],
        study["point"],
    }


def test_a_study_of_notebooks_alone_shows_the_newest_run_of_each_step(store):
    made = []
    for step in ("sft", "rl", "sft"):
        alone = tracking.open_execution(
            {"experiment": "tiny"}, "tiny alone", "notebooks/06_sft.ipynb"
        )
        made.append(log_step(alone, step, {"loss": 0.1}))
        tracking.close_run(alone, "FINISHED")
        tracking_views.save_views(alone)
    assert latest() == {"sft": made[2], "rl": made[1]} and shown(tracking_views.TREE) == {
        alone,
        made[2],
    }


def test_views_show_the_newest_execution_of_run_all_and_the_points_of_its_ablation(study):
    again = tracking.open_execution({"experiment": "tiny"}, "tiny again", "scripts/run_all.py")
    newer = log_step(again, "sft", {"loss": 0.4}, "01 sft")
    tracking.set_tag(again, "reused.power_ablation", study["power_ablation"])
    tracking.close_run(again, "FINISHED")
    tracking_views.save_views(again)
    assert latest() == {"sft": newer, "power_ablation": study["power_ablation"]}
    tags = tracking.client().get_experiment("1").tags
    want = {
        tracking_views.STEPS: {newer, study["power_ablation"]},
        tracking_views.TREE: {again, newer},
        tracking_views.GRID: {study["point"]},
    }
    assert {key: shown(key) for key in want} == want and set(want) == set(tracking_views.NAMES)
    assert tracking_views.address("tiny") == "http://127.0.0.1:5000/" + tracking_views.page(
        "1", tracking_views.STEPS
    )
    assert study["point"] in tags["mlflow.note.content"]  # the points side by side


def test_a_run_with_a_metric_that_is_no_number_stays_the_latest(study):
    """NaN differs from itself: records of one run, read twice, are unequal."""
    again = tracking.open_execution({"experiment": "tiny"}, "tiny again", "scripts/run_all.py")
    diverged = log_step(again, "sft", {"loss": float("nan")}, "01 sft")
    tracking.close_run(again, "FINISHED")
    for _ in range(2):
        tracking_views.save_views(again)
        assert tracking.record(diverged).tags["latest"] == "true"


def test_a_large_grid_is_compared_in_part_so_that_the_address_fits_a_tag(study):
    points = [f"{number:032x}" for number in range(5000)]
    note = tracking_views.study_note(
        tracking.record(study["parent"]), [tracking_views.GRID], points
    )
    assert (
        len(note) < 20_000
        and "(the first 100 of 5000 points)" in note
        and points[99] in note
        and points[100] not in note
    )
    assert "the first" not in tracking_views.study_note(
        tracking.record(study["parent"]), [tracking_views.GRID], points[:100]
    )


def test_the_page_of_a_notebook_needs_nothing_from_the_network(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text((files.ROOT / "notebooks" / "01_tokenizer.ipynb").read_text())
    page = write_page(path).read_text()
    assert "Trains a byte-level BPE tokenizer" in page and not re.findall(
        r'(?:src|href)="https?://', page
    )
