"""Claims: the map names every notebook and where the study stands in it; with an empty store it
says what to run first.
"""

import pytest

from nanolab import files
from nanolab.notebook import records, study_map
from nanolab.plan.steps import RESULT, plan
from nanolab.settings.config import STEPS
from nanolab.settings.study_file import load_study
from nanolab.terminal.plain import STATES
from nanolab.tracking import run_reader, run_writer


@pytest.fixture
def fresh_clone(monkeypatch, tmp_path):
    """A repository in which nothing has run: no store, no work folder."""
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    return tmp_path


def finish(study_name, *steps):
    for name, step in plan(load_study(study_name)).items():
        if not steps or name in steps:
            files.write_json(step.folder / RESULT, {"metrics": {}})


def top(html):
    """What stands above the table."""
    return html.partition("<table")[0]


def test_a_fresh_clone_is_led_to_the_first_notebook_and_looking_makes_no_store(fresh_clone):
    html = study_map.stages("smoke").data
    study = load_study("smoke")
    for notebook in {STEPS[step].notebook for step in study.steps} | set(study_map.TOOLS):
        assert f'<a href="{notebook}.ipynb">' in html, notebook
    assert (
        html.count("○") == len(study.steps) and "scripts/run_all.py experiments/smoke.yaml" in html
    )
    assert (
        f"{len(study.steps)} of {len(study.steps)} steps of smoke are not finished. Next:" in html
    )
    assert 'href="01_tokenizer.ipynb">01_tokenizer</a><div' in html  # the button
    assert study_map.studies().data == records.NOTHING and not (fresh_clone / "mlflow.db").exists()


def test_a_button_says_what_its_step_needs_beside_the_notebooks_values(fresh_clone):
    finish(
        "smoke", "tok_train", "tok_eval", "base_train", "base_loss", "base_eval", "mid_train"
    )  # chat_eval_mid is next
    assert (
        'href="05_chat_eval.ipynb">05_chat_eval</a> with <code>source = &#34;mid&#34;</code>'
        in top(study_map.stages("smoke").data)
    )


def test_a_study_whose_values_the_notebooks_do_not_hold_is_led_to_the_terminal(fresh_clone):
    """A button would start the default study."""
    html = top(study_map.stages("micro").data)
    assert (
        "<a " not in html
        and ".venv/bin/python scripts/run_all.py experiments/micro.yaml --only tok_train" in html
    )
    assert (
        "-m nanolab plan experiments/micro.yaml --parameters tok_train &gt; parameters.yaml" in html
    )
    assert "papermill notebooks/01_tokenizer.ipynb out.ipynb -f parameters.yaml" in html
    finish("micro")
    assert (
        'href="10_report.ipynb">10_report</a> with <code>experiment = &#34;micro&#34;</code>'
        in top(study_map.stages("micro").data)
    )


def test_no_guide_recommends_another_studys_name_with_these_values():
    for path in sorted((files.ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text()
        if path.stem[:2] not in ("00", "10", "11", "12", "13"):
            assert 'experiment = \\"smoke\\"  # the study that these values belong to' in text, (
                path.name
            )


def test_each_step_shows_whether_it_is_finished_begun_or_finished_with_other_settings(fresh_clone):
    planned = plan(load_study("micro"))
    files.write_json(
        planned["tok_train"].folder / RESULT,
        {"metrics": {"vocab_size": 512, "compression_ratio": 2.2}},
    )
    files.write_json(planned["tok_eval"].folder / "job.json", {})
    files.write_json(planned["sft"].folder.with_name("0123456789ab") / RESULT, {"metrics": {}})
    html = study_map.stages("micro").data
    signs = {
        state: html.count(STATES[state][0])
        for state in ("finished", "to continue", "outdated", "missing")
    }
    assert signs == {
        "finished": 1,
        "to continue": 1,
        "outdated": 1,
        "missing": len(planned) - 3 + 1,
    }  # the report is open too
    assert "Go on with:" in html and 'href="01_tokenizer.ipynb"' in html and "512" in html
    finish("micro")
    assert "Every step of micro but its report is finished" in study_map.stages("micro").data


def test_a_study_is_finished_when_its_report_is(store):
    finish("micro")
    parent = run_writer.open_execution({"experiment": "micro"}, "micro now", run_reader.RUN_ALL)
    run_writer.close_run(run_writer.open_step(parent, "report", parent[:12], {}, {}), "FINISHED")
    assert "Every step of micro is finished. Read its report" in study_map.stages("micro").data


def test_a_score_of_the_map_has_its_number_of_problems_or_its_error(store):
    parent = run_writer.open_execution({"experiment": "micro"}, "micro now", run_reader.RUN_ALL)
    for step, metrics in {
        "base_train": {"validation_bits_per_byte": 0.4424},
        "base_loss": {"validation_bits_per_byte": 0.4539, "validation_bits_per_byte_se": 0.0159},
        "power_eval": {"gsm8k": 0.5, "total": 100.0, "passed": 50.0, "low": 0.4, "high": 0.6},
    }.items():
        run = run_writer.open_step(parent, step, "0123456789ab", {}, {})
        run_writer.log_metrics(run, {f"final/{key}": value for key, value in metrics.items()})
        run_writer.close_run(run, "FINISHED")
    run_writer.close_run(parent, "FINISHED")
    html = study_map.studies().data
    assert "0.4424" not in html and html.index("0.4539") < html.index("± 0.0159")
    assert "[40.0%, 60.0%] · 50 of 100" in html and html.count(">–<") == 3
