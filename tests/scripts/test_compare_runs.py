"""Two stores of the same study are equal to the digit, or what differs is named."""

import json
import shutil
import sys

import pytest

from scripts import compare_runs


@pytest.fixture
def stores(tmp_path):
    """A store with one step, and its copy."""
    folder = tmp_path / "a" / "work" / "tiny" / "sft" / "0123"
    (folder / "records").mkdir(parents=True)
    metrics = {"loss": 0.5, "tokens_per_second": 10.0, "gsm8k/n": 2.0}
    (folder / "result.json").write_text(json.dumps({"metrics": metrics}))
    (folder / "records" / "gsm8k.jsonl").write_text('{"index": 0, "passed": true}\n')
    point = {"kind": "metrics", "point": None, "metrics": {"train/loss": 0.75}, "step": 1}
    (folder / "journal.jsonl").write_text(json.dumps(point) + "\n")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b", tmp_path / "b" / folder.relative_to(tmp_path / "a")


def compared(a, b, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(a), str(b)])
    return compare_runs.main(), capsys.readouterr().out


def test_equal_stores_and_other_speeds_are_no_difference(stores, monkeypatch, capsys):
    a, b, folder = stores
    text = (folder / "result.json").read_text().replace("10.0", "11.0")
    (folder / "result.json").write_text(text)
    assert compared(a, b, monkeypatch, capsys) == (0, "no difference\n")


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("result.json", "0.5", "0.5000001", "metric loss: 0.5 | 0.5000001"),
        ("records/gsm8k.jsonl", "true", "false", "records/gsm8k.jsonl 1: {'index': 0"),
        ("journal.jsonl", "0.75", "0.7", "curve  train/loss 1: 0.75 | 0.7"),
    ],
)
def test_a_number_a_record_and_a_curve_that_differ_are_named(
    stores, monkeypatch, capsys, name, old, new, line
):
    a, b, folder = stores
    (folder / name).write_text((folder / name).read_text().replace(old, new))
    status, out = compared(a, b, monkeypatch, capsys)
    assert status == 1 and out.startswith(f"tiny sft: {line}") and out.count("\n") == 1
