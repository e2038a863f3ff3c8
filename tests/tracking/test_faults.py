"""Claims: each fault of the store is one line with a way out that works; one that is locked or away
is waited for, and that is said.
"""

import contextlib
import sqlite3
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nanolab import files
from nanolab.__main__ import main
from nanolab.errors import UserError
from nanolab.pipeline import doctor
from nanolab.pipeline import execution as pipeline
from nanolab.plan import steps
from nanolab.settings.config import Job, StudyConfig, TokenizerConfig
from nanolab.tracking import faults, run_reader, run_writer
from nanolab.tracking import store as tracking_store
from nanolab.tracking.address import store_uri
from nanolab.tracking.journal import Run
from nanolab.tracking.store import client


@pytest.fixture
def told(monkeypatch):
    """What was said, with waits of no length."""
    lines = []
    monkeypatch.setattr(faults, "notify", lines.append)
    monkeypatch.setattr(faults, "TOLD_SECONDS", 0.05)
    monkeypatch.setattr(faults, "PAUSE_SECONDS", 0.02)
    return lines


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"no database " * 300,
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[: 20 * 4096] + b"\xff" * (60 * 4096) + whole[80 * 4096 :],
    ],
)
def test_a_damaged_store_is_one_line_in_every_command(damage, store, capsys):
    database = store / "mlflow.db"
    database.write_bytes(damage(database.read_bytes()))
    for words in (["compare", "tiny", "tiny"], ["clean"]):
        tracking_store._client.cache_clear()
        assert main(words) == 2
        error = capsys.readouterr().err
        assert (
            error.startswith(f"error: the store {database} is damaged (") and error.count("\n") == 1
        )
        assert (
            f"`mv {database} {database}.damaged`" in error
            and "lost are earlier executions" in error
        )


def test_the_next_run_makes_a_store_that_was_moved_away_and_records_what_is_finished(
    store, monkeypatch
):
    study = StudyConfig(experiment="tiny")
    folder = files.work_folder("tiny", "tok_train", "0123456789ab")
    steps.write_job(Job("tok_train", study, TokenizerConfig(), folder, {}))
    with Run(folder) as run:
        for step in range(3):
            run.metrics({"train/loss": 1 / (step + 1)}, step)
    files.write_json(
        folder / steps.RESULT,
        {"step": "tok_train", "metrics": {"vocab_size": 300}, "started": 5.0, "ended": 7.0},
    )
    execution = pipeline.Execution(
        study, run_writer.open_execution({"experiment": "tiny"}, "now", "source"), "source"
    )
    execution.reuse(steps.Step("tok_train", TokenizerConfig(), "0123456789ab", folder))
    run_id = execution.result.run_ids["tok_train"]
    made = run_reader.record(run_id)
    assert (made.status, made.metrics["final/vocab_size"], made.end) == ("FINISHED", 300.0, 7000)
    assert [step for step, _ in run_reader.history(run_id, "train/loss")] == [0, 1, 2]


@pytest.mark.parametrize(
    "version, words",
    [
        (
            "451aebb31d03",
            "of an older MLflow: copy the file .* -m mlflow db upgrade sqlite:",
        ),
        ("0000000000ff", "which this MLflow does not know: a newer one made it"),
    ],
)
def test_a_store_of_another_mlflow_is_one_line(version, words, store):
    connection = sqlite3.connect(store / "mlflow.db")
    connection.execute("update alembic_version set version_num = ?", (version,))
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match=f"has the schema {version}.*{words}"):
        client()
    assert doctor.tracking().state == "problem" and version in doctor.tracking().found


