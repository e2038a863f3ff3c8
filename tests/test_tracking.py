"""What a stage records reaches MLflow whole, once, and in the right run."""

import inspect
import shutil
import socket
import sqlite3
import subprocess
import sys
import time

import pandas
import pytest

from nanolab import courier as courier_module
from nanolab import tracking
from nanolab.courier import Courier
from nanolab.journal import JOURNAL, read_journal
from nanolab.schema import UserError
from nanolab.tracking import NullRun, Run


def deliver(folder, parent, status="FINISHED", result=None, step="sft"):
    courier = Courier(
        folder,
        lambda: tracking.open_step(
            "tiny", parent, step, "0123456789ab", {"alpha": 4.0}, {"attempt": "1"}
        ),
    )
    return courier.finish(status, result)


@pytest.fixture
def parent(store):
    return tracking.open_execution(
        {"experiment": "tiny", "seed": 3, "data": {"seed": 0}},
        "tiny now",
        "scripts/run_all.py",
        {"a.txt": "b"},
    )


def test_importing_tracking_imports_neither_mlflow_nor_pandas():
    program = (
        "import sys, nanolab.tracking, nanolab.pipeline\n"
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

    made = tracking.record(run_id)
    assert made.params == {"alpha": "4.0", "width": "32", "note": "None"}
    assert tracking.history(run_id, "train/loss") == [(step, step / 2) for step in range(1500)]
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
        assert tracking.artifact(run_id, name).read_text() == content
    assert tracking.artifact(run_id, "plots/loss.png").stat().st_size > 1000
    (point,) = tracking.children(run_id)
    assert (point.name, point.params, point.metrics, point.status) == (
        "alpha=4 T=0.7",
        {"alpha": "4.0"},
        {"accuracy": 0.5},
        "FINISHED",
    )
    for each in (run_id, point.id):
        (data,) = tracking.client().get_run(each).inputs.dataset_inputs
        assert data.dataset.name == "gsm8k" and data.tags[0].value == "evaluation"
    note = point.tags["mlflow.note.content"]
    assert note.startswith("alpha 4 · **0.500** · a point of [") and run_id in note
    assert [step.id for step in tracking.children(parent)] == [run_id]


def test_an_execution_holds_the_whole_study_and_where_it_comes_from(parent):
    run = tracking.record(parent)
    assert run.params == {"experiment": "tiny", "seed": "3", "data.seed": "0"}
    assert (
        run.tags["mlflow.source.name"] == "scripts/run_all.py"
        and run.tags["nanolab.host"] == socket.gethostname()
    )
    assert tracking.artifact(parent, "a.txt").read_text() == "b"
    assert [execution.id for execution in tracking.executions("tiny")] == [
        parent
    ] and tracking.executions("unknown") == []
    assert tracking.newest_study() == ("tiny", run.experiment_id)


def test_a_finished_step_is_found_by_its_fingerprint_only(parent, tmp_path):
    Run(tmp_path / "a").close()
    failed = deliver(tmp_path / "a", parent, "FAILED")
    assert (
        tracking.record(failed).status == "FAILED"
        and tracking.find_finished("tiny", "sft", "0123456789ab") is None
    )
    finished = deliver(tmp_path / "a", parent)
    assert tracking.find_finished("tiny", "sft", "0123456789ab").id == finished
    assert (
        tracking.find_finished("tiny", "rl", "0123456789ab") is None
        and tracking.find_finished("tiny", "sft", "0") is None
    )


def test_a_second_attempt_logs_only_later_points_and_its_run_has_the_whole_curve(parent, tmp_path):
    first = Run(tmp_path)
    for step in range(5):
        first.metrics({"loss": step}, step)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"kind": "metrics", "po')  # killed while it wrote
    second = Run(tmp_path)
    assert second.last_step("loss") == 4 and second.last_step("other") is None
    for step in range(3, 7):
        second.metrics({"loss": 100 + step}, step)
    assert second.last_step("loss") == 6
    second.close()
    assert tracking.history(deliver(tmp_path, parent), "loss") == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 105),
        (6, 106),
    ]
    assert all(record["kind"] == "metrics" for record in read_journal(tmp_path))


