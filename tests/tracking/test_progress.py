"""Claims: a watcher says how far a step is from its journal alone; the pace counts this attempt
only; MLflow hears nothing of it.
"""

import json

from nanolab.tracking.journal import JOURNAL, Run, read_journal
from nanolab.tracking.progress import Watcher


def write(folder, *records):
    with open(folder / JOURNAL, "a") as file:
        file.writelines(json.dumps({"point": None, **record}) + "\n" for record in records)


def told(done, milliseconds, what="training", total=10):
    return {
        "kind": "progress",
        "what": what,
        "done": done,
        "total": total,
        "unit": "steps",
        "time": milliseconds,
    }


def test_the_pace_is_that_of_the_part_under_way_in_this_attempt(tmp_path):
    write(
        tmp_path,
        told(1, 0),
        {"kind": "metrics", "metrics": {"train/loss": 9.0}, "step": 1, "time": 0},
    )
    watcher = Watcher(tmp_path)
    assert watcher.poll().done is None and watcher.poll().curves == {
        "train/loss": [(1, 9.0)]
    }  # an earlier attempt's
    write(tmp_path, told(2, 1_000_000))
    assert watcher.poll().seconds_left is None  # one record shows no pace
    measured = {"train/loss": 8.0, "train/tokens_per_second": 50.0}
    write(
        tmp_path, told(4, 1_004_000), {"kind": "metrics", "metrics": measured, "step": 4, "time": 0}
    )
    now = watcher.poll()
    assert (now.what, now.unit, now.done, now.total) == ("training", "steps", 4, 10)
    assert (
        now.seconds_left == 12.0
        and now.tokens_per_second == 50.0
        and now.curves["train/loss"] == [(1, 9.0), (4, 8.0)]
    )
    write(tmp_path, told(0, 1_005_000, "gsm8k", 4), told(1, 1_006_000, "gsm8k", 4))
    assert watcher.poll().seconds_left == 3.0


def test_a_watcher_that_comes_before_the_step_sees_its_first_words(tmp_path):
    watcher = Watcher(tmp_path / "not yet there")
    assert watcher.poll().total is None
    with Run(tmp_path / "not yet there") as run:
        run.progress("training", 1, 3, "steps")
        run.progress("training", 2, 3, "steps")  # within half a second: not recorded
        run.progress("training", 3, 3, "steps")
    assert [record["done"] for record in read_journal(tmp_path / "not yet there")] == [1, 3]
    assert watcher.poll().done == 3
