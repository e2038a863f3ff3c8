"""Claims: seeds run the whole study once each in one experiment and are reported together; a study
of the store needs no YAML file.
"""

import csv
import json
import signal

import pytest

from nanolab import files
from nanolab.errors import UserError
from nanolab.pipeline import execution as pipeline
from nanolab.pipeline import spread, study
from nanolab.pipeline.study import command
from nanolab.plan.preparation import Prepared, grouped, per_seed, prepare, prepare_seeds
from nanolab.plan.steps import RESULT, steps_of
from nanolab.results import Score, flat, to_json
from nanolab.settings.config import STEPS
from nanolab.settings.study_file import study_from_dict
from nanolab.terminal import screens
from nanolab.tracking import run_reader, run_writer

SMALL = {"experiment": "tiny", "base_train": {"steps": 1}}


def test_seeds_differ_in_the_seed_alone_and_none_means_the_one_seed():
    assert [study.seed for study in per_seed(study_from_dict({**SMALL, "seeds": [3, 1]}))] == [3, 1]
    assert [study.seed for study in per_seed(study_from_dict({**SMALL, "seed": 5}))] == [5]
    assert (
        study_from_dict({**SMALL, "seeds": [3, 1]}).seed == 3
    )  # what a command means that takes one
    assert study_from_dict({**SMALL, "seeds": [3, 1], "seed": 1}).seed == 1
    for seeds, words in (([1, 1], "has 1 twice"), ([-1], r"seeds\[0\] = -1 is out of range")):
        with pytest.raises(UserError, match=words):
            study_from_dict({**SMALL, "seeds": seeds})


def test_only_what_a_run_asks_for_is_refused_and_what_is_finished_beside_it_is_known(
    store, monkeypatch
):
    def no_text(study, steps, source):
        if "mid_train" in steps:
            raise UserError("the data has no text")

    monkeypatch.setattr("nanolab.plan.steps.check_data", no_text)
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
        0: {"sft": {"metrics": {"loss": 1.0, "status": "done", "finished": True}}},
        1: {"sft": {"metrics": {"loss": 3.0, "extra": 5}}},
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
        0: {"sft": {"metrics": {"loss": 1.0}}},
        1: {"sft": {"metrics": {"loss": 3.0}}},
        2: {"rl": {"metrics": {"reward_last": 0.5}}},
    }
    lines = spread.as_markdown(spread.spreads(results), [0, 1, 2]).splitlines()
    assert lines[0] == "| step | metric | n | mean | std | seed 0 | seed 1 | seed 2 |"
    assert "| sft | loss | 2 | 2.0000 | 1.4142 | 1.0000 | 3.0000 | - |" in lines


def test_the_table_has_the_accuracy_of_each_task_and_no_detail_of_it():
    """Of rows as of the flat numbers of a version that kept no rows."""
    row = Score("accuracy", 0.5, task="arc_easy", model="sft", n=8, passed=4, low=0.2, high=0.8)
    metrics = flat([row])
    for result in ({"metrics": metrics, "rows": to_json([row])}, {"metrics": metrics}):
        found = spread.spreads({0: {"chat_eval_sft": result}})
        assert {one.metric for one in found} == set(metrics)
        assert [one.metric for one in found if one.is_main] == ["arc_easy"]


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
    monkeypatch.setattr(study, "listen", lambda: None)
    monkeypatch.setattr(study.spread, "report", lambda *given: None)
    prepared = prepare_seeds("micro", [f"seeds={seeds}"], [])
    assert study.run_study(prepared, screens.open_screen("quiet")) == 0
    assert ran == together


