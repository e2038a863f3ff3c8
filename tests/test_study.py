"""Claims: seeds run the whole study once each in one experiment and are reported together; a study of the store needs no YAML file."""

import csv
import json

import pytest

from nanolab import files, pipeline, spread, study, tracking
from nanolab.config import STEPS
from nanolab.experiment import study_from_dict
from nanolab.plan import RESULT, steps_of
from nanolab.schema import UserError
from nanolab.study import command, grouped, per_seed, prepare

SMALL = {"experiment": "tiny", "base_train": {"steps": 1}}


def test_seeds_differ_in_the_seed_alone_and_none_means_the_one_seed():
    assert [study.seed for study in per_seed(study_from_dict({**SMALL, "seeds": [3, 1]}))] == [3, 1]
    assert [study.seed for study in per_seed(study_from_dict({**SMALL, "seed": 5}))] == [5]
    assert (
        study_from_dict({**SMALL, "seeds": [3, 1]}).seed == 3
    )  # what a command means that takes one
    assert study_from_dict({**SMALL, "seeds": [3, 1], "seed": 1}).seed == 1
    for seeds in ([1, 1], [-1]):
        with pytest.raises(UserError, match="must be different whole numbers, each at least 0"):
            study_from_dict({**SMALL, "seeds": seeds})


def test_only_what_a_run_asks_for_is_refused_and_what_is_finished_beside_it_is_known(
    store, monkeypatch
):
    def no_text(study, steps, source):
        if "mid_train" in steps:
            raise UserError("the data has no text")

    monkeypatch.setattr("nanolab.plan.check_data", no_text)
    study = study_from_dict({**SMALL, "steps": ["tok_train", "base_train", "mid_train", "report"]})
    assert prepare(study, ["tok_train"], None).rest == []
    with pytest.raises(UserError, match="no text"):
        prepare(study, [], None)
    for name in ("tok_train", "base_train"):
        files.write_json(
            prepare(study, [name], None).planned[name].folder / RESULT, {"metrics": {}}
        )
    assert [step.name for step in prepare(study, ["tok_train"], None).rest] == ["base_train"]


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ("report", "chat_eval_hf")])
def test_the_steps_that_a_plan_joins_are_those_that_the_notebook_fills(step):
    spec = STEPS[step]
    study = study_from_dict(
        {**SMALL, "steps": [step], **({spec.stage: spec.fixed} if spec.fixed else {})}
    )
    assert grouped([step]) == [steps_of(spec.stage, study)]


def test_the_plan_has_all_that_a_notebook_fills(store):
    study = study_from_dict(
        {
            **SMALL,
            "steps": ["tok_train", "base_train", "base_loss", "chat_eval_mid", "chat_eval_sft"],
        }
    )
    assert prepare(study, [], None).groups == [
        ["tok_train", "tok_eval"],
        ["base_train"],
        ["base_loss", "base_eval"],
        ["chat_eval_mid"],
        ["chat_eval_sft"],
    ]
    assert list(prepare(study, ["tok_train"], None).planned) == ["tok_train", "tok_eval"]


def test_a_fresh_run_sets_its_steps_aside_and_the_command_that_goes_on_is_not_fresh(
    store, monkeypatch
):
    study = study_from_dict({**SMALL, "steps": ["tok_train", "tok_eval"]})
    planned = prepare(study, [], None).planned
    for step in planned.values():
        files.write_json(step.folder / RESULT, {"metrics": {}})
    pipeline.set_steps_aside(study, list(planned.values()))
    assert not any(step.started or step.finished for step in planned.values())
    assert all(
        (step.folder.with_name(f"{step.folder.name}.1") / RESULT).is_file()
        for step in planned.values()
    )
    monkeypatch.setattr(
        "sys.argv", ["scripts/run_all.py", "tiny", "--fresh", "--set", "seeds=[0, 1]"]
    )
    monkeypatch.setattr("sys.executable", "/my env/bin/python")
    assert command() == "'/my env/bin/python' scripts/run_all.py tiny --set 'seeds=[0, 1]'"


