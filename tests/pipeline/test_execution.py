"""Steps are planned, reused, resumed and failed as the design says; run on a copy of the package
with fake stages.
"""

import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from nanolab import files
from nanolab.errors import UserError
from nanolab.pipeline import execution as pipeline
from nanolab.plan import preparation
from nanolab.plan import steps as plan
from nanolab.plan.fingerprint import code_hash, source_files
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.study_file import load_study, study_from_dict
from nanolab.tracking import run_reader
from nanolab.tracking.journal import JOURNAL, read_journal

RUN = (
    "from nanolab.pipeline.execution import run_stage; "
    "r = run_stage('tokenizer', experiment='tiny'); "
)


def tiny(**values):
    return study_from_dict({"experiment": "tiny", "base_train": {"steps": 1}, **values})


@pytest.fixture
def light(monkeypatch, tmp_path):
    """Planning alone: the code hash and the data identity are given, and work lies in a folder of
    this test.
    """
    monkeypatch.setattr("nanolab.plan.fingerprint.code_hash", lambda module: "code")
    monkeypatch.setattr(
        "nanolab.plan.fingerprint.data_identity",
        lambda study: f"{study.data.source} {study.data.seed}",
    )
    monkeypatch.setattr(files, "MLRUNS", tmp_path)


def marks(values):
    return {name: step.fingerprint for name, step in plan.plan(tiny(**values)).items()}


def changed(values):
    before, after = marks({}), marks(values)
    return {name for name in before if before[name] != after[name]}


def test_a_fingerprint_has_12_hex_digits_and_ends_the_work_folder(light):
    for name, step in plan.plan(tiny()).items():
        assert len(step.fingerprint) == 12 and int(step.fingerprint, 16) >= 0
        assert step.folder == files.MLRUNS / "work" / "tiny" / name / step.fingerprint


def test_a_setting_changes_its_step_and_the_steps_that_read_it_and_no_other(light):
    everything = set(StudyConfig().steps) - {"report"}
    assert changed({"tokenizer": {"vocab_size": 300}}) == everything
    assert changed({"sft": {"steps": 7}}) == {
        "sft",
        "chat_eval_sft",
        "power_eval",
        "power_ablation",
        "rl",
        "chat_eval_rl",
    }
    assert changed({"power_eval": {"alpha": 8.0}}) == {"power_eval"}
    assert changed({"seed": 1}) == everything and changed({"data": {"seed": 1}}) == everything


def test_how_choices_are_answered_changes_every_fingerprint(light):
    assert changed({"data": {"choice_answers": "letter"}}) == set(StudyConfig().steps) - {"report"}


def test_how_a_stage_is_launched_and_what_the_study_is_called_change_no_fingerprint(light):
    assert changed({"launch": {"nproc": 2, "threads": 1}}) == set()
    assert (
        changed({"experiment": "other", "description": "text", "hourly_rates": {"H100": 3.0}})
        == set()
    )


def test_the_device_kind_changes_every_fingerprint(light):
    assert changed({"launch": {"device": "cuda"}}) == set(StudyConfig().steps) - {"report"}


def test_inputs_follow_the_source(light):
    planned = plan.plan(tiny(power_eval={"source": "rl"}), ["power_eval"])
    assert set(planned) == {"tok_train", "base_train", "mid_train", "sft", "rl", "power_eval"}
    assert list(planned).index("rl") < list(planned).index("power_eval")
    assert set(planned["power_eval"].inputs) == {"tok_train", "rl"}


