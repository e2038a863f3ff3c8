"""What a stage records reaches MLflow whole, once, and in the right run."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time

import pandas
import pytest

from nanolab.data.sources.published import PUBLISHED
from nanolab.errors import UserError
from nanolab.tracking import courier as courier_module
from nanolab.tracking import run_reader, run_writer, system_metrics
from nanolab.tracking.courier import Courier
from nanolab.tracking.journal import JOURNAL, NullRun, Run, read_journal
from nanolab.tracking.store import client


def deliver(folder, parent, status="FINISHED", result=None, step="sft"):
    courier = Courier(
        folder,
        lambda: run_writer.open_step(
            parent, step, "0123456789ab", {"alpha": 4.0}, {"attempt": "1"}
        ),
    )
    return courier.finish(status, result)


@pytest.fixture
def parent(store):
    return run_writer.open_execution(
        {"experiment": "tiny", "seed": 3, "data": {"seed": 0}},
        "tiny now",
        "scripts/run_all.py",
        {"a.txt": "b"},
    )


def test_data_of_the_hub_can_be_loaded_again_from_its_run(parent):
    import mlflow

    read = {"name": "gsm8k", "source": f"hub {PUBLISHED['gsm8k']}", "digest": "0" * 64}
    run_writer.log_dataset(parent, {**read, "context": "test", "rows": 7})
    (data,) = client().get_run(parent).inputs.dataset_inputs
    source = mlflow.data.get_source(data.dataset)
    assert type(source).__name__ == "HuggingFaceDatasetSource"
    assert (source.path, source.config_name) == ("openai/gsm8k", "main")
    assert source.revision == PUBLISHED["gsm8k"].revision


def test_importing_tracking_imports_neither_mlflow_nor_pandas():
    program = (
        "import sys, nanolab.tracking.run_writer, nanolab.pipeline.execution\n"
        "print([name for name in ('mlflow', 'pandas', 'torch', 'numpy') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_everything_a_stage_records_is_in_its_run(parent, tmp_path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    run = Run(tmp_path / "work")
    run.params({"width": 32, "note": None})
    for step in range(1500):
        run.metrics({"train/loss": step / 2, "train/tokens": step}, step=step)
    run.metrics({"validation/bits_per_byte": 1.25})
    run.text("hello", "samples/text.md")
    run.table([{"prompt": "a", "answer": 1}], "samples.json")
    figure, _ = pyplot.subplots()
    run.figure(figure, "plots/loss.png", pandas.DataFrame({"x": [1], "y": [2]}))
    run.dataset("gsm8k", "embedded", "f" * 64, "evaluation")
    run.tag("sandbox", "bwrap")
    with run.point("alpha=4 T=0.7", {"alpha": 4.0}) as point:
        point.metrics({"accuracy": 0.5})
        point.text("sample", "sample.txt")
    run.close()
    run_id = deliver(
        tmp_path / "work", parent, result={"loss": 2.5, "data": "embedded", "nothing": None}
    )

    made = run_reader.record(run_id)
    assert made.params == {"alpha": "4.0", "width": "32", "note": "None"}
    assert run_reader.history(run_id, "train/loss") == [(step, step / 2) for step in range(1500)]
    assert (
        made.metrics["validation/bits_per_byte"] == 1.25
        and made.metrics["final/loss"] == 2.5
        and "final/nothing" not in made.metrics
    )
    assert (
        made.tags["final/data"] == "embedded"
        and made.tags["sandbox"] == "bwrap"
        and made.tags["mlflow.parentRunId"] == parent
    )
    assert made.status == "FINISHED" and '"samples.json"' in made.tags["mlflow.loggedArtifacts"]
    for name, content in {"samples/text.md": "hello", "plots/loss.csv": "x,y\n1,2\n"}.items():
        assert run_reader.artifact(run_id, name).read_text() == content
    assert run_reader.artifact(run_id, "plots/loss.png").stat().st_size > 1000
    (point,) = run_reader.children(run_id)
    assert (point.name, point.params, point.metrics, point.status) == (
        "alpha=4 T=0.7",
        {"alpha": "4.0"},
        {"accuracy": 0.5},
        "FINISHED",
    )
    for each in (run_id, point.id):
        (data,) = client().get_run(each).inputs.dataset_inputs
        assert data.dataset.name == "gsm8k" and data.tags[0].value == "evaluation"
    note = point.tags["mlflow.note.content"]
    assert note.startswith("alpha 4 · **accuracy 0.5000** · a point of [") and run_id in note
    assert [step.id for step in run_reader.children(parent)] == [run_id]


def test_an_artifact_that_was_altered_in_the_store_is_not_read(parent, store):
    """Of a step and of its grid points: the records that notebooks, reports and comparisons
    read.
    """
    folder = store / "work" / "tiny" / "power_eval" / "0123456789ab"
    with Run(folder) as run:
        run.text("one\n", "chains.jsonl")
        with run.point("alpha=4", {"alpha": 4.0}) as point:
            point.text("two\n", "plots/sample.txt")
    tags = {"attempt": "1", "work_folder": "work/tiny/power_eval/0123456789ab"}
    run_id = Courier(
        folder,
        lambda: run_writer.open_step(parent, "power_eval", "0123456789ab", {}, tags),
    ).finish("FINISHED")
    (point_id,) = [run.id for run in run_reader.children(run_id)]
    for owner, name, text in (
        (run_id, "chains.jsonl", "one\n"),
        (point_id, "plots/sample.txt", "two\n"),
    ):
        copy = run_reader.artifact(owner, name)
        assert copy.read_text() == text
        (kept,) = store.glob(f"artifacts/tiny/{owner}/artifacts/{name}")
        kept.write_text("One\n")
        with pytest.raises(
            UserError,
            match=rf"{name} of run {owner} was altered .* run python .*--only power_eval --fresh$",
        ):
            run_reader.artifact(owner, name)


def test_an_execution_holds_the_whole_study_and_where_it_comes_from(parent):
    run = run_reader.record(parent)
    assert run.params == {"experiment": "tiny", "seed": "3", "data.seed": "0"}
    assert (
        run.tags["mlflow.source.name"] == "scripts/run_all.py"
        and run.tags["nanolab.host"] == socket.gethostname()
    )
    assert run_reader.artifact(parent, "a.txt").read_text() == "b"
    assert [execution.id for execution in run_reader.executions("tiny")] == [
        parent
    ] and run_reader.executions("unknown") == []
    assert run_reader.newest_study() == ("tiny", run.experiment_id)


def test_a_user_without_a_name_and_a_machine_without_git_stop_no_run():
    """As in a container: `docker run -u 12345`, no HOME, and an image without git."""
    program = """
