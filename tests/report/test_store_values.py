"""Claims: what the pipeline logs to MLflow comes back as the values of the report; only finished
runs count; reuse is followed.
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanolab import results
from nanolab.errors import UserError
from nanolab.notebook import stage_results
from nanolab.report import document, store_values
from nanolab.results import Score
from nanolab.settings.config import STEPS
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study
from nanolab.stages import report as report_stage
from nanolab.tracking import environment, run_reader, run_writer
from nanolab.tracking.journal import Run
from nanolab.tracking.store import client

GOLDEN = Path(__file__).parent.parent / "golden"
# settings of ours that the reference does not print; each is an extra line, which appears only with
# its value
NOT_IN_REFERENCE = ("restart_prob", "num_blocks", "best_of", "low_temperature", "chains")


@pytest.fixture
def values():
    return json.loads((GOLDEN / "reference_values.json").read_text())


def open_execution(facts=None, experiment="golden", **settings):
    texts = {} if facts is None else {"environment.json": json.dumps(facts)}
    return run_writer.open_execution(
        {"experiment": experiment, **settings}, f"{experiment} now", "scripts/run_all.py", texts
    )


def log_step(
    parent, step, final, params=None, seconds=1.0, status="FINISHED", experiment="golden", **tags
):
    """A step's run as the pipeline logs it: whole config as params, final numbers as metrics, final
    texts as tags.
    """
    start = round(time.time() * 1000)
    run_id = run_writer.open_step(parent, step, "0123456789ab", params or {}, tags, start)
    run_writer.log_metrics(
        run_id,
        {f"final/{key}": value for key, value in final.items() if isinstance(value, (int, float))},
    )
    for key, value in final.items():
        if isinstance(value, str):
            run_writer.set_tag(run_id, f"final/{key}", value)
    run_writer.close_run(run_id, status, start + round(seconds * 1000))
    return run_id


def test_reference_values_logged_to_mlflow_render_to_the_reference_report(store, values):
    """With the configs of experiments/speedrun_powersample.yaml as params: they are the reference's
    settings.
    """
    study = load_study("speedrun_powersample")
    earlier = open_execution()
    later = open_execution(values["environment"], report={"title": values["title"]})
    each = values["wall_clock_seconds"] / len(values["steps"])
    for step, final in values["steps"].items():
        params = {
            key: value
            for key, value in to_dict(study.stage(STEPS[step].stage)).items()
            if key not in NOT_IN_REFERENCE
        }
        metrics = {
            key: value
            for key, value in final.items()
            if key in ("steps", "gsm8k", "passed", "total") or key not in params
        }
        run_id = log_step(earlier, step, metrics, params, each - 10, earlier_seconds="10.0")
        run_writer.set_tag(later, f"reused.{step}", run_id)
    run_writer.set_tag(later, "experiment_file", values["experiment_file"])
    found = store_values.collect(later) | {"generated": values["generated"]}
    assert document.render(found).encode() == (GOLDEN / "reference_report.md").read_bytes()


def test_only_finished_runs_count_and_the_newest_of_a_step_wins(store):
    parent = open_execution()
    log_step(parent, "sft", {"loss": 3.0})
    log_step(parent, "sft", {"loss": 2.0})
    log_step(parent, "sft", {"loss": 1.0}, status="FAILED")
    log_step(parent, "rl", {"steps": 2}, status="FAILED")
    steps = store_values.collect(parent)["steps"]
    assert list(steps) == ["sft"] and steps["sft"]["loss"] == 2.0


def test_an_own_run_stands_before_a_reused_one(store):
    parent = open_execution()
    run_writer.set_tag(parent, "reused.sft", log_step(open_execution(), "sft", {"loss": 3.0}))
    assert store_values.collect(parent)["steps"]["sft"]["loss"] == 3.0
    log_step(parent, "sft", {"loss": 2.0})
    assert store_values.collect(parent)["steps"]["sft"]["loss"] == 2.0


def test_a_final_metric_stands_before_the_parameter_of_its_name_and_texts_are_kept(store):
    parent = open_execution()
    log_step(
        parent, "sft", {"steps": 7, "data": "hub openai/gsm8k@1a2b"}, {"steps": None, "seed": 0}
    )
    assert store_values.collect(parent)["steps"]["sft"] == {
        "steps": 7.0,
        "seed": "0",
        "data": "hub openai/gsm8k@1a2b",
    }


def test_wall_clock_adds_reused_steps_and_earlier_attempts_but_elapsed_is_this_execution(store):
    parent = open_execution()
    run_writer.set_tag(
        parent, "reused.tok_train", log_step(open_execution(), "tok_train", {}, seconds=100.0)
    )
    log_step(parent, "sft", {}, seconds=20.0, earlier_seconds="5.5")
    found = store_values.collect(parent)
    assert found["wall_clock_seconds"] == pytest.approx(125.5)
    assert 20.0 <= found["elapsed_seconds"] < 40.0


def test_an_execution_without_recorded_environment_shows_dashes_not_todays_machine(store):
    parent = open_execution()
    assert store_values.recorded_environment(parent) == environment.unknown()
    text = document.render(store_values.collect(parent))
    assert "- Commit: -\n" in text and "- GPUs: -\n" in text and "- Python: -\n" in text


def test_an_unknown_run_is_a_users_mistake(store):
    with pytest.raises(UserError, match="no run 'nonsense'"):
        store_values.collect("nonsense")


@pytest.fixture
def ablation(store):
    """An execution with a training step and a small grid, as the courier delivers them."""
    parent = open_execution(environment.unknown())
    training = log_step(parent, "base_train", {"steps": 3, "loss": 1.5})
    now = round(time.time() * 1000)
    run_writer.log_curves(
        training, [("train/loss", 3.0 - step / 2, now, step) for step in (1, 2, 3)]
    )
    grid = log_step(parent, "power_ablation", {"points": 4, "problems": 100, "data": "embedded"})
    common = {"passed": 40.0, "total": 100.0, "low": 0.3, "high": 0.5}
    for alpha in (1.0, 4.0):
        for steps in (0, 2):
            point = run_writer.open_point(grid, f"alpha={alpha:g} steps={steps}", now)
            run_writer.log_params(
                point, {"method": "power", "alpha": alpha, "temperature": 0.7, "num_steps": steps}
            )
            run_writer.log_metrics(
                point, {**common, "accuracy": 0.4, "positions_per_problem": 90.0 + 50 * steps}
            )
            run_writer.log_curves(
                point,
                [
                    ("acceptance_by_step", 0.5 - step / 10, now, step)
                    for step in range(1, steps + 1)
                ],
            )
    for method, n in (("majority", 2), ("best_of", 8), ("best_of", 2), ("greedy", 1)):
        point = run_writer.open_point(grid, f"{method} n={n}", now)
        run_writer.log_params(point, {"method": method, "n": n, "temperature": 0.7})
        run_writer.log_metrics(
            point, {**common, "accuracy": 0.5, "positions_per_problem": 90.0 * n}
        )
    return parent


def test_grid_points_are_told_from_baselines_and_acceptance_comes_from_the_longest_trajectory(
    ablation,
):
    points, baselines, series = store_values.grid_points(
        store_values.step_runs(ablation)["power_ablation"]
    )
    assert [(point["alpha"], point["num_steps"]) for point in points] == [
        (1, 0),
        (1, 2),
        (4, 0),
        (4, 2),
    ]
    assert [(row["method"], row["n"]) for row in baselines] == [
        ("greedy", 1),
        ("best_of", 2),
        ("best_of", 8),
        ("majority", 2),
    ]
    assert [(row["alpha"], row["step"], row["acceptance"]) for row in series] == [
        (alpha, step, pytest.approx(share))
        for alpha in (1.0, 4.0)
        for step, share in ((1, 0.4), (2, 0.3))
    ]


def test_the_report_stage_writes_every_figure_it_links_with_its_data(ablation, tmp_path):
    with Run(tmp_path) as run:
        metrics = report_stage.compile_report(ablation, tmp_path, run, "A title")
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# A title\n")
    linked = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert [Path(path).stem for path in linked] == [
        "base_train_curves",
        "accuracy_by_alpha",
        "accuracy_by_steps",
        "accuracy_by_positions",
        "acceptance_by_step",
    ]
    for path in linked:
        assert (tmp_path / path).stat().st_size > 5000
        assert len((tmp_path / path).with_suffix(".csv").read_text().splitlines()) >= 3
    assert (
        "| best of n | - | 0.7 | - | 8 | 0.5000 | 40 of 100 | 0.3000 to 0.5000 | - | 720.0 |"
        in text
    )
    assert metrics["summary"] in text and "report.md" in run_reader.artifact_names(ablation)


def test_notebooks_show_what_a_step_recorded_and_say_what_it_did_not(ablation):
    run_id = store_values.step_runs(ablation)["power_ablation"].id
    client().log_text(
        run_id, json.dumps({"columns": ["a"], "data": [["one"], ["two"]]}), "samples.json"
    )
    result = SimpleNamespace(
        run_ids={"power_ablation": run_id},
        own=["power_ablation"],
        reused=set(),
        folders={"power_ablation": Path("x")},
        metrics={
            "power_ablation": {
                "gsm8k": 0.5,
                "passed": 2,
                "total": 4,
                "greedy/accuracy": 0.25,
                "data": "embedded",
            }
        },
    )
    assert (
        "embedded" in stage_results.summary(result).data
        and f"/runs/{run_id}" in stage_results.summary(result).data
    )
    assert "one" in stage_results.table(result, "power_ablation", "samples.json").data
    assert (
        "recorded no absent.json"
        in stage_results.table(result, "power_ablation", "absent.json").data
    )
    assert (
        "recorded no plots/absent.png"
        in stage_results.artifact(result, "power_ablation", "plots/absent.png").data
    )
    methods = stage_results.methods(result, "power_ablation").data
    assert "50.0%" in methods and "25.0%" in methods and "majority" not in methods
    points = stage_results.points(result).data
    assert points.count("power sampling") == 4 and points.count("best of n") == 2


def test_grid_points_of_several_samplers_and_settings_are_kept_apart(store):
    parent = open_execution()
    grid = log_step(parent, "power_ablation", {"points": 2})
    now = round(time.time() * 1000)
    for restart in (0.0, 0.5):
        point = run_writer.open_point(grid, f"restart={restart}", now)
        run_writer.log_params(
            point,
            {
                "method": "power",
                "alpha": 4.0,
                "temperature": 0.7,
                "num_steps": 2,
                "restart_prob": restart,
                "num_blocks": 1,
                "n": None,
            },
        )
        run_writer.log_metrics(point, {"accuracy": 0.4, "positions_per_problem": 90.0})
        run_writer.log_curves(
            point, [("acceptance_by_step", restart, now, step) for step in (1, 2)]
        )
    for method, n, alpha in (
        ("chain_vote", 4, 4.0),
        ("smc", 8, 4.0),
        ("smc", 4, 4.0),
        ("smc", 4, 2.0),
        ("greedy", None, None),
    ):
        point = run_writer.open_point(grid, f"{method} {n} {alpha}", now)
        run_writer.log_params(
            point, {"method": method, "alpha": alpha} | ({"n": n, "temperature": 0.7} if n else {})
        )
        run_writer.log_metrics(point, {"accuracy": 0.5, "positions_per_problem": 90.0})
    points, baselines, series = store_values.grid_points(
        store_values.step_runs(parent)["power_ablation"]
    )
    assert [(point["restart_prob"], point["num_blocks"]) for point in points] == [
        (0.0, 1.0),
        (0.5, 1.0),
    ]
    assert [(row["method"], row.get("alpha"), row["n"]) for row in baselines] == [
        ("greedy", None, 1),
        ("smc", 2.0, 4),
        ("smc", 4.0, 4),
        ("smc", 4.0, 8),
        ("chain_vote", 4.0, 4),
    ]
    assert [(row["restart_prob"], row["step"], row["acceptance"]) for row in series] == [
        (0.0, 1, 0),
        (0.0, 2, 0),
        (0.5, 1, 0.5),
        (0.5, 2, 0.5),
    ]


def test_a_setting_that_the_grid_does_not_vary_is_read_from_the_step(store):
    grid = log_step(
        open_execution(),
        "power_ablation",
        {"points": 1},
        {"restart_prob": 0.5, "num_blocks": 1, "particles": 16},
    )
    common = {"alpha": 4.0, "temperature": 0.7, "samples": 4}
    for place, params in enumerate(
        [
            {"method": "power", **common, "num_steps": 2, "samples": 1},
            {"method": "smc", **common, "num_steps": 0},
            {"method": "best_of", **common, "alpha": 1.0, "num_steps": 0},
        ]
    ):
        run_writer.log_params(run_writer.open_point(grid, f"point {place}", 1000 + place), params)
    (power,), (best_of, smc), _ = store_values.grid_points(run_reader.record(grid))
    assert all(row.pop("run_id") for row in (power, best_of, smc))
    assert power == {
        "method": "power",
        "alpha": 4.0,
        "temperature": 0.7,
        "num_steps": 2.0,
        "restart_prob": 0.5,
        "num_blocks": 1.0,
    }
    assert best_of == {"method": "best_of", "temperature": 0.7, "n": 4}
    assert smc == {"method": "smc", "alpha": 4.0, "temperature": 0.7, "n": 4, "particles": 4}


def power_values(accuracy, task="gsm8k", **more):
    counts = {
        "passed": 40.0,
        "total": 100.0,
        "low": 0.3,
        "high": 0.5,
        "positions_per_problem": 900.0,
    }
    greedy = {
        f"greedy/{key}": value
        for key, value in {**counts, "accuracy": accuracy - 0.1, "p_value": 0.01}.items()
    }
    return {
        task: accuracy,
        **counts,
        **greedy,
        "plain/pass_at_1": accuracy - 0.15,
        "plain/pass_at_4": accuracy + 0.2,
        "power/pass_at_1": accuracy,
        **more,
    }


@pytest.fixture
def laboratory(store):
    """An execution with power evaluations of three models and one of code, of which one recorded
    its own figures.
    """
    parent = open_execution(environment.unknown())
    run_id = log_step(
        parent, "power_eval", power_values(0.4, effective_moves=0.3), {"source": "sft", "chains": 4}
    )
    for name, source, accuracy in (("rl", "rl", 0.5), ("base", "base", 0.2)):
        log_step(parent, f"power_eval_{name}", power_values(accuracy), {"source": source})
    code = log_step(
        open_execution(), "power_eval_code", power_values(0.3, "humaneval"), {"source": "sft"}
    )
    run_writer.set_tag(parent, "reused.power_eval_code", code)
    for name, content in (
        ("acceptance_by_cut.png", "cut"),
        ("acceptance_by_cut.csv", "place\n"),
        ("log_p_trajectories.png", "path"),
        ("something_else.png", "other"),
    ):
        client().log_text(run_id, content, f"plots/{name}")
    return parent


def test_steps_that_the_configuration_does_not_know_are_collected_too(store):
    parent = open_execution()
    run_writer.set_tag(
        parent,
        "reused.power_eval_earlier",
        log_step(open_execution(), "power_eval_earlier", {"gsm8k": 0.25}),
    )
    log_step(parent, "power_eval_novel", {"gsm8k": 0.5}, seconds=7.0)
    log_step(parent, "power_eval_failed", {"gsm8k": 0.5}, status="FAILED")
    log_step(parent, "sft", {"loss": 2.0})
    assert "power_eval_novel" not in STEPS
    found = store_values.collect(parent)
    assert list(found["steps"]) == ["sft", "power_eval_earlier", "power_eval_novel"]
    assert found["wall_clock_seconds"] == pytest.approx(9.0)


def test_sharpening_rows_pair_every_model_with_every_method_it_has(laboratory):
    rows = store_values.collect(laboratory)["sharpening"]
    assert [
        (row["model"], row["task"], row["method"], round(row["accuracy"], 2), row["p_value"])
        for row in rows
    ] == [
        ("base", "gsm8k", "greedy", 0.1, None),
        ("base", "gsm8k", "power", 0.2, 0.01),
        ("sft", "gsm8k", "greedy", 0.3, None),
        ("sft", "gsm8k", "power", 0.4, 0.01),
        ("rl", "gsm8k", "greedy", 0.4, None),
        ("rl", "gsm8k", "power", 0.5, 0.01),
        ("sft", "humaneval", "greedy", 0.2, None),
        ("sft", "humaneval", "power", 0.3, 0.01),
    ]


def test_one_power_evaluation_alone_has_nothing_to_be_held_against(store):
    parent = open_execution()
    log_step(parent, "power_eval", power_values(0.4), {"source": "sft"})
    found = store_values.collect(parent)
    assert found["sharpening"] == [] and "Sharpening" not in document.render(found)
    assert [(row["method"], row["k"]) for row in store_values.pass_at_k(found["rows"])] == [
        ("power", 1),
        ("plain", 1),
        ("plain", 4),
    ]


def test_the_report_of_a_laboratory_has_its_sections_and_every_figure(laboratory, tmp_path):
    with Run(tmp_path) as run:
        report_stage.compile_report(laboratory, tmp_path, run, "A title")
    text = (tmp_path / "report.md").read_text()
    assert "## Power sampling evaluation base\n- source: base\n" in text
    assert "- convergence: not judged: " in text
    assert "| RL | GSM8K | power | 0.5000 | 40 of 100 | 0.3000 to 0.5000 | 900.0 | 0.01 |" in text
    linked = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert linked == [
        "figures/power_eval_acceptance_by_cut.png",
        "figures/power_eval_log_p_trajectories.png",
        "figures/methods_by_model.png",
        "figures/pass_at_k.png",
    ]
    figures = tmp_path / "figures"
    assert (figures / "power_eval_acceptance_by_cut.png").read_text() == "cut"
    assert (figures / "power_eval_acceptance_by_cut.csv").read_text() == "place\n"
    assert (
        len((figures / "methods_by_model.csv").read_text().splitlines()) == 1 + 6
    )  # word problems only
    lines = (figures / "pass_at_k.csv").read_text()
    assert (
        '"SFT, plain sample",4,' in lines
        and '"SFT, power, code",1,' in lines
        and len(lines.splitlines()) == 1 + 12
    )
    recorded = {path.name for path in (tmp_path / "artifacts" / "figures").iterdir()}
    assert recorded == {
        path.name for path in figures.iterdir()
    } and "something_else.png" not in str(recorded)


def test_recorded_rows_are_read_as_they_are_and_flat_metrics_where_there_are_none(store):
    """The second is a store of a version that kept no rows."""
    parent = open_execution()
    run_id = log_step(parent, "sft", {"loss": 3.0, "loss_se": 0.5})
    (row,) = store_values.rows_of(run_reader.record(run_id))
    assert (row.metric, row.value, row.standard_error, row.model) == ("loss", 3.0, 0.5, "sft")
    kept = results.to_json([Score("loss", 2.0, model="other")])
    client().log_text(run_id, json.dumps(kept), results.FILE)
    assert store_values.rows_of(run_reader.record(run_id)) == [Score("loss", 2.0, model="other")]
