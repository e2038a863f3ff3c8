"""Claims: the map names every notebook and where the study stands in it; with an empty store it says what to run first."""

import pytest

from nanolab import files, start_here
from nanolab.config import STEPS
from nanolab.experiment import load_study
from nanolab.plan import RESULT, plan
from nanolab.report import records
from nanolab.terminal import STATES


@pytest.fixture
def fresh_clone(monkeypatch, tmp_path):
    """A repository in which nothing has run: no store, no work folder."""
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    return tmp_path


def test_a_fresh_clone_is_led_to_the_first_notebook_and_looking_makes_no_store(fresh_clone):
    html = start_here.stages("micro").data
    study = load_study("micro")
    for notebook in {STEPS[step].notebook for step in study.steps} | set(start_here.TOOLS):
        assert f'<a href="{notebook}.ipynb">' in html, notebook
    assert html.count("○") == len(study.steps) and "scripts/run_all.py experiments/micro.yaml" in html
    assert 'href="01_tokenizer.ipynb">01_tokenizer</a><div' in html  # the button
    assert start_here.studies().data == records.NOTHING and not (fresh_clone / "mlflow.db").exists()


def test_each_step_shows_whether_it_is_finished_begun_or_finished_with_other_settings(fresh_clone):
    planned = plan(load_study("micro"))
    files.write_json(planned["tok_train"].folder / RESULT, {"metrics": {"vocab_size": 512, "compression_ratio": 2.2}})
    files.write_json(planned["tok_eval"].folder / "job.json", {})
    files.write_json(planned["sft"].folder.with_name("0123456789ab") / RESULT, {"metrics": {}})
    html = start_here.stages("micro").data
    signs = {state: html.count(STATES[state][0]) for state in ("finished", "to continue", "outdated", "missing")}
    assert signs == {"finished": 1, "to continue": 1, "outdated": 1, "missing": len(planned) - 3 + 1}  # the report is open too
    assert "Go on with:" in html and 'href="01_tokenizer.ipynb"' in html and "512" in html
    for step in planned.values():
        files.write_json(step.folder / RESULT, {"metrics": {}})
    assert "Every step of micro is finished" in start_here.stages("micro").data