def test_mean_and_spread_are_those_of_the_seeds_that_have_the_number():
    results = {
        0: {"sft": {"loss": 1.0, "status": "done", "finished": True}},
        1: {"sft": {"loss": 3.0, "extra": 5}},
    }
    loss, extra = spread.spreads(results)
    assert (loss.metric, loss.mean, loss.deviation) == ("loss", 2.0, 2.0**0.5)
    assert (extra.metric, extra.mean, extra.deviation) == ("extra", 5.0, None)
    rows = list(csv.DictReader(spread.as_csv([loss, extra], [0, 1]).splitlines()))
    assert rows[0] == {
        "step": "sft",
        "metric": "loss",
        "n": "2",
        "mean": "2.0",
        "standard_deviation": "1.4142135623730951",
        "min": "1.0",
        "max": "3.0",
        "seed_0": "1.0",
        "seed_1": "3.0",
    }
    assert rows[1]["seed_0"] == "" and rows[1]["standard_deviation"] == ""


def test_the_table_says_of_how_many_seeds_each_mean_is():
    results = {
        0: {"sft": {"loss": 1.0}},
        1: {"sft": {"loss": 3.0}},
        2: {"rl": {"reward_last": 0.5}},
    }
    lines = spread.as_markdown(spread.spreads(results), [0, 1, 2]).splitlines()
    assert lines[0] == "| step | metric | n | mean | std | seed 0 | seed 1 | seed 2 |"
    assert "| sft | loss | 2 | 2.0000 | 1.4142 | 1.0000 | 3.0000 | - |" in lines


@pytest.mark.parametrize(
    "seeds, together", [("[]", [["seed 0"]]), ("[3,1,2]", [[], [], ["seed 3", "seed 1", "seed 2"]])]
)
def test_the_best_model_of_all_seeds_is_registered_once_at_the_end(
    store, monkeypatch, seeds, together
):
    ran = []

    class Execution:
        def __init__(self, prepared, screen, fresh):
            self.parent = f"seed {prepared.study.seed}"

        def run(self, executions):
            ran.append(list(executions))
            return 0

    monkeypatch.setattr(study, "StudyExecution", Execution)
    monkeypatch.setattr(study.signal, "signal", lambda *given: None)
    monkeypatch.setattr(study.spread, "report", lambda *given: None)
    assert (
        study.run_study(
            "micro", [f"seeds={seeds}"], [], None, False, study.screens.open_screen("quiet")
        )
        == 0
    )
    assert ran == together


@pytest.mark.slow
def test_a_study_of_two_seeds_and_what_it_leaves(lab):
    """Also: a step that --fresh set aside is no longer found, and a study of the store is reported without its YAML file."""
    path = lab.root / "experiments" / "tiny.yaml"
    path.write_text("seeds: [0, 1]\n" + path.read_text().replace(", report", ""))
    status, output = lab.call("scripts/run_all.py", "tiny", "--json")
    assert status == 0, output
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["seed"] for event in events if event["event"] == "plan"] == [0, 1]
    finished = [event["step"] for event in events if event["event"] == "step_finished"]
    assert finished == ["tok_train", "tok_eval"] * 2 and events[-1]["event"] == "seeds"
    assert len(list(lab.root.glob("mlruns/work/tiny/tok_train/*/result.json"))) == 2
    coverage = next(row for row in events[-1]["metrics"] if row["metric"] == "coverage")
    assert coverage == {
        "step": "tok_eval",
        "metric": "coverage",
        "mean": 1.0,
        "standard_deviation": 0.0,
        "values": {"0": 1.0, "1": 1.0},
    }
    assert (
        (lab.root / "mlruns/work/tiny/seeds/seeds.md")
        .read_text()
        .startswith("# tiny over seeds 0, 1\n")
    )
    executions = tracking.executions("tiny")
    assert [run.params["seed"] for run in executions] == ["1", "0"] and executions[
        0
    ].name.startswith("tiny seed 1 ")
    assert all(
        {"seeds.md", "seeds.csv"} <= set(tracking.artifact_names(run.id)) for run in executions
    )

    status, output = lab.call(
        "scripts/run_all.py",
        "tiny",
        "--set",
        "seeds=[]",
        "--only",
        "tok_eval",
        "--fresh",
        "--quiet",
    )
    assert (status, output) == (0, "")
    runs = tracking.search("tiny", "tags.step = 'tok_eval' and params.study.seed = '0'")
    assert ["superseded" in run.tags for run in runs] == [False, True]
    assert tracking.find_finished("tiny", "tok_eval", runs[0].tags["fingerprint"]).id == runs[0].id
    assert (files.MLRUNS / runs[1].tags["work_folder"] / "result.json").is_file()

    path.unlink()
    status, output = lab.call("-m", "nanolab", "report", "tiny")
    assert status == 0 and "SUMMARY" in output