import os, platform, pwd
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
    os.environ.pop(name, None)
def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid, platform.node, os.environ["PATH"] = nobody, str, "/nonexistent"
from pathlib import Path
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.store import client
from nanolab.tracking import environment
import psutil
def hidden(**given):
    raise PermissionError("/proc/meminfo")
psutil.virtual_memory = psutil.cpu_count = hidden
tags, facts = run_writer._origin("x"), environment.capture({})
print(tags["mlflow.user"], tags["nanolab.host"], Path.home().is_dir(), "git.dirty" in tags,
      facts["hardware"]["cores"], facts["hardware"]["memory_gb"], facts["git"]["commit"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=run_writer.files.ROOT
    )
    assert done.stdout == f"uid-{os.getuid()} unknown True False None None None\n", done.stderr


def test_a_finished_step_is_found_by_its_fingerprint_only(parent, tmp_path):
    Run(tmp_path / "a").close()
    failed = deliver(tmp_path / "a", parent, "FAILED")
    assert (
        run_reader.record(failed).status == "FAILED"
        and run_reader.find_finished("tiny", "sft", "0123456789ab") is None
    )
    finished = deliver(tmp_path / "a", parent)
    assert run_reader.find_finished("tiny", "sft", "0123456789ab").id == finished
    assert (
        run_reader.find_finished("tiny", "rl", "0123456789ab") is None
        and run_reader.find_finished("tiny", "sft", "0") is None
    )


def test_an_interrupted_steps_grid_points_are_killed_too(parent, tmp_path):
    with Run(tmp_path) as run:
        with run.point("done", {"alpha": 1.0}):
            pass
        with pytest.raises(KeyboardInterrupt), run.point("interrupted", {"alpha": 2.0}):
            raise KeyboardInterrupt
        with pytest.raises(ZeroDivisionError), run.point("failed", {"alpha": 3.0}):
            raise ZeroDivisionError
        run.point("under way", {"alpha": 4.0}).metrics({"accuracy": 0.5})
    step = deliver(tmp_path, parent, "KILLED")
    assert run_reader.record(step).status == "KILLED"
    assert run_reader.find_finished("tiny", "sft", "0123456789ab") is None
    points = [point.status for point in run_reader.children(step)]
    assert points == ["FINISHED", "KILLED", "FAILED", "KILLED"]


def test_a_second_attempt_logs_only_later_points_and_its_run_has_the_whole_curve(parent, tmp_path):
    first = Run(tmp_path)
    for step in range(5):
        first.metrics({"loss": step}, step)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"kind": "metrics", "po')  # killed while it wrote
    second = Run(tmp_path)
    for step in range(3, 7):
        second.metrics({"loss": 100 + step}, step)
    second.close()
    assert run_reader.history(deliver(tmp_path, parent), "loss") == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 105),
        (6, 106),
    ]
    assert all(record["kind"] == "metrics" for record in read_journal(tmp_path))


