"""Launched processes: one machine needs no name, silence is said, and what failed first is the
reason.
"""

import os
import signal
import socket
import sys
import time

import pytest

from nanolab import files
from nanolab.pipeline import failures, launch, worker
from nanolab.pipeline.launch import Stage, StageFailed, command
from nanolab.settings.config import LaunchConfig
from nanolab.tracking import progress
from nanolab.tracking.journal import JOURNAL

TWO = LaunchConfig(nproc=2)
# a rank that needs no torch: what it does stands in the job file
RANK = """
import os, signal, sys, time
from pathlib import Path
from nanolab.pipeline import failures
folder, rank = Path(sys.argv[1]).parent, int(os.environ["RANK"])
if Path(sys.argv[1]).read_text() == "kill":
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while not (folder / "pid-1").is_file() or not (folder / "pid-1").read_text():
        time.sleep(0.01)
    other = Path("/proc") / (folder / "pid-1").read_text() / "stat"
    while other.is_file() and other.read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
        time.sleep(0.01)
    failures.note(folder, "RuntimeError: Connection closed by peer")
    sys.exit(1)
if rank == 1:
    failures.note(folder, "the text of row 7 is null: give it a text", mistake=True)
    sys.exit(2)
while not (folder / "errors" / "rank-1.json").is_file():
    time.sleep(0.01)
failures.note(folder, "RuntimeError: Connection closed by peer")
sys.exit(1)
"""


@pytest.fixture
def two_ranks(tmp_path, monkeypatch):
    """Runs RANK twice under torchrun, on a machine whose own name does not resolve."""
    (tmp_path / "scripted.py").write_text(RANK)
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\nsocket.getfqdn = lambda name='': 'no-such-machine.invalid'\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{files.ROOT}")

    def run(behaviour):
        job = tmp_path / "step" / "job.json"
        job.parent.mkdir(exist_ok=True)
        job.write_text(behaviour)
        failures.clear(job.parent)
        arguments = command(job, TWO)
        assert arguments[-3:] == ["nanolab", "stage", str(job)]
        stage = Stage([*arguments[:-3], "scripted", str(job)], job.parent / "log.txt", 1)
        signal.alarm(60)  # a launch that waits for a name for ever
        try:
            with pytest.raises(StageFailed) as caught:
                stage.wait(lambda line: None)
        finally:
            signal.alarm(0)
        return caught.value, (job.parent / "log.txt").read_text()

    return run


def test_a_killed_rank_is_the_reason_however_early_the_others_complain(two_ranks):
    failed, log = two_ranks("kill")
    reason = "rank 1 was ended by signal 9, SIGKILL (by hand, or by the system when memory ran out)"
    assert str(failed).partition("; its last lines")[0] == reason and not failed.mistake
    assert (
        str(failed).splitlines()[-1] == reason and "Root Cause" not in log
    )  # the last line is what a terminal shows


def test_a_mistake_that_one_rank_met_ends_as_that_one_line(two_ranks):
    failed, log = two_ranks("mistake")
    assert failed.mistake == "rank 1: the text of row 7 is null: give it a text"
    assert log.splitlines()[-1] == f"error: {failed.mistake}" and "Root Cause" not in log


def test_a_command_on_one_machine_names_addresses_only():
    arguments = command("job.json", TWO)
    assert "--standalone" not in arguments and not any(
        word in " ".join(arguments) for word in ("localhost", socket.gethostname())
    )
    assert {"--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"} <= set(arguments)


def test_the_first_of_several_failures_is_told_with_its_rank_and_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_RANK", "1")
    assert failures.first_failure(tmp_path) is None
    failures.note(tmp_path, "ZeroDivisionError: division by zero", 3)
    failures.note(tmp_path, "RuntimeError: Connection closed by peer", 0, machine=0)
    assert (
        failures.first_failure(tmp_path).reason
        == "rank 3 (on machine 1) failed: ZeroDivisionError: division by zero"
    )
    failures.clear(tmp_path)
    assert failures.first_failure(tmp_path) is None


def test_a_stage_that_fails_says_why_and_so_does_the_notebook(tmp_path, monkeypatch):
    """`worker` keeps the error before it ends; the launcher puts its last line first."""
    (tmp_path / "job.json").write_text("{}")
    monkeypatch.setattr(worker, "work", lambda job: {}["nothing"])
    assert worker.main(str(tmp_path / "job.json")) == 1
    noted = KeyError("nothing")
    noted.add_note("in row 7 of rows.parquet")  # torch and datasets add such notes
    monkeypatch.setattr(worker, "work", lambda job: (_ for _ in ()).throw(noted))
    assert worker.main(str(tmp_path / "job.json")) == 1
    with pytest.raises(
        StageFailed, match=r"^the stage failed: KeyError: 'nothing'; its last lines"
    ):
        Stage([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "log.txt", 1).wait(
            lambda line: None
        )
    with pytest.raises(StageFailed, match=r"^the stage was ended by signal 9, SIGKILL \(by hand"):
        Stage(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "log.txt", 1
        ).wait(lambda line: None)


def test_a_silent_stage_is_told_of_and_not_in_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(launch, "LISTEN_SECONDS", 0.02)
    lines = []
    stage = Stage(
        [sys.executable, "-S", "-c", "import time; time.sleep(1.2); print('at last')"],
        tmp_path / "log.txt",
        1,
    )
    stage.wait(lines.append)
    told = [line for line in lines if line.startswith("no sign of life for")]
    assert (
        1 <= len(told) <= 4
        and lines[-1] == "at last\n"
        and (tmp_path / "log.txt").read_text() == "at last\n"
    )


def test_silence_is_told_soberly_and_begins_anew_with_each_sign_of_life(tmp_path):
    began = time.time()
    now = [began]
    silence = progress.Silence(tmp_path, lambda: now[0])

    def told(seconds):
        """At which seconds from the start a line comes, looked at every ten."""
        found = []
        for second in seconds:
            now[0] = began + second
            if silence.line():
                found.append(second)
        return found

    assert told(range(0, 1000, 10)) == [120, 240, 480, 960]
    (tmp_path / JOURNAL).write_text("{}\n")
    os.utime(tmp_path / JOURNAL, (began + 1000, began + 1000))
    assert told(range(1000, 1400, 10)) == [1120, 1240]
    (tmp_path / "log-1.txt").write_text("a word\n")
    os.utime(tmp_path / "log-1.txt", (began + 1400, began + 1400))
    assert told(range(1400, 1600, 10)) == [1520]