def test_the_power_notebook_fills_the_step_that_the_study_has(light):
    """Without steps of their own, every source is step power_eval; with them, the step that fixes
    what the parameters say.
    """
    assert plan.steps_of("power_eval", tiny()) == ["power_eval"]
    assert plan.steps_of("power_eval", tiny(power_eval={"source": "rl"})) == ["power_eval"]
    steps = ["power_eval", "power_eval_rl", "power_eval_code"]
    assert plan.steps_of("power_eval", tiny(steps=steps)) == ["power_eval"]
    assert plan.steps_of("power_eval", tiny(steps=steps[1:], power_eval={"source": "rl"})) == [
        "power_eval_rl"
    ]
    assert plan.steps_of("power_eval", tiny(steps=steps[1:], power_eval={"task": "humaneval"})) == [
        "power_eval_code"
    ]
    planned = plan.plan(tiny(steps=["power_eval", "power_eval_base", "power_eval_code"]))
    assert planned["power_eval_base"].config.source == "base" and set(
        planned["power_eval_base"].inputs
    ) == {"tok_train", "base_train"}
    assert (
        planned["power_eval_code"].config.task == "humaneval"
        and planned["power_eval_code"].config.source == "sft"
    )
    assert plan.steps_of("tokenizer", tiny()) == ["tok_train", "tok_eval"]
    assert plan.steps_of("chat_eval", tiny(chat_eval={"source": "rl"})) == ["chat_eval_rl"]
    both = tiny(
        steps=steps[:2], power_eval={"source": "rl"}
    )  # as the notebook of step power_eval_rl hands it over
    assert plan.steps_of("power_eval", both) == ["power_eval_rl"]
    with pytest.raises(UserError, match="power_eval and power_eval_rl are the same"):
        load_study("power_ablation", ["power_eval.source=rl"])
    with pytest.raises(UserError, match="power_eval_base and power_eval_code are the same"):
        load_study(
            "power_ablation",
            ["power_eval.task=humaneval", "steps=[power_eval_base, power_eval_code]"],
        )


def test_a_model_trained_from_itself_is_refused(light):
    with pytest.raises(UserError, match="read its own result"):
        plan.plan(tiny(rl={"source": "rl"}), ["rl"])


def test_model_tag_takes_model_and_tokenizer_of_the_other_study(light, tmp_path):
    values = tiny()
    other = plan.plan(
        study_from_dict({"experiment": "other", "base_train": {"steps": 1}}), ["sft"]
    )["sft"]
    with pytest.raises(UserError, match="study 'other' has no finished step sft"):
        plan.plan(tiny(power_eval={"model_tag": "other"}), ["power_eval"])
    tokenizer = tmp_path / "work" / "other" / "tok_train" / "0123456789ab"
    plan.write_job(
        plan.Job(
            "sft",
            values,
            values.sft,
            other.folder,
            {"tok_train": tokenizer, "mid_train": tmp_path / "work/x"},
        )
    )
    for folder in (other.folder, tokenizer):
        files.write_json(folder / plan.RESULT, {"metrics": {}})
    step = plan.plan(tiny(power_eval={"model_tag": "other"}), ["power_eval"])["power_eval"]
    assert step.inputs["sft"].folder == other.folder
    assert step.inputs["tok_train"].folder == tokenizer


@pytest.mark.parametrize(
    "name",
    [
        "../../../x",
        "a/b",
        "..",
        ".",
        "-x",
        ".hidden",
        "a\0b",
        "a\nb",
        "a b",
        "ä",
        "x" * 101,
        "/abs",
    ],
)
def test_a_name_is_a_name_and_no_path(name, light, tmp_path):
    """A name that names a folder reached another store's."""
    for where in ("chat_eval.model_tag", "power_eval.model_tag", "experiment"):
        stage, _, key = where.rpartition(".")
        values = {"steps": ["chat_eval_sft"], **({stage: {key: name}} if stage else {key: name})}
        with pytest.raises(
            UserError, match=f"{where} = .* names a folder: use at most 100 letters"
        ):
            tiny(**values)
    with pytest.raises(UserError):
        plan.experiment_name(name)
    with pytest.raises(UserError, match=r"parent_run_id = .* is no id of a run"):
        pipeline.run_stage("report", experiment="smoke", parent_run_id=name)


