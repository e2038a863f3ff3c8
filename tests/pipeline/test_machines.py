"""Claims: machines after the first run their part of each step in the first one's order, wait for
its results, and keep no records.
"""

import os
import socket
import subprocess
import sys

import pytest

from nanolab import files
from nanolab.errors import UserError
from nanolab.pipeline import machines
from nanolab.pipeline.launch import StageFailed
from nanolab.pipeline.study import run_study
from nanolab.plan import durations
from nanolab.plan.preparation import prepare_seeds
from nanolab.plan.steps import RESULT, plan
from nanolab.settings.study_file import study_from_dict
from nanolab.terminal.events import Ended, Failed, Finished, Screen, Started
from nanolab.tracking import run_reader

SECOND = {
    "experiment": "tiny",
    "steps": ["tok_train", "tok_eval", "report"],
    "launch": {"nnodes": 2, "node_rank": 1, "rdzv_endpoint": "127.0.0.1:29500"},
}


class Told(Screen):
    """Keeps what it is told."""

    def __init__(self):
        self.events = []

    def show(self, event):
        match event:
            case Started():
                self.events.append(f"[{event.place}] {event.step}")
            case Finished():
                self.events.append(f"{event.step} {event.metrics}")
            case Failed():
                told = f"{event.step}: {event.error}, {event.log.name}, {event.command}"
                self.events.append(told)
            case Ended():
                self.events.append(event.status)


@pytest.fixture
def part(store, monkeypatch):
    """Takes part in the study SECOND, whose stages end with `error`; a first machine writes each
    result when it is waited for.
    """
    study, told, launched = study_from_dict(SECOND), Told(), []

    def take_part(error=None):
        steps = list(plan(study, ["tok_train", "tok_eval"]).values())

        class Stage:
            def __init__(self, command, log, threads):
                launched.append((command, log))

            def wait(self, show):
                if error:
                    raise error

        monkeypatch.setattr(machines.launch, "Stage", Stage)
        monkeypatch.setattr(
            machines.time,
            "sleep",
            lambda _: files.write_json(
                next(step for step in steps if not step.finished).folder / RESULT,
                {"metrics": {"vocabulary": 300}},
            ),
        )
        return machines.take_part([(study, steps)], "the same again", told)

    return take_part, told, launched


def test_the_steps_run_in_order_as_this_machine_s_part_and_each_result_is_waited_for(part):
    take_part, told, launched = part
    assert take_part() == 0
    assert told.events == [
        "[1/2] tok_train",
        "tok_train {'vocabulary': 300}",
        "[2/2] tok_eval",
        "tok_eval {'vocabulary': 300}",
        "finished",
    ]
    assert [log.name for _, log in launched] == ["log-1.txt", "log-1.txt"]
    assert all(
        {"--nnodes=2", "--node-rank=1", "--master-port=29500"} <= set(command)
        for command, _ in launched
    )


def test_a_failed_stage_an_interrupt_and_a_mistake_end_the_part(part):
    take_part, told, _ = part
    assert (
        take_part(StageFailed("the stage failed with exit status 1", "", "; its last lines: ..."))
        == 1
    )
    assert told.events[-2:] == [
        "tok_train: the stage failed with exit status 1, log-1.txt, the same again",
        "failed",
    ]
    assert take_part(KeyboardInterrupt()) == 130
    assert told.events[-1] == "interrupted"
    mistake = StageFailed("the stage failed", "no text")
    with pytest.raises(UserError, match=r"^tok_train: no text$"):
        take_part(mistake)


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_step_that_failed_on_the_first_machine_is_not_waited_for(part, status):
    take_part, told, _ = part
    step = plan(study_from_dict(SECOND), ["tok_train"])["tok_train"]
    earlier, running = (
        {"started": 1.0, "seconds": 2.0, "status": "FAILED"},
        {
            "started": 4.0,
            "seconds": None,
            "status": "FAILED",
        },
    )
    files.write_json(step.folder / durations.ATTEMPTS, [earlier, running])
    assert take_part() == 0
    (step.folder / RESULT).unlink()
    files.write_json(
        step.folder / durations.ATTEMPTS, [earlier, {**running, "seconds": 3.0, "status": status}]
    )
    assert take_part() == 1
    assert told.events[-2:] == [
        (
            "tok_train: the step failed on machine 0: its log there says why, log-1.txt, the same "
            "again"
        ),
        "failed",
    ]


def test_only_the_first_machine_sets_finished_steps_aside(store, tmp_path):
    with pytest.raises(UserError, match="--fresh is for machine 0 alone"):
        launch = ["launch.nnodes=2", "launch.node_rank=1", "launch.rdzv_endpoint=127.0.0.1:29500"]
        run_study(prepare_seeds("micro", launch, []), Told(), fresh=True)


@pytest.mark.dist
def test_two_launches_are_two_machines_of_one_study(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "NANOLAB_MLRUNS": str(tmp_path / "mlruns")}
    command = [
        sys.executable,
        "scripts/run_all.py",
        "micro",
        "--only",
        "tok_train",
        "--set",
        "launch.nnodes=2",
        "--set",
        f"launch.rdzv_endpoint=127.0.0.1:{port}",
    ]
    started = [
        subprocess.Popen(
            [*command, "--set", f"launch.node_rank={rank}"],
            env=environment,
            cwd=files.ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in (1, 0)
    ]
    second, first = (process.communicate(timeout=120)[0] for process in started)
    assert [process.returncode for process in started] == [0, 0], second + first
    assert "machine 1 takes part (of 2, from 0 on)" in second and "finished after" in second
    monkeypatch.setattr(files, "MLRUNS", tmp_path / "mlruns")
    assert len(run_reader.executions("micro")) == 1  # the second keeps no records
    (folder,) = (tmp_path / "mlruns" / "work" / "micro" / "tok_train").iterdir()
    assert (folder / "log.txt").is_file() and (folder / "log-1.txt").is_file()
