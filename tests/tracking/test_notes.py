"""What people read in the MLflow UI is there, is right, and leads where it says."""

import json
import re
from types import SimpleNamespace

import pytest

from nanolab import files
from nanolab.notebook.page import write_page
from nanolab.settings.config import STEPS
from nanolab.tracking import notes, run_reader, run_writer, views
from nanolab.tracking.store import client


def log_step(parent, step, final, name="", fingerprint="0123456789ab", tags=None):
    tags = {"mlflow.runName": name or step} | (tags or {})
    run = run_writer.open_step(parent, step, fingerprint, {}, tags)
    run_writer.log_metrics(run, {f"final/{key}": value for key, value in final.items()})
    run_writer.close_run(run, "FINISHED")
    return run


@pytest.fixture
def study(store):
    """An execution of two steps and a grid point, described."""
    parent = run_writer.open_execution(
        {"experiment": "tiny", "description": "A tiny study."}, "tiny now", "scripts/run_all.py"
    )
    sft = log_step(parent, "sft", {"loss": 0.5, "steps": 4}, "01 sft")
    best = {"best_accuracy": 0.5, "best_low": 0.25, "best_high": 0.75, "points": 1, "problems": 4}
    ablation = log_step(
        parent,
        "power_ablation",
        best,
        "02 power_ablation",
        tags={"input.sft": "work/tiny/sft/0123456789ab"},
    )
    point = run_writer.open_point(ablation, "α=4 T=.7 2 steps", 1000)
    run_writer.close_run(parent, "FINISHED")
    notes.describe_execution(parent)
    views.save_views(parent)
    return {"parent": parent, "sft": sft, "power_ablation": ablation, "point": point}


def test_every_step_has_a_description_and_a_main_result():
    for step, spec in STEPS.items():
        assert len(notes.about(step)) > 15, step
        assert step in notes.RESULTS or spec.module in notes.RESULTS, step
    assert notes.about("sft") == "Supervised fine-tuning on the assistant's tokens."
    assert notes.about("of no study") == ""


def test_a_main_result_leaves_out_what_is_not_known():
    values = {
        "gsm8k": 0.585,
        "low": 0.536,
        "high": 0.632,
        "positions_per_problem": 404.4,
        "greedy/accuracy": 0.555,
    }
    assert (
        notes.result_of("power_eval_rl", values)
        == "GSM8K 0.5850 [0.5360, 0.6320] at 404 positions, greedy 0.5550"
    )
    assert notes.result_of("chat_eval_sft", {"gsm8k": 0.5, "mmlu": None}) == "GSM8K 0.5000"
    assert notes.result_of("unknown", values) == "" and notes.result_of("sft", {}) == ""


def test_models_beside_each_other_say_how_many_problems_they_are_of():
    def run(accuracy, n, digest, count="gsm8k/n"):
        return SimpleNamespace(
            metrics={"final/gsm8k": accuracy, f"final/{count}": float(n)},
            params={"problems.gsm8k.test": digest},
        )

    same = {"chat_eval_sft": run(0.75, 400, "d"), "power_eval": run(0.785, 400, "d", "total")}
    assert notes.word_problems(same) == "GSM8K: sft 0.7500 (n = 400), power 0.7850 (n = 400)"
    other = same | {"chat_eval_sft": run(0.79, 200, "e")}
    assert (
        notes.word_problems(other)
        == "GSM8K: sft 0.7900 (n = 200), power 0.7850 (n = 400), not the same problems"
    )
    older = same | {"chat_eval_sft": run(0.79, 400, "")}
    assert notes.word_problems(older).endswith(", not known to be the same problems")
    alone = {"chat_eval_sft": run(0.79, 400, "", "samples")}
    assert notes.word_problems(alone) == "GSM8K: sft 0.7900"
    assert notes.word_problems({}) == ""


def test_a_result_in_words_has_its_number_of_problems_and_tokens():
    assert (
        notes.result_of("chat_eval_sft", {"gsm8k": 0.5, "gsm8k/n": 400.0})
        == "GSM8K 0.5000 (n = 400)"
    )
    learned = {
        "greedy/before": 0.79,
        "greedy/after": 0.88,
        "greedy/n": 200.0,
        "greedy/p_value": 0.00091,
    }
    told = "GSM8K greedy before 0.7900 (n = 200), GSM8K greedy after 0.8800 (n = 200, p 0.00091)"
    assert notes.result_of("rl", learned) == told
    assert notes.headline("rl", learned) == "GSM8K greedy before 0.7900, GSM8K greedy after 0.8800"
    assert notes.headline_keys("rl", learned) == ["greedy/before", "greedy/after", "greedy/n"]
    measured = {
        "validation_bits_per_byte": 0.4539,
        "validation_bits_per_byte_se": 0.0123,
        "validation_tokens": 12240.0,
    }
    told = "validation bits per byte 0.4539 (± 0.0123, 12,240 tokens)"
    assert notes.headline("base_train", measured) == told
    assert (
        notes.result_of("base_loss", measured)
        == "validation bits per byte 0.4539 (± 0.0123, 12,240 tokens)"
    )