@pytest.mark.parametrize("junk", [b"\0" * 40, b'"\xff"', b"12"])
def test_what_a_power_cut_left_of_a_journal_is_read_and_its_holes_are_filled(
    junk, tmp_path, monkeypatch
):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), real(number)))
    first = Run(tmp_path)
    for step in (1, 2, 5):
        first.metrics({"loss": step}, step)
    assert synced == []  # a record waits for no disk
    first.close()
    assert len(synced) == 1
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(junk + b"\n" + b'{"kind": "met\n')  # blocks not written yet
    with pytest.raises(UserError, match=r"journal.jsonl is damaged .*: remove .* and run its"):
        read_journal(tmp_path)
    second = Run(tmp_path)
    for step in range(1, 7):
        second.metrics({"loss": 10 * step}, step)
    second.close()
    points = [(record["step"], record["metrics"]["loss"]) for record in read_journal(tmp_path)]
    assert points == [(1, 1), (2, 2), (5, 5), (3, 30), (4, 40), (6, 60)]


def test_runs_of_dead_processes_are_marked_failed_and_others_are_not(parent):
    own = run_writer.open_step(parent, "sft", "a", {}, {})
    dead = run_writer.open_step(parent, "rl", "b", {}, {})
    elsewhere = run_writer.open_step(parent, "rl", "c", {}, {})
    run_writer.set_tag(
        dead, "nanolab.started", "1"
    )  # the process number is in use again by a later process
    run_writer.set_tag(elsewhere, "nanolab.started", "1")
    run_writer.set_tag(elsewhere, "nanolab.host", "another machine")
    assert run_writer.sweep("tiny") == [dead]
    assert [run_reader.record(run).status for run in (own, dead, elsewhere, parent)] == [
        "RUNNING",
        "FAILED",
        "RUNNING",
        "RUNNING",
    ]
    assert set(run_writer.sweep("tiny", "KILLED", own=True)) == {own, parent}  # interrupted, alive
    ended = [run_reader.record(run).status for run in (own, dead, elsewhere, parent)]
    assert ended == ["KILLED", "FAILED", "RUNNING", "KILLED"]


