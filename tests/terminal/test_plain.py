"""Claims: each way of showing a run says what it should and no more; a follower tells what the work
folders hold, and guesses nothing.
"""

import io
import json
import subprocess
import sys
import time

import pytest
from rich.console import Console

from nanolab import artefacts, files
from nanolab.plan import durations
from nanolab.plan.steps import JOB, RESULT, Step
from nanolab.settings.config import TokenizerConfig
from nanolab.settings.schema import to_dict
from nanolab.terminal import events, follow, live, plain, screens
from nanolab.tracking.journal import Run
from nanolab.tracking.progress import Progress

SUMMARY = "| Metric | SFT |\n|--------|-----|\n| GSM8K  | 0.5 |"
ENDED = events.Ended(
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
PROGRESS = Progress("training", "steps", 3, 10, 7.0, 36_700.0, {"train/loss": [(3, 2.5)]})


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
        screen.tell(events.Planned("tiny", steps, {"study": "tiny", "log": "log.txt"}))
        screen.tell(events.Finished("tok_train", 3.0, {"compression_ratio": 4.25}, True))
        screen.tell(events.Started("tok_eval", steps[1].folder, "2/2"))
        screen.tell(events.Advanced("tok_eval", PROGRESS, 7.0, None))
        screen.tell(events.Printed("from a kernel\n"))
        error = "RuntimeError: it broke"
        screen.tell(events.Failed("tok_eval", error, "log.txt", "run it again"))
        screen.tell(ENDED)


def test_without_a_terminal_there_is_one_plain_line_an_event(steps, capsys):
    tell(screens.open_screen(), steps)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "from a kernel" not in out
    assert "tok_train  missing  0123456789ab        -\n" in out
    assert (
        "tok_train        reused       3.0 s   bytes a token 4.25\n[2/2] tok_eval running\n" in out
    )
    assert (
        "| GSM8K  | 0.5 |" in out
        and "report: report.md\npage:   report.html\nmodel:  models:/smoke@best\n"
        "runs:   make ui, then"
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
    screen = live.LiveScreen(False)
    screen.tell(events.Started("tok_eval", steps[1].folder, "2/2"))
    screen.tell(events.Advanced("tok_eval", PROGRESS, 7.0, None))
    console = Console(file=io.StringIO(), width=110)
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

    class Screen(events.Screen):
        def show(self, event):
            match event:
                case events.Started():
                    told.append(("started", event.step, event.place))
                case events.Advanced(now=now):
                    left = (event.step_left, event.study_left)
                    told.append(("progress", event.step, now.done, *left))
                case events.Finished():
                    told.append(("finished", *vars(event).values()))

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


def test_a_follower_tells_of_silence_and_the_plan_of_what_was_lost(steps, monkeypatch, capsys):
    follower = follow.Follower(steps, screens.JsonScreen(), lambda step: "1/2", None)
    attempt(steps[0], time.time())
    monkeypatch.setattr("nanolab.tracking.progress.SILENCE_SECONDS", -1.0)
    follower.look()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["event"] == "silence" and told["step"] == "tok_train"
    (steps[0].folder / "tokenizer").mkdir()
    (steps[0].folder / "tokenizer" / "vocabulary.txt").write_text("a\n")
    artefacts.write_result(steps[0].folder, "tok_train", {}, 0.0)
    (steps[0].folder / JOB).write_text("{}")
    assert plain.state_of(steps[0]) == "finished"
    (steps[0].folder / "tokenizer" / "vocabulary.txt").unlink()
    line = "tok_train: its tokenizer/vocabulary.txt is missing: run again"
    assert (
        plain.state_of(steps[0]) == "to continue"
        and plain.plan_table(steps).text().splitlines()[-1] == line
    )
    console = Console(file=io.StringIO(), width=110)
    console.print(plain.plan_table(steps).coloured())
    assert line in " ".join(console.file.getvalue().split())


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


def test_paths_are_said_as_a_person_says_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        plain.short_path(tmp_path / "a" / "b") == "a/b"
        and plain.short_path("/elsewhere/b") == "/elsewhere/b"
    )


def test_every_state_that_is_shown_is_in_the_one_table(steps):
    assert {plain.state_of(step) for step in steps} <= set(plain.STATES)
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
        assert plain.sign(state).plain == f"{plain.STATES[state][0]} {state}"


def test_the_line_of_a_finished_step_says_what_mlflow_says_of_it_first():
    def line(*finished):
        return events.Finished(*finished).text()

    evaluated = line("chat_eval_sft", 7.0, {"chat_core": 0.66, "gsm8k": 0.5}, False)
    assert evaluated.endswith("ChatCORE 0.6600")
    sharpened = line("power_eval", 7.0, {"gsm8k": 0.585, "low": 0.5}, True)
    assert sharpened.endswith("reused       7.0 s   GSM8K 0.5850")
    assert line("sft", 7.0, {}, False) == "sft              finished     7.0 s"


def test_a_study_outlives_the_reader_of_its_lines():
    program = (
        "import sys\nfrom nanolab.terminal import events, screens\n"
        "screen = screens.JsonScreen()\nfor i in range(20000):\n"
        "    screen.tell(events.Note('', 'x', {'i': i}))\nprint('done', file=sys.stderr)"
    )
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -n 1', sys.executable, program],
        capture_output=True,
        text=True,
        cwd=files.ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "done\n") and done.stdout.count("\n") == 1


def test_brackets_in_a_table_are_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(plain, "is_live", lambda stream: True)
    rows = [["missing", "/data/[x]/y"], ["kept", "[/data/x]"]]
    plain.Table(["state", "data.root"], rows, title="of [/b]", notes=["a [/i]"]).show()
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("/data/[x]/y", "[/data/x]", "of [/b]", "a [/i]"))


def test_a_plain_table_is_aligned_and_has_its_sums_last():
    rows = [["sft", "9"], ["base_train", "10"]]
    table = plain.Table(["step", "n"], rows, ["n"], "costs", ["in all", "19"], ["- a note"])
    assert table.text().splitlines() == [
        "costs",
        "step         n",
        "sft          9",
        "base_train  10",
        "in all      19",
        "- a note",
    ]