def test_runs_of_dead_processes_are_marked_failed_and_others_are_not(parent):
    own = tracking.open_step("tiny", parent, "sft", "a", {}, {})
    dead = tracking.open_step("tiny", parent, "rl", "b", {}, {})
    elsewhere = tracking.open_step("tiny", parent, "rl", "c", {}, {})
    tracking.set_tag(
        dead, "nanolab.started", "1"
    )  # the process number is in use again by a later process
    tracking.set_tag(elsewhere, "nanolab.started", "1")
    tracking.set_tag(elsewhere, "nanolab.host", "another machine")
    assert tracking.sweep("tiny") == [dead]
    assert [tracking.record(run).status for run in (own, dead, elsewhere, parent)] == [
        "RUNNING",
        "FAILED",
        "RUNNING",
        "RUNNING",
    ]


def test_a_moved_store_finds_its_artifacts(parent, store, monkeypatch):
    moved = store.with_name("moved")
    shutil.move(store, moved)
    monkeypatch.setattr(tracking.files, "MLRUNS", moved)
    assert tracking.artifact(parent, "a.txt").read_text() == "b"
    run = tracking.open_step("tiny", parent, "sft", "a", {}, {})
    (moved / "x.txt").write_text("x")
    tracking.log_file(run, moved / "x.txt")
    assert (
        moved / "artifacts" / "tiny" / run / "artifacts" / "x.txt"
    ).is_file() and not store.exists()


def test_an_empty_store_has_no_newest_study(store):
    assert tracking.newest_study() is None


def test_a_new_store_is_made_whole_with_write_ahead_logging(template_store):
    connection = sqlite3.connect(template_store)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert connection.execute("select count(*) from alembic_version").fetchone() == (1,)
    connection.close()


def test_the_variable_chooses_another_store(store, tmp_path, template_store, monkeypatch):
    shutil.copy(template_store, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    run = tracking.open_execution({"experiment": "tiny"}, "name", "source")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match=f"no run '{run}'"):
        tracking.record(run)


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
    """nvidia-smi may hang, and psutil may be refused: everything else still arrives while the step runs."""

    class Broken:
        count = 0

        def __init__(self, disk):
            pass

        def due(self):
            return True

        def sample(self):
            Broken.count += 1
            raise PermissionError("not\nallowed")

    monkeypatch.setattr(courier_module, "Sampler", Broken)
    monkeypatch.setattr(courier_module, "POLL_SECONDS", 0.01)
    run = Run(tmp_path / "work")
    courier = Courier(
        tmp_path / "work", lambda: tracking.open_step("tiny", parent, "sft", "0123456789ab", {}, {})
    )
    for step in range(3):  # each carried before the next is recorded: the thread is still at work
        run.metrics({"train/loss": 1.0}, step=step)
        while courier._offset < (tmp_path / "work" / JOURNAL).stat().st_size:
            time.sleep(0.01)
    run.close()
    run_id = courier.finish("FINISHED", {})
    assert (
        capsys.readouterr().out == "system metrics end here: PermissionError: not allowed\n"
        and Broken.count == 1
    )
    assert len(tracking.history(run_id, "train/loss")) == 3 and courier.error is None


def test_null_run_is_a_run_with_every_method_and_keeps_what_it_is_given():
    run = NullRun()
    assert isinstance(run, Run)
    for name, method in inspect.getmembers(Run, inspect.isfunction):
        if not name.startswith("_") or name == "__exit__":
            assert name in vars(NullRun), f"NullRun does not replace {name}, which writes a file"
            assert (
                inspect.signature(getattr(NullRun, name)).parameters.keys()
                == inspect.signature(method).parameters.keys()
            )
    run.metrics({"loss": 1}, step=2)
    with run.point("a", {"alpha": 1}) as point:
        point.metrics({"accuracy": 0.5})
    assert run.logged_metrics == [("loss", 1.0, 2)] and run.last_step("loss") == 2
    assert run.points["a"].logged_params == {"alpha": 1} and run.points["a"].logged_metrics == [
        ("accuracy", 0.5, None)
    ]