def test_an_unexpected_error_ends_the_execution_as_failed_with_its_line(store, monkeypatch, capsys):
    """It was raised from itself, and whoever looked for its causes looked for ever."""
    closed = []
    monkeypatch.setattr(pipeline, "open_execution", lambda *given: "0" * 32)
    monkeypatch.setattr(pipeline, "close_execution", lambda *given: closed.append(given))
    monkeypatch.setattr(run_writer, "sweep", lambda *given: [])

    def breaks(self, output):
        output.write("note: the store is away\nnot for everybody\n")
        raise ExceptionGroup(
            "of the follower", [RuntimeError("boom of http://bob:s3cretWord@host")]
        )

    monkeypatch.setattr(study.StudyExecution, "_run_groups", breaks)
    prepared = prepare(study_from_dict({**SMALL, "steps": ["tok_train"]}), [], None)
    execution = study.StudyExecution(prepared, screens.open_screen(), False)
    assert execution.run([]) == 1 and closed == [("0" * 32, "FAILED")]
    printed, log = capsys.readouterr(), execution.log.read_text()
    assert "  error  RuntimeError: boom of http://bob:***@host\n" in printed.err
    assert "the store is away\n" in printed.out and "not for everybody" not in printed.out
    assert "ExceptionGroup: of the follower" in log and "s3cretWord" not in log + printed.err


@pytest.mark.slow
def test_a_study_of_two_seeds_and_what_it_leaves(lab):
    """Also: a step that --fresh set aside is no longer found, and a study of the store is reported
    without its YAML file.
    """
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
    executions = run_reader.executions("tiny")
    assert [run.params["seed"] for run in executions] == ["1", "0"] and executions[
        0
    ].name.startswith("tiny seed 1 ")
    assert all(
        {"seeds.md", "seeds.csv"} <= set(run_reader.artifact_names(run.id)) for run in executions
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
    runs = run_reader.search("tiny", "tags.step = 'tok_eval' and params.study.seed = '0'")
    assert ["superseded" in run.tags for run in runs] == [False, True]
    assert (
        run_reader.find_finished("tiny", "tok_eval", runs[0].tags["fingerprint"]).id == runs[0].id
    )
    assert (files.MLRUNS / runs[1].tags["work_folder"] / "result.json").is_file()

    path.unlink()
    status, output = lab.call("-m", "nanolab", "report", "tiny")
    assert status == 0 and "SUMMARY" in output


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_raised_before_the_next_notebook(monkeypatch):
    """Python drops what is raised while it frees an object, a Ctrl-C too."""

    class Freed:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    execution = object.__new__(study.StudyExecution)
    execution.study, execution.parent, execution._names = study_from_dict(SMALL), "", []
    execution.prepared = Prepared(execution.study, [["tok_train"]], {}, [])
    started = []
    monkeypatch.setattr(
        study.StudyExecution,
        "_run_notebook",
        lambda self, number, missing, output: started.append(missing),
    )
    monkeypatch.setattr(study.StudyExecution, "_missing", lambda self, steps: steps)
    try:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a job in the background ignores it
        study.listen()
        execution._run_groups(None)
        Freed()
        with pytest.raises(KeyboardInterrupt):
            execution._run_groups(None)
    finally:
        study._heard.clear()
        for number, handler in heard.items():
            signal.signal(number, handler)
    assert started == [["tok_train"]]


@pytest.mark.parametrize("error, status", [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_execution_that_breaks_while_it_is_opened_leaves_no_running_run(
    error, status, store, monkeypatch
):
    def broken(*given):
        raise error("in the middle of it")

    monkeypatch.setattr(run_writer, "log_params", broken)
    with pytest.raises(error):
        pipeline.open_execution(study_from_dict(SMALL), "notebooks/06_sft.ipynb")
    assert [run.status for run in run_reader.executions(SMALL["experiment"])] == [status]


def test_an_interrupt_while_an_execution_is_opened_leaves_no_running_run(store, monkeypatch):
    opened = pipeline.open_execution

    def interrupted(*given):
        opened(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "open_execution", interrupted)
    monkeypatch.setattr(study, "listen", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(prepare_seeds("micro", [], ["tok_train"]), screens.open_screen())
    assert [run.status for run in run_reader.executions("micro")] == ["KILLED"]