def test_descriptions_lead_from_run_to_run(study):
    runs = {name: run_reader.record(run_id) for name, run_id in study.items()}
    note = runs["power_ablation"].tags["mlflow.note.content"]
    assert note.startswith("reads [01 sft](#/experiments/1/runs/" + study["sft"])
    best = "accuracy of the best point 0.5000 [0.2500, 0.7500]"
    assert f"\n\n**{best}, chosen among points 1, problems a point 4**\n\n" in note
    assert note.endswith(notes.about("power_ablation"))  # the UI hides the end
    assert runs["sft"].tags["result"] == "loss 0.500, steps 4"
    whole = runs["parent"].tags["mlflow.note.content"]
    assert whole.startswith("A tiny study.") and re.findall(r"\[(\d\d \w+)\]", whole) == [
        "01 sft",
        "02 power_ablation",
    ]
    assert {run.tags["execution"] for run in runs.values()} == {study["parent"]}


def latest():
    return {run.tags["step"]: run.id for run in run_reader.search("tiny", "tags.latest = 'true'")}


def shown(view):
    """The runs that a view shows."""
    state = json.loads(json.loads(client().get_experiment("1").tags[views.PREFIX + view])["state"])
    return {run.id for run in run_reader.search("tiny", state["searchFilter"])}


def test_a_notebook_run_beside_a_study_changes_none_of_its_views(study):
    """Its model is another one than that of the study's evaluations."""
    alone = run_writer.open_execution(
        {"experiment": "tiny"}, "tiny alone", "notebooks/06_sft.ipynb"
    )
    log_step(alone, "sft", {"loss": 0.1}, "01 sft")
    run_writer.close_run(alone, "FINISHED")
    views.save_views(alone)
    assert latest() == {"sft": study["sft"], "power_ablation": study["power_ablation"]}
    assert shown(views.TREE) == {
        study["parent"],
        study["sft"],
        study["power_ablation"],
        study["point"],
    }


def test_a_study_of_notebooks_alone_shows_the_newest_run_of_each_step(store):
    made = []
    for step in ("sft", "rl", "sft"):
        alone = run_writer.open_execution(
            {"experiment": "tiny"}, "tiny alone", "notebooks/06_sft.ipynb"
        )
        made.append(log_step(alone, step, {"loss": 0.1}))
        run_writer.close_run(alone, "FINISHED")
        views.save_views(alone)
    assert latest() == {"sft": made[2], "rl": made[1]} and shown(views.TREE) == {
        alone,
        made[2],
    }


def test_views_show_the_newest_execution_of_run_all_and_the_points_of_its_ablation(study):
    again = run_writer.open_execution({"experiment": "tiny"}, "tiny again", "scripts/run_all.py")
    newer = log_step(again, "sft", {"loss": 0.4}, "01 sft")
    run_writer.set_tag(again, "reused.power_ablation", study["power_ablation"])
    run_writer.close_run(again, "FINISHED")
    views.save_views(again)
    assert latest() == {"sft": newer, "power_ablation": study["power_ablation"]}
    tags = client().get_experiment("1").tags
    want = {
        views.STEPS: {newer, study["power_ablation"]},
        views.TREE: {again, newer},
        views.GRID: {study["point"]},
    }
    assert {key: shown(key) for key in want} == want and set(want) == set(views.NAMES)
    assert views.address("tiny") == "http://127.0.0.1:5000/" + views.page("1", views.STEPS)
    assert study["point"] in tags["mlflow.note.content"]  # the points side by side


def test_a_run_with_a_metric_that_is_no_number_stays_the_latest(study):
    """NaN differs from itself: records of one run, read twice, are unequal."""
    again = run_writer.open_execution({"experiment": "tiny"}, "tiny again", "scripts/run_all.py")
    diverged = log_step(again, "sft", {"loss": float("nan")}, "01 sft")
    run_writer.close_run(again, "FINISHED")
    for _ in range(2):
        views.save_views(again)
        assert run_reader.record(diverged).tags["latest"] == "true"


def test_a_large_grid_is_compared_in_part_so_that_the_address_fits_a_tag(study):
    points = [f"{number:032x}" for number in range(5000)]
    note = views.study_note(run_reader.record(study["parent"]), [views.GRID], points)
    assert (
        len(note) < 20_000
        and "(the first 100 of 5000 points)" in note
        and points[99] in note
        and points[100] not in note
    )
    assert "the first" not in views.study_note(
        run_reader.record(study["parent"]), [views.GRID], points[:100]
    )


def test_the_page_of_a_notebook_needs_nothing_from_the_network(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text((files.ROOT / "notebooks" / "01_tokenizer.ipynb").read_text())
    page = write_page(path).read_text()
    assert "Trains a byte-level BPE tokenizer" in page and not re.findall(
        r'(?:src|href)="https?://', page
    )