def test_code_hash_follows_imports_at_any_depth_and_nothing_else(tmp_path):
    package = tmp_path / "nanolab"
    (package / "stages").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/one.py": "from nanolab import a\n",
        "a.py": "def f():\n    import nanolab.b\n",
        "b.py": "x = 1\n",
        "unused.py": "y = 1\n",
        "b.c": "int x = 1;\n",
        "other.c": "int y = 1;\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    names = {
        str(path.relative_to(package))
        for path in source_files(package / "stages" / "one.py", tmp_path)
    }
    assert names == {"__init__.py", "a.py", "b.py", "b.c", "stages/one.py"}
    first = code_hash("one", tmp_path)
    (package / "unused.py").write_text("y = 2\n")
    assert code_hash("one", tmp_path) == first
    (package / "b.py").write_text("x = 2\n")
    second = code_hash("one", tmp_path)
    (package / "b.c").write_text("int x = 2;\n")
    assert len({first, second, code_hash("one", tmp_path)}) == 3


def test_a_job_file_gives_the_job_back_wherever_mlruns_lies(light, tmp_path, monkeypatch):
    job = plan.Job(
        "power_eval",
        tiny(),
        tiny().power_eval,
        tmp_path / "work/tiny/power_eval/a",
        {"sft": tmp_path / "work/tiny/sft/b"},
    )
    path = plan.write_job(job)
    assert plan.read_job(path) == job
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    monkeypatch.setattr(files, "MLRUNS", moved)
    assert plan.read_job(moved / "work/tiny/power_eval/a/job.json").inputs == {
        "sft": moved / "work/tiny/sft/b"
    }


def test_what_a_power_cut_left_of_a_journal_is_gone_before_the_step_is_launched(light, monkeypatch):
    """Its screen reads the journal while the stage's process still starts."""

    def launched(*given):
        raise RuntimeError("launched")

    step, whole = plan.plan(tiny())["tok_train"], {"kind": "tag", "point": None}
    step.folder.mkdir(parents=True)
    lines = [json.dumps(whole), "\0" * 40, json.dumps(whole), ""]
    (step.folder / JOURNAL).write_text("\n".join(lines))
    monkeypatch.setattr(pipeline.launch, "Stage", launched)
    with pytest.raises(RuntimeError, match="launched"):
        pipeline.Execution(tiny(), "0" * 32, "source").run(step)
    assert read_journal(step.folder) == [whole]


def test_a_truncated_job_file_is_one_clear_line(light, tmp_path):
    path = plan.write_job(plan.Job("sft", tiny(), tiny().sft, tmp_path / "sft", {}))
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match=r"job\.json is not valid JSON"):
        plan.read_job(path)


def test_select_and_grouped_follow_the_study():
    values = tiny()
    assert preparation.select(values, ["sft", "tok_eval"], None) == ["tok_eval", "sft"]
    assert preparation.select(values, [], "rl") == ["rl", "chat_eval_rl", "report"]
    with pytest.raises(UserError, match="unknown step 'stf'"):
        preparation.select(values, ["stf"], None)
    order = [STEPS[group[0]].notebook[:2] for group in preparation.grouped(values.steps)]
    assert order == ["01", "02", "03", "04", "05", "06", "05", "07", "08", "09", "05", "10"]


# ---- with processes, on fake stages that count to 10 (the steps tok_train and tok_eval of
# experiments/tiny.yaml)


def attempts(step="tok_train"):
    """(attempt, status) of the runs of a step, oldest first."""
    runs = [
        run
        for run in run_reader.search("tiny")
        if run.tags.get("step") == step and run.tags["nanolab.kind"] == "step"
    ]
    return [(run.tags["attempt"], run.status) for run in reversed(runs)]