@pytest.mark.parametrize(
    "place, why",
    [
        ("/dev/null", "that is no file"),
        ("{here}", "that is no file"),
        ("{here}/file/x.db", "File exists: {here}/file"),
        ("{here}/file/below/x.db", "Not a directory: {here}/file/below"),
        ("{here}/dangling/x.db", "File exists: {here}/dangling"),
        ("{here}/%s/x.db" % (256 * "a"), "File name too long: "),
        ("/proc/none/x.db", "No such file or directory: /proc/none"),
    ],
)
def test_a_place_where_no_store_can_be_is_one_line(place, why, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    place, why = place.format(here=tmp_path), why.format(here=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}")
    assert main(["results", "micro"]) == 2
    assert capsys.readouterr().err.startswith(f"error: no store can be at {place} ({why}")


def test_a_store_that_may_not_be_written_is_one_line(store):
    """Opened for reading alone: the superuser, as whom tests may run, may write any file."""
    run_writer.open_execution({"experiment": "tiny"}, "now", "source")

    def write():
        address = f"file:{store}/mlflow.db?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("create table more (name text)")

    with pytest.raises(
        UserError,
        match=r"cannot be written .*readonly database.*: change its owner or mode, or copy",
    ):
        faults.guarded(store_uri(), write)


def test_a_locked_store_is_waited_for_and_both_ends_of_it_are_told(store, told):
    database = store / "mlflow.db"
    holder = sqlite3.connect(database, check_same_thread=False)
    holder.execute("begin immediate")
    threading.Timer(0.4, holder.rollback).start()

    def write():
        connection = sqlite3.connect(database, timeout=0)
        connection.execute("begin immediate")
        connection.close()
        return "written"

    assert faults.guarded(store_uri(), write) == "written"
    assert (
        len(told) == 2
        and "has not answered for" in told[0]
        and "a training goes on" in told[0]
        and "answers again" in told[1]
    )


def test_a_store_that_stays_locked_or_away_ends_in_one_line(told, monkeypatch):
    monkeypatch.setattr(faults, "WAIT_SECONDS", 0.1)

    def fails(error):
        raise error

    with pytest.raises(UserError, match=r"has been locked by another process .*fuser /a/mlflow.db"):
        faults.guarded(
            "sqlite:////a/mlflow.db", lambda: fails(sqlite3.OperationalError("database is locked"))
        )
    with pytest.raises(
        UserError, match=r"tracking server http://host does not answer .*the same command goes on"
    ):
        faults.guarded(
            "http://host", lambda: fails(ConnectionRefusedError(111, "Connection refused"))
        )
    assert len(told) == 2


def test_a_store_that_is_there_is_read_without_a_lock(store, monkeypatch):
    """As on a disk that is mounted for reading, where no file of a lock can be opened."""
    run_writer.open_execution({"experiment": "tiny"}, "now", "source")
    tracking_store._client.cache_clear()
    monkeypatch.setattr(files, "file_lock", lambda *given: 1 / 0)
    assert client().get_experiment_by_name("tiny")


def test_a_store_that_another_process_makes_for_ever_ends_in_one_line(told, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "WAIT_SECONDS", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    with (
        files.file_lock(tmp_path / ".store.lock"),
        pytest.raises(UserError, match=r"\.store\.lock has been locked by another process for 0"),
    ):
        client()


@pytest.mark.parametrize(
    "status, body",
    [
        (200, "<html>"),
        (200, "[]"),
        (200, '{"experiments": 3}'),
        (404, "<html>"),
        (404, "{}"),
        (405, "no"),
        (302, ""),
    ],
)
def test_a_server_that_is_not_mlflows_is_one_line(status, body, monkeypatch, capsys):
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            health = self.path == "/health"
            self.send_response(200 if health else status)
            self.send_header("Content-Length", str(0 if health else len(body)))
            self.end_headers()
            self.wfile.write(b"" if health else body.encode())

        do_POST = do_GET

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    try:
        with pytest.raises(UserError, match=f"{uri} answers, but not as MLflow does .*: give its"):
            client().search_experiments()
    finally:
        server.shutdown()
        server.server_close()


def test_advice_on_a_deleted_experiment_restores_it(store):
    run_writer.open_execution({"experiment": "tiny"}, "now", "source")
    found = client().get_experiment_by_name("tiny")
    client().delete_experiment(found.experiment_id)
    with pytest.raises(UserError, match="is deleted: restore it with `") as caught:
        run_writer.experiment_id("tiny")
    advice = str(caught.value).split("`")[1]
    subprocess.run(advice, shell=True, check=True, cwd=store.parent, capture_output=True)
    assert run_writer.experiment_id("tiny") == found.experiment_id


def test_an_error_that_cannot_say_itself_is_raised_as_it_is(told):
    class Mute(OSError):
        def __str__(self):
            raise RuntimeError("no words")

    def fails():
        raise Mute

    with pytest.raises(Mute):
        faults.guarded("http://host", fails)


def test_an_error_that_is_no_fault_of_the_store_is_raised_as_it_is(told):
    with pytest.raises(ZeroDivisionError):
        faults.guarded("http://host", lambda: 1 / 0)
    assert told == []
