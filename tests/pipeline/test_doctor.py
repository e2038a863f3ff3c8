"""Claims: each check of doctor sees what is wrong when it is really wrong, and says what to do; the
status is 1 for a problem.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys

from nanolab import files
from nanolab.pipeline import doctor
from nanolab.pipeline.study_lock import studies_held, study_lock
from nanolab.tracking import run_writer


def assert_store(state, found="", fix=""):
    check = doctor.tracking()
    assert check.state == state and found in check.found and fix in check.fix


def test_this_install_is_in_order(store, monkeypatch):
    assert doctor.packages(files.ROOT / "requirements.lock").state == "ok"
    assert_store("ok", found="writable")
    assert doctor.disk(files.MLRUNS / "not" / "there").name == "disk"
    assert doctor.git().found and doctor.hardware().state in ("ok", "warning")


def test_a_package_that_is_missing_or_of_another_version_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "required", lambda: ["numpy", "no-such-package-of-ours"])
    found = doctor.packages(files.ROOT / "requirements.lock")
    assert (found.state, found.found, found.fix) == (
        "problem",
        "not installed: no-such-package-of-ours",
        "make setup",
    )
    (tmp_path / "lock").write_text("numpy==0.0.1\n")
    monkeypatch.setattr(doctor, "required", lambda: ["numpy"])
    found = doctor.packages(tmp_path / "lock")
    assert found.state == "warning" and "(pinned: 0.0.1)" in found.found


def test_a_store_that_cannot_serve_is_a_problem(store, monkeypatch):
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")  # MLflow 1.0
    assert doctor.tracking().state == "problem" and "mlflow db upgrade" in doctor.tracking().fix
    (store / "mlflow.db").write_bytes(b"no database at all, but longer than nothing" * 100)
    assert doctor.tracking().state == "problem" and "not a database" in doctor.tracking().found
    (store / "mlflow.db").unlink()
    assert doctor.tracking().state == "ok" and "the first run makes it" in doctor.tracking().found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert doctor.tracking().state == "problem" and "does not answer" in doctor.tracking().found


def test_a_damaged_or_empty_store_stops_none_of_the_other_checks(store, monkeypatch):
    monkeypatch.setattr(doctor, "torch_and_what_it_runs", lambda: iter(()))
    for content, state in (
        (b"no database at all" * 300, "problem"),
        (b"SQLite format 3\0", "problem"),
        (b"", "ok"),
    ):
        (store / "mlflow.db").write_bytes(content)
        found = {check.name: check.state for check in doctor.examine()}
        assert found["tracking"] == state and "git" in found


def test_a_port_that_is_taken_is_named_with_who_has_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = doctor.port(number, "make ui", "make ui PORT=5001")
        assert found.state == "warning" and f"process {os.getpid()}" in found.found
    assert doctor.port(number, "make ui", "make ui PORT=5001").state == "ok"


def test_runs_of_dead_processes_and_held_studies_are_seen(store):
    run_id = run_writer.open_execution({"experiment": "tiny"}, "tiny now", "scripts/run_all.py")
    assert doctor.dead_runs().state == "ok"
    run_writer.set_tag(run_id, "nanolab.started", "1")  # another process has the number now
    assert (
        doctor.dead_runs().state == "warning"
        and "1 RUNNING of ended processes (tiny)" in doctor.dead_runs().found
    )
    with study_lock("tiny"):
        assert studies_held() == "being run: tiny"
    assert studies_held() == "none held; 1 left by ended runs, which are free"


def test_data_that_is_not_there_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.delenv("NANOLAB_DATA", raising=False)
    assert doctor.data(False).state == "ok"
    monkeypatch.setenv("NANOLAB_DATA", str(tmp_path / "data"))
    assert doctor.data(False).state == "problem"
    (tmp_path / "data" / "text").mkdir(parents=True)
    assert doctor.data(False).state == "warning" and "without chat, core" in doctor.data(False).fix
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert doctor.data(True).state == "problem" and "cannot be reached" in doctor.data(True).found


def test_the_command_prints_a_line_a_check_and_its_status_says_whether_one_is_a_problem(lab):
    """In a lab without torch's own parts: what torch says is asked in a process of its own, which
    may fail.
    """
    environment = {**lab.environment, "NANOLAB_DATA": str(lab.root / "nowhere")}
    for name in ("pyproject.toml", "requirements.lock"):
        (lab.root / name).write_text((files.ROOT / name).read_text())
    command = [sys.executable, "-m", "nanolab", "doctor", "--json"]
    done = subprocess.run(command, cwd=lab.root, env=environment, capture_output=True, text=True)
    checks = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert (
        done.returncode == 1
        and done.stderr == ""
        and set(checks) >= {"python", "packages", "torch", "disk", "data", "tracking", "git"}
    )
    assert (
        checks["data"]["state"] == "problem"
        and checks["data"]["fix"]
        and checks["packages"]["state"] == "ok"
    )
    assert (
        checks["torch"]["state"] == "ok"
        and checks["sandbox"]["found"]
        and checks["kernels"]["found"]
    )
