"""The command line: one line and status 2 for a mistake, before anything starts."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from nanolab import files
from nanolab.__main__ import main
from nanolab.artefacts import RESULT
from nanolab.commands import upkeep
from nanolab.pipeline import failures, worker
from nanolab.plan.steps import write_job
from nanolab.results import StepResult, scalars
from nanolab.settings.config import Job, StudyConfig
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study
from nanolab.tracking import run_reader, run_writer

SMALL = "base_train: {steps: 1}\n"


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "nanolab", *arguments],
        capture_output=True,
        text=True,
        cwd=files.ROOT,
        **options,
    )


@pytest.mark.parametrize(
    "text, arguments, words",
    [
        (
            SMALL + "power_eval: {alpah: 8}\n",
            (),
            "unknown key power_eval.alpah; the nearest valid key is power_eval.alpha",
        ),
        (SMALL + "sft: {steps: many}\n", (), "sft.steps = 'many' must be a whole number"),
        (SMALL, ("--set", "power_eval.alpha=0"), "power_eval.alpha = 0.0 is out of range"),
        (SMALL, ("--only", "stf"), "unknown step 'stf'"),
        (SMALL, ("--from", "stf"), "unknown step 'stf'"),
        (None, (), "no experiment file"),
        (
            "base_train: {steps: 1, width: 90, heads: 4}\n",
            (),
            "base_train: width 90 must split into 4 heads",
        ),
        (
            SMALL + "launch: {nproc: 3}\n",
            (),
            "base_train.batch_size = 16 sequences must divide evenly over 3 processes",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_nothing_starts(tmp_path, text, arguments, words):
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    done = command(
        "run",
        str(path),
        *arguments,
        env={"NANOLAB_MLRUNS": str(tmp_path / "mlruns"), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "mlruns").exists()


def test_help_names_the_commands_and_imports_nothing_slow():
    done = command("--help")
    assert done.returncode == 0 and all(
        name in done.stdout for name in ("run", "stage", "plan", "report")
    )
    program = (
        "import sys, nanolab.__main__; print([name for name in ('torch', 'mlflow', 'pandas',"
        " 'papermill') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=files.ROOT
    )
    assert done.stdout == "[]\n"


def test_a_dry_run_and_a_plan_import_nothing_slow(tmp_path):
    """Asserted on what is imported, which does not depend on the machine; the seconds are in
    LOG.md.
    """
    slow = (
        "torch",
        "mlflow",
        "pandas",
        "papermill",
        "numpy",
        "matplotlib",
        "rich",
        "pyarrow",
        "IPython",
    )
    program = (
        "import sys; from nanolab.__main__ import main; status = main(['run', 'micro',"
        f" '--dry-run']); print([name for name in {slow} if name in sys.modules], status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=files.ROOT
    )
    assert done.stdout.splitlines()[-1] == "[] 0", done.stdout + done.stderr


def test_run_without_a_study_lists_them_with_their_state(lab):
    status, output = lab.call("scripts/run_all.py")
    assert status == 0 and output.splitlines()[1].split() == ["tiny", "missing", "0/2"]
    status, output = lab.call("scripts/run_all.py", "--list", "--json")
    assert json.loads(output) == {
        "event": "study",
        "study": "tiny",
        "state": "missing",
        "description": "",
        "finished": 0,
        "steps": 2,
    }


def test_output_that_nobody_reads_to_its_end_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "nanolab", "plan", "micro"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=files.ROOT,
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


def test_a_job_that_is_missing_or_damaged_is_one_line(tmp_path, capsys):
    assert main(["stage", str(tmp_path / "job.json")]) == 2
    (tmp_path / "job.json").write_text("{}")
    assert main(["stage", str(tmp_path / "job.json")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "no file" in lines[0] and "is not a job file" in lines[1]
    assert (
        "is not a job file" in failures.first_failure(tmp_path).reason
        and failures.first_failure(tmp_path).mistake
    )


def test_a_result_says_on_what_kind_of_device_it_was_made(tmp_path, monkeypatch):
    """`plan --hardware cpu` learns from such steps alone, and launch.device = auto does not
    say it.
    """
    study = load_study("smoke", ["launch.device=cpu", f"launch.threads={torch.get_num_threads()}"])
    job = Job("tok_train", study, study.tokenizer, tmp_path, {})
    monkeypatch.setitem(
        sys.modules,
        "nanolab.stages.tok_train",
        SimpleNamespace(run=lambda job, world, run: StepResult(scalars(coverage=1.0))),
    )
    worker.work(write_job(job))
    result = files.read_json(tmp_path / RESULT)
    assert result["device"] == "cpu" and result["metrics"] == {"coverage": 1.0}


def test_plan_shows_each_step_with_its_state_and_fingerprint(lab):
    status, output = lab.call("-m", "nanolab", "plan", "tiny")
    assert status == 0
    rows = [line.split() for line in output.splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        ["tok_train", "missing"],
        ["tok_eval", "missing"],
    ] and len(rows[1][2]) == 12
    assert lab.call("scripts/run_all.py", "tiny", "--dry-run") == (0, output)


def test_plan_parameters_are_the_fields_of_the_stage_and_the_execution(lab):
    status, output = lab.call("-m", "nanolab", "plan", "tiny", "--parameters")
    whole = yaml.safe_load(output)
    assert status == 0 and set(whole) == {field.name for field in dataclasses.fields(StudyConfig)}
    assert whole["experiment"] == "tiny" and whole["rl"] == to_dict(StudyConfig().rl)
    status, output = lab.call("-m", "nanolab", "plan", "tiny", "--parameters", "chat_eval_rl")
    assert status == 0 and "source: rl\n" in output and "max_examples: 200\n" in output
    assert output.endswith(
        f"experiment: {lab.root}/experiments/tiny.yaml\nparent_run_id: ''\nfresh: false\n"
    )


def test_a_notebook_without_a_parameter_is_refused_before_anything_starts(lab):
    notebook = lab.root / "notebooks" / "01_tokenizer.ipynb"
    notebook.write_text(notebook.read_text().replace("eval_chars = ", "eval_char = "))
    status, output = lab.call("scripts/run_all.py", "tiny")
    assert (
        status == 2
        and output.startswith("error: unknown parameter 'eval_chars'")
        and output.count("\n") == 1
    )
    assert not (lab.root / "mlruns" / "work").exists()


def test_a_locale_without_the_symbols_does_not_end_a_command(lab):
    text = (lab.root / "experiments" / "tiny.yaml").read_text()
    (lab.root / "experiments" / "tiny.yaml").write_text(
        f"description: before → after\n{text}", encoding="utf-8"
    )
    lab.environment |= {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    status, output = lab.call("scripts/run_all.py", "--list")
    assert status == 0 and "before \\u2192 after" in output


def test_ctrl_c_ends_any_command_in_a_word(monkeypatch, capsys):
    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(upkeep, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize(
    "error, last",
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (
            ExceptionGroup("several", [RuntimeError("first of two"), ValueError("b")]),
            "RuntimeError: first of two",
        ),
        (
            RuntimeError("http://bob:s3cretWord@host is away"),
            "RuntimeError: http://bob:***@host is away",
        ),
    ],
)
def test_an_unexpected_error_ends_with_its_line_and_status_1(error, last, monkeypatch, capsys):
    def fails(given):
        raise error from error

    monkeypatch.setattr(upkeep, "doctor", fails)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") or said.lstrip().startswith("+ Exception Group Traceback")
    assert said.splitlines()[-1] == f"error: {last}" and "s3cretWord" not in said


def test_an_unexpected_error_while_the_arguments_are_read_is_told_too(monkeypatch, capsys):
    monkeypatch.setattr("nanolab.__main__.parser", lambda command: 1 / 0)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.endswith("\nerror: ZeroDivisionError: division by zero\n")


def test_settings_and_files_that_cannot_be_are_one_line(capsys, store, tmp_path):
    (tmp_path / "file").write_text("")
    for words, said in (
        (["chat", "--set", "alpha=["], "--set alpha=["),
        (["chat", "--set", "alpha"], "KEY=VALUE"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
    run_writer.close_run(
        run_writer.open_execution({"experiment": "tiny"}, "tiny now", run_reader.RUN_ALL),
        "FINISHED",
    )
    assert main(["results", "tiny", "--out", str(tmp_path / "file" / "x.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "--only", "sft"], "which study?"),
        (["run", "--fresh"], "which study?"),
        (["run", "--list", "micro"], "--list shows every study"),
        (
            ["run", "micro", "--from", "rl", "--only", "tok_train", "--dry-run"],
            "nothing to run: study 'micro' has the steps tok_train, ",
        ),
        (["plan", "micro", "--parameters", "sft", "--hardware", "cpu"], "cannot be combined"),
        (["plan", "micro", "--hardware", ""], "''"),
        (["clean", "--older-than", "-3"], "--older-than -3 must be a number of days"),
        (["clean", "--older-than", "nan"], "--older-than nan"),
        (["ui", "--host", "192.0.2.1"], "cannot be opened: "),
    ],
)
def test_words_that_would_do_nothing_are_refused(words, said, store, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert (
        said in error
        and error.startswith("error: ")
        and error.count("\n") == 1
        and "taken by" not in error
    )


@pytest.mark.parametrize(
    "words", [["run", "micro", "--only", ""], ["ui", "--port", "99999"], ["ui", "--port", "-5"]]
)
def test_values_that_cannot_be_are_refused_with_the_usage(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage:" in capsys.readouterr().err


def test_studies_that_are_no_text_or_empty_and_results_on_a_file_are_refused(
    tmp_path, monkeypatch, capsys
):
    for content, said in (
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"", "must be a mapping of settings, it is empty"),
    ):
        (tmp_path / "tiny.yaml").write_bytes(content)
        assert main(["plan", str(tmp_path / "tiny.yaml")]) == 2 and said in capsys.readouterr().err
    monkeypatch.setattr(files, "MLRUNS", tmp_path / "tiny.yaml" / "mlruns")
    assert (
        main(["plan", "micro"]) == 2
        and f"{tmp_path / 'tiny.yaml'} is a file" in capsys.readouterr().err
    )