def newest(step="tok_train"):
    return next(
        run
        for run in run_reader.search("tiny")
        if run.tags.get("step") == step and run.tags["nanolab.kind"] == "step"
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def stage_processes(lab):
    """Processes of a stage of this lab, once it waits and its run is open."""

    def waits():
        logs = [
            path.read_text() for path in (lab.root / "mlruns").glob("work/tiny/tok_train/*/log.txt")
        ]
        with sqlite3.connect(lab.root / "mlruns" / "mlflow.db") as connection:
            running = connection.execute(
                "select count(*) from runs where status = 'RUNNING' and name = '01 tok_train'"
            ).fetchone()[0]
        return running and any(log.endswith("waiting\n") for log in logs)

    assert wait_for(waits, 60), [
        path.read_text() for path in (lab.root / "mlruns").glob("work/tiny/tok_train/*/log.txt")
    ]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stage" in words and str(lab.root).encode() in b" ".join(words):
            found.append(int(folder.name))
    assert found
    return found


def wait_for(condition, seconds):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_killed_step_leaves_no_process_then_goes_on_and_is_reused(lab):
    lab.behave("wait")
    first = lab.start("-c", RUN)
    processes = stage_processes(lab)
    status, output = lab.call("-c", RUN)
    assert status == 1 and "study 'tiny' is being run by process" in output
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert wait_for(lambda: not any(alive(pid) for pid in processes), 15)
    assert attempts() == [("1", "RUNNING")]

    lab.behave("")
    output = lab.python(RUN + "print(sorted(r.reused), r.metrics)")
    assert "tok_train: continues in" in output and "counting from 4 to 10" in output
    assert (
        "[] {'tok_train': {'steps': 10, 'started_at': 4, 'data': 'embedded'}, 'tok_eval':"
        " {'coverage': 1.0}}" in output
    )
    assert attempts() == [("1", "FAILED"), ("2", "FINISHED")]
    run = newest()
    assert run_reader.history(run.id, "train/loss") == [(step, 1 / step) for step in range(1, 11)]
    assert [(point.name, point.metrics, point.status) for point in run_reader.children(run.id)] == [
        ("half", {"accuracy": 0.5}, "FINISHED")
    ]
    assert (
        run.metrics["final/steps"] == 10
        and run.tags["final/data"] == "embedded"
        and float(run.tags["earlier_seconds"]) >= 0
    )
    assert (
        run.params["vocab_size"] == "275"
        and run.params["study.seed"] == "0"
        and run.params["data.source"] == "embedded"
    )

    output = lab.python(RUN + "print(sorted(r.reused))")
    assert "['tok_eval', 'tok_train']" in output and "counting" not in output
    assert [execution.status for execution in run_reader.executions("tiny")] == [
        "FINISHED",
        "FINISHED",
        "FAILED",
    ]
    assert run_reader.executions("tiny")[0].tags["reused.tok_train"] == run.id


@pytest.mark.slow
def test_run_all_is_interrupted_fails_meets_a_mistake_and_goes_on_each_time(lab):
    def run_all(behaviour):
        lab.behave(behaviour)
        return lab.call("scripts/run_all.py", "experiments/tiny.yaml", "--verbose")

    lab.behave("wait")
    process = lab.start("scripts/run_all.py", "experiments/tiny.yaml", "--verbose")
    processes = stage_processes(lab)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and "interrupted after" in output
        and "Traceback" not in output.split("waiting")[1]
    )
    assert wait_for(lambda: not any(alive(pid) for pid in processes), 15)

    status, output = run_all("fail")
    assert (
        status == 1
        and "counting from 4 to 10" in output
        and "RuntimeError: the stage broke at step 6" in output
    )
    assert (
        "tok_train failed\n  error  RuntimeError: the stage broke at step 6\n  log   "
        " mlruns/work/tiny/tok_train/" in output
    )
    assert (
        "python scripts/run_all.py experiments/tiny.yaml --verbose   (everything so far is kept)"
        in output
    )

    status, output = run_all("mistake")
    assert (
        status == 2
        and output.splitlines()[-1] == "error: tok_train: checkpoint step-9 is truncated"
        and "Traceback" not in output
    )

    status, output = run_all("")
    assert status == 0 and "counting from 10 to 10" in output
    assert (
        "SUMMARY report tok_eval tok_train" in output
        and "report: mlruns/work/tiny/report/" in output
        and "make ui" in output
    )
    assert attempts() == [("1", "KILLED"), ("2", "FAILED"), ("3", "FAILED"), ("4", "FINISHED")]
    reasons = {
        run.tags.get("failure") for run in run_reader.search("tiny", "tags.step = 'tok_train'")
    }
    assert {
        "the stage failed: RuntimeError: the stage broke at step 6",
        "checkpoint step-9 is truncated",
    } <= reasons
    assert [execution.status for execution in run_reader.executions("tiny")] == [
        "FINISHED",
        "FAILED",
        "FAILED",
        "KILLED",
    ]
    for step in ("tok_train", "tok_eval", "report"):
        assert list(
            lab.root.glob(f"mlruns/artifacts/tiny/{newest(step).id}/artifacts/notebook/*.ipynb")
        )

    status, output = run_all("")
    assert status == 0 and output.count(" reused ") == 2 and "counting" not in output


