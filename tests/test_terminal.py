"""Claims: each way of showing a run says what it should and no more; a follower tells what the work folders hold, and guesses nothing."""

import io
import json
import subprocess
import sys
import time

import pytest

from nanolab import durations, files, follow, screens, terminal, terminal_live
from nanolab.commands import table
from nanolab.config import TokenizerConfig
from nanolab.journal import Run
from nanolab.plan import JOB, RESULT, Step
from nanolab.progress import Progress
from nanolab.schema import to_dict

SUMMARY = "| Metric | SFT |\n|--------|-----|\n| GSM8K  | 0.5 |"
ENDING = terminal.Ending(
    "finished",
    75.0,
    SUMMARY,
    "report.md",
    "report.html",
    "log.txt",
    "models:/smoke@best",
    "make ui, then ADDRESS",
    "run1",
)
MARK = "0123456789ab"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Two planned steps, of which nothing exists."""
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    return [
        Step(name, TokenizerConfig(), MARK, files.work_folder("tiny", name, MARK))
        for name in ("tok_train", "tok_eval")
    ]


def attempt(step, started, seconds=None, ended=None):
    """What a step's folder holds while it runs, or (`ended`) when it is finished."""
    files.write_json(step.folder / JOB, {"config": to_dict(step.config)})
    status = "FAILED" if seconds is None else "FINISHED"
    files.write_json(
        step.folder / durations.ATTEMPTS,
        [{"started": started, "seconds": seconds, "status": status}],
    )
    if ended is not None:
        files.write_json(
            step.folder / RESULT,
            {"metrics": {"compression_ratio": 4.25}, "started": started, "ended": ended},
        )


def tell(screen, steps):
    """A run of two steps, of which the first is reused and the second fails."""
    with screen:
        screen.plan("tiny", steps, {"study": "tiny", "log": "log.txt"})
        screen.finished("tok_train", 3.0, {"compression_ratio": 4.25}, True)
        screen.started("tok_eval", steps[1].folder, "2/2")
        screen.progress(
            "tok_eval",
            Progress("training", "steps", 3, 10, 7.0, 36_700.0, {"train/loss": [(3, 2.5)]}),
            7.0,
            None,
        )
        screen.output("from a kernel\n")
        screen.failed(
            terminal.Failure("tok_eval", "RuntimeError: it broke", "log.txt", "run it again")
        )
        screen.ended(ENDING)


def test_without_a_terminal_there_is_one_plain_line_an_event(steps, capsys):
    tell(screens.open_screen(), steps)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "from a kernel" not in out
    assert "tok_train        missing     0123456789ab        -\n" in out
    assert (
        "tok_train        reused       3.0 s   4.25 bytes per token\n[2/2] tok_eval running\n"
        in out
    )
    assert (
        "| GSM8K  | 0.5 |" in out
        and "report: report.md\npage:   report.html\nmodel:  models:/smoke@best\nruns:   make ui, then"
        in out
    )
    assert err.splitlines() == [
        "tok_eval failed",
        "  error  RuntimeError: it broke",
        "  log    log.txt",
        "  go on  run it again   (everything so far is kept)",
    ]
    tell(screens.open_screen(verbose=True), steps)
    assert "from a kernel" in capsys.readouterr().out


def test_quiet_is_errors_and_the_path_of_the_report(steps, capsys):
    tell(screens.open_screen("quiet"), steps)
    out, err = capsys.readouterr()
    assert out == "report.md\n" and err.startswith("tok_eval failed\n")


def test_json_is_one_object_an_event_and_nothing_else(steps, capsys):
    tell(screens.open_screen("json"), steps)
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        "plan",
        "step_finished",
        "step_started",
        "progress",
        "step_failed",
        "summary",
    ]
    assert err == "" and [step["state"] for step in events[0]["steps"]] == ["missing", "missing"]
    assert events[1]["state"] == "reused" and events[1]["metrics"] == {"compression_ratio": 4.25}
    assert (
        events[3]["metrics"] == {"train/loss": 2.5}
        and events[3]["step_seconds_left"] == 7.0
        and events[3]["study_seconds_left"] is None
    )
    assert events[5]["report"] == "report.md" and events[5]["html"] == "report.html"


def test_the_live_line_says_how_far_a_step_is_and_leaves_no_control_codes_with_no_color(
    steps, monkeypatch
):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal_live.LiveScreen(False)
    screen.started("tok_eval", steps[1].folder, "2/2")
    screen.progress(
        "tok_eval",
        Progress("training", "steps", 3, 10, 7.0, 36_700.0, {"train/loss": [(3, 2.5)]}),
        7.0,
        None,
    )
    console = terminal_live.Console(file=io.StringIO(), width=110)
    console.print(screen._draw())
    text = console.file.getvalue()
    assert (
        "tok_eval" in text
        and "training 3/10 · loss 2.500 · 36.7k tokens/s" in text
        and "7 s left" in text
    )
    assert "step 2/2" in text and "time left unknown" in text and "\x1b" not in text