def test_a_moved_store_finds_its_artifacts(parent, store, monkeypatch):
    moved = store.with_name("moved")
    shutil.move(store, moved)
    monkeypatch.setattr(run_writer.files, "MLRUNS", moved)
    assert run_reader.artifact(parent, "a.txt").read_text() == "b"
    run = run_writer.open_step(parent, "sft", "a", {}, {})
    (moved / "x.txt").write_text("x")
    run_writer.log_file(run, moved / "x.txt")
    assert (
        moved / "artifacts" / "tiny" / run / "artifacts" / "x.txt"
    ).is_file() and not store.exists()


def test_an_empty_store_has_no_newest_study(store):
    assert run_reader.newest_study() is None


def test_a_new_store_is_made_whole_with_write_ahead_logging(template_store):
    connection = sqlite3.connect(template_store)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert connection.execute("select count(*) from alembic_version").fetchone() == (1,)
    connection.close()


def test_the_variable_chooses_another_store(store, tmp_path, template_store, monkeypatch):
    shutil.copy(template_store, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    run = run_writer.open_execution({"experiment": "tiny"}, "name", "source")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match=f"no run '{run}'"):
        run_reader.record(run)


def test_a_store_that_cannot_be_reached_ends_the_stage_and_is_raised(tmp_path):
    called = []
    courier = Courier(
        tmp_path,
        lambda: (_ for _ in ()).throw(ConnectionError("no server")),
        lambda: called.append(True),
    )
    with pytest.raises(ConnectionError, match="no server"):
        courier.finish("FAILED")
    assert called == [True]


def test_a_machine_that_cannot_be_measured_is_said_once_and_the_step_goes_on(
    parent, tmp_path, monkeypatch, capsys
):
    """nvidia-smi may hang, and psutil may be refused: everything else still arrives while the step
    runs.
    """

    tries = []

    def samples(disk):
        yield []
        tries.append(disk)
        raise PermissionError("not\nallowed")

    monkeypatch.setattr(system_metrics, "samples", samples)
    monkeypatch.setattr(courier_module, "POLL_SECONDS", 0.01)
    run = Run(tmp_path / "work")
    courier = Courier(
        tmp_path / "work",
        lambda: run_writer.open_step(parent, "sft", "0123456789ab", {}, {}),
    )
    for step in range(3):  # each carried before the next is recorded: the thread is still at work
        run.metrics({"train/loss": 1.0}, step=step)
        while courier._offset < (tmp_path / "work" / JOURNAL).stat().st_size:
            time.sleep(0.01)
    run.close()
    run_id = courier.finish("FINISHED", {})
    assert capsys.readouterr().out == "system metrics end here: PermissionError: not allowed\n"
    assert tries == [tmp_path / "work"]
    assert len(run_reader.history(run_id, "train/loss")) == 3 and courier.error is None


def test_null_run_is_a_run_that_keeps_what_it_is_given_and_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.open", None)
    with NullRun() as run:
        assert isinstance(run, Run)
        run.params({"width": 32})
        run.metrics({"loss": 1}, step=2)
        run.progress("training", 1, 2, "steps")
        run.tag("sandbox", "bwrap")
        run.dataset("gsm8k", "embedded", "f", "evaluation")
        run.artifact("missing.txt", "folder")
        run.text("hello", "text.md")
        run.table([{"a": 1}], "table.json")
        run.figure("a figure", "plots/loss.png", "its data")
        run.flush()
        with run.point("a", {"alpha": 1}) as point:
            point.metrics({"accuracy": 0.5})
    assert not list(tmp_path.iterdir())
    assert run.logged_params == {"width": 32} and run.logged_metrics == [("loss", 1.0, 2)]
    assert run.tables == {"table.json": [{"a": 1}]} and run.datasets[0]["name"] == "gsm8k"
    assert run.figures == {"plots/loss.png": ("a figure", "its data")}
    assert run.points["a"].logged_params == {"alpha": 1}
    assert run.points["a"].logged_metrics == [("accuracy", 0.5, None)]