@pytest.mark.slow
def test_the_report_of_a_study_that_never_ran_runs_its_steps_first(lab):
    report = (
        "from nanolab.pipeline.execution import run_stage; "
        "r = run_stage('report', experiment='tiny'); print(r.metrics['report'], r.own)"
    )
    lab.behave("fail")
    status, output = lab.call("-c", report)
    assert status == 1 and "the stage broke at step 3" in output
    status, output = lab.call(
        "-m", "nanolab", "report", "tiny"
    )  # the command reads, and starts nothing
    assert (
        status == 2 and "study 'tiny' has no execution in" in output and "run_all.py tiny" in output
    )
    lab.behave("")
    output = lab.python(
        report
    )  # goes on, in an execution of its own: the one that failed stands for nothing
    assert "counting from 4 to 10" in output and output.endswith(
        "{'summary': 'SUMMARY report tok_eval tok_train'} ['report']\n"
    )
    made, failed = run_reader.executions("tiny")
    assert (made.status, failed.status, made.tags["mlflow.source.name"]) == (
        "FINISHED",
        "FAILED",
        "notebooks/10_report.ipynb",
    )
    assert [run.tags["step"] for run in run_reader.children(made.id)] == [
        "tok_train",
        "tok_eval",
        "report",
    ]


@pytest.mark.slow
def test_plain_papermill_takes_the_parameters_that_plan_writes(lab):
    status, parameters = lab.call(
        "-m",
        "nanolab",
        "plan",
        "tiny",
        "--set",
        "tokenizer.vocab_size=268",
        "--parameters",
        "tok_train",
    )
    assert status == 0
    (lab.root / "parameters.yaml").write_text(parameters)
    wrong = ("notebooks/01_tokenizer.ipynb", "wrong.ipynb", "-p", "vocab_sise", "268")
    status, output = lab.call("-m", "papermill", *wrong)
    assert status == 1 and "UserError: unknown parameter 'vocab_sise'" in output
    assert "the nearest valid one is 'vocab_size'" in output
    assert not run_reader.executions("tiny")
    status, output = lab.call(
        "-m", "papermill", "notebooks/01_tokenizer.ipynb", "out.ipynb", "-f", "parameters.yaml"
    )
    assert status == 0, output
    outputs = json.loads((lab.root / "out.ipynb").read_text())["cells"][-1]["outputs"]
    shown = "".join(
        "".join(output.get("text", [])) for output in outputs
    )  # a kernel may send one print in parts
    assert (
        "metrics {'tok_train': {'steps': 3, 'started_at': 1, 'data': 'embedded'}, 'tok_eval':"
        " {'coverage': 0.3}}" in shown
    )


def test_the_default_studies_load():
    for path in sorted((files.ROOT / "experiments").glob("*.yaml")):
        assert load_study(str(path)).steps