def test_a_follower_tells_start_progress_and_end_of_each_step_once(steps):
    told = []

    class Screen(terminal.Screen):
        def started(self, step, folder, place):
            told.append(("started", step, place))

        def progress(self, step, now, step_left, study_left):
            told.append(("progress", step, now.done, step_left, study_left))

        def finished(self, step, seconds, metrics, reused):
            told.append(("finished", step, seconds, metrics, reused))

    attempt(steps[0], time.time() - 50)  # an earlier attempt's
    follower = follow.Follower(steps, Screen(), lambda step: f"{step}!", None)
    follower.look()
    assert told == []
    now = time.time()
    attempt(steps[0], now)
    with Run(steps[0].folder) as run:
        follower.look()
        run.progress("training", 1, 4, "steps")
        follower.look()
    assert told == [
        ("started", "tok_train", "tok_train!"),
        ("progress", "tok_train", None, None, None),
        ("progress", "tok_train", 1, None, None),
    ]
    attempt(steps[0], now, 2.0, now + 2)
    follower.look()
    follower.look()
    assert (
        told[3:] == [("finished", "tok_train", 2.0, {"compression_ratio": 4.25}, False)]
        and follower.under_way == steps[1]
    )


def test_the_time_left_is_known_only_where_the_same_settings_ran_before(steps):
    other = Step(
        "tok_train",
        TokenizerConfig(vocab_size=300),
        "a" * 12,
        files.work_folder("tiny", "tok_train", "a" * 12),
    )
    attempt(other, 100.0, 8.0, 110.0)
    assert durations.earlier(steps[0]) is None
    before = Step(
        "tok_train", steps[0].config, "b" * 12, files.work_folder("another", "tok_train", "b" * 12)
    )
    attempt(before, 100.0, 9.0, 110.0)
    assert durations.earlier(steps[0]) == 9.0
    attempt(
        Step(
            "tok_train", steps[0].config, "c" * 12, files.work_folder("tiny", "tok_train", "c" * 12)
        ),
        200.0,
        12.0,
        213.0,
    )
    assert durations.earlier(steps[0]) == 12.0 and durations.earlier(steps[1]) is None


def test_durations_and_paths_are_said_as_a_person_says_them(tmp_path, monkeypatch):
    assert [terminal.duration(seconds) for seconds in (8.44, 185, 7800)] == [
        "8.4 s",
        "3:05",
        "2:10:00",
    ]
    monkeypatch.chdir(tmp_path)
    assert (
        terminal.shown(tmp_path / "a" / "b") == "a/b"
        and terminal.shown("/elsewhere/b") == "/elsewhere/b"
    )


def test_every_state_that_is_shown_is_in_the_one_table(steps):
    assert {terminal.state_of(step) for step in steps} <= set(terminal.STATES)
    for state in (
        "finished",
        "reused",
        "to continue",
        "missing",
        "running",
        "failed",
        "interrupted",
        "ok",
        "warning",
        "problem",
    ):
        assert terminal_live.word(state).plain == state and terminal_live.symbol(state).plain


def test_the_line_of_a_finished_step_says_what_mlflow_says_of_it_first():
    assert terminal.finished_line(
        "chat_eval_sft", 7.0, {"chat_core": 0.66, "gsm8k": 0.5}, False
    ).endswith("ChatCORE 0.660")
    assert terminal.finished_line("power_eval", 7.0, {"gsm8k": 0.585, "low": 0.5}, True).endswith(
        "reused       7.0 s   GSM8K 0.585"
    )
    assert terminal.finished_line("sft", 7.0, {}, False) == "sft              finished     7.0 s"


def test_a_study_outlives_the_reader_of_its_lines():
    program = (
        "import sys\nfrom nanolab import screens, terminal\nscreen = terminal.Lasting(screens.JsonScreen())\n"
        "for i in range(20000):\n    screen.note('', event='x', i=i)\nprint('done', file=sys.stderr)"
    )
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -n 1', sys.executable, program],
        capture_output=True,
        text=True,
        cwd=files.ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "done\n") and done.stdout.count("\n") == 1


def test_brackets_in_a_table_are_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(table, "is_live", lambda stream: True)
    table.show_table(
        "differences", ["setting", "a"], [["data.root", "/data/[x]/y"], ["data.cache", "[/data/x]"]]
    )
    terminal_live.show(
        terminal_live.state_table(["study", "description"], [["missing", "tiny", "a [/b]"]])
    )
    shown = capsys.readouterr().out
    assert "/data/[x]/y" in shown and "[/data/x]" in shown and "a [/b]" in shown
