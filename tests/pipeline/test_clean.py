"""Claims: clean removes what no latest result needs and nothing else, only the plan that was seen,
and never beside a run.
"""

import os

import pytest

from nanolab import artefacts, files
from nanolab.__main__ import main
from nanolab.errors import UserError
from nanolab.pipeline import clean
from nanolab.pipeline.study_lock import study_lock
from nanolab.plan import steps
from nanolab.plan.steps import Job
from nanolab.settings.study_file import study_from_dict
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.store import client

STUDY = study_from_dict({"experiment": "tiny", "base_train": {"steps": 1}})


def folder(step, mark, inputs=None, finished=True, study="tiny"):
    """A work folder of a step, with 100 bytes of something big."""
    path = files.work_folder(study, step, mark)
    steps.write_job(Job(step, STUDY, STUDY.stage(steps.STEPS[step].stage), path, inputs or {}))
    (path / "weights").write_bytes(b"x" * 100)
    if finished:
        files.write_json(path / steps.RESULT, {"metrics": {}})
    return path


def execution(*folders, source="scripts/run_all.py", status="FINISHED"):
    """An execution of the study with the runs of these folders; gives its run id."""
    parent = run_writer.open_execution({"experiment": "tiny", "seed": 0}, "tiny now", source)
    for path in folders:
        tags = {"work_folder": str(path.relative_to(files.MLRUNS))}
        run_writer.close_run(
            run_writer.open_step(parent, path.parent.name, path.name, {}, tags), "FINISHED"
        )
    run_writer.close_run(parent, status)
    return parent


def removable(**choice):
    return {item.path for item in clean.survey(clean.Choice(**choice)) if item.removable}


@pytest.fixture
def tiny(store):
    """Two executions of a study, a step set aside, an unfinished one, and one of another study that
    reads an old result.
    """
    old, read, new = (folder("tok_train", mark * 12) for mark in "abc")
    aside, unfinished = (
        folder("tok_train", "c" * 12 + ".1"),
        folder("tok_eval", "d" * 12, finished=False),
    )
    execution(old, read)
    execution(new)
    execution(
        source="notebooks/01_tokenizer.ipynb"
    )  # a notebook alone does not make the study's latest execution an older one
    folder("tok_eval", "e" * 12, {"tok_train": read}, study="reader")
    return {"old": old, "read": read, "new": new, "aside": aside, "unfinished": unfinished}


def test_what_the_latest_execution_and_other_studies_need_is_kept(tiny):
    assert removable() == {tiny["old"], tiny["aside"]}
    assert removable(keep_latest=2) == {tiny["aside"]}
    assert removable(unfinished=True) == {tiny["old"], tiny["aside"], tiny["unfinished"]}
    assert removable(older_than=1.0) == set()
    assert removable(studies=("tiny",), everything=True) == set(tiny.values()) - {
        tiny["read"]
    }  # which another study reads
    assert removable(studies=("reader",)) == set()


def test_a_result_that_lost_what_it_names_is_an_unfinished_attempt(tiny):
    """A run goes on from it, so that only --unfinished removes it."""
    (tiny["old"] / "records").mkdir()
    (tiny["old"] / "records" / "gsm8k.jsonl").write_text("{}\n")
    artefacts.write_result(tiny["old"], "tok_train", {}, 0.0)
    os.utime(tiny["old"] / steps.RESULT, (1e9, 1e9))
    assert tiny["old"] in removable()
    (tiny["old"] / "records" / "gsm8k.jsonl").unlink()
    assert tiny["old"] not in removable() and tiny["old"] in removable(unfinished=True)


def test_what_a_registered_model_comes_from_is_kept(tiny, monkeypatch):
    run = run_reader.search("tiny", "tags.step = 'tok_train'")[-1]
    monkeypatch.setattr(run_reader, "registered_runs", lambda: [run.id])
    assert removable() == {tiny["aside"]}


def test_nothing_is_removed_before_it_was_shown(tiny, capsys):
    assert main(["clean"]) == 0
    shown = capsys.readouterr().out
    assert tiny["old"].is_dir() and "set aside by --fresh" in shown and "nothing was" in shown
    plan_id = shown.partition("--yes ")[2].split()[0]
    (tiny["old"] / "more").write_text("changed meanwhile")
    assert main(["clean", "--yes", plan_id]) == 2
    assert (
        f"plan {plan_id} is no longer what would be removed" in capsys.readouterr().err
        and tiny["old"].is_dir()
    )
    with pytest.raises(SystemExit, match="2"):  # --yes alone would remove what nobody saw
        main(["clean", "--yes"])
    assert main(["clean"]) == 0
    assert main(["clean", "--yes", capsys.readouterr().out.partition("--yes ")[2].split()[0]]) == 0
    assert (
        not tiny["old"].exists()
        and not tiny["aside"].exists()
        and tiny["unfinished"].is_dir()
        and tiny["read"].is_dir()
    )
    assert removable() == set()


def test_clean_waits_for_no_run_and_disturbs_none(tiny):
    with (
        study_lock("reader"),
        pytest.raises(UserError, match="study 'reader' is being run by process"),
    ):
        clean.remove(clean.Choice(), "")
    assert tiny["old"].is_dir()


def test_artifacts_of_a_deleted_run_are_removable(store, tiny):
    run_id = execution()
    run_writer.log_file(run_id, tiny["new"] / "weights")
    artifacts = store / "artifacts" / "tiny" / run_id
    assert (artifacts / "artifacts" / "weights").is_file() and artifacts not in removable()
    client().delete_run(run_id)
    assert artifacts in removable()


def test_a_choice_that_cannot_be_meant_is_refused(tiny):
    for choice, words in (
        (clean.Choice(("tyni",)), "no study 'tyni'"),
        (clean.Choice(everything=True), "name the studies"),
        (clean.Choice(keep_latest=0), "must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            clean.survey(choice)
