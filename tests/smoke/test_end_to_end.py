"""The whole lab at its smallest size: every step through its notebook, a rerun that reuses,
papermill beside run_all.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pages
import plain_papermill
import pytest
import yaml

from nanolab.settings.study_file import load_study

ROOT = Path(__file__).resolve().parents[2]
STEPS = load_study("micro").steps
pytestmark = [pytest.mark.slow, pytest.mark.dist]


def call(store: Path, *command: str) -> subprocess.CompletedProcess:
    options = {"cwd": ROOT, "timeout": 900, "env": {**os.environ, "NANOLAB_MLRUNS": str(store)}}
    if command[0] == "papermill":
        return plain_papermill.execute(*command[1:], **options)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)


def run(store: Path, *command: str) -> str:
    done = call(store, *command)
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def study(finished_study, tmp_path_factory) -> tuple[Path, str]:
    """A finished micro study of this module's own: its store, and what run_all printed."""
    store, printed = finished_study
    return shutil.copytree(store, tmp_path_factory.mktemp("store") / "mlruns"), printed


def results(store: Path, step: str) -> list[Path]:
    return sorted(
        (store / "work" / "micro" / step).glob("*/result.json"),
        key=lambda path: path.stat().st_mtime,
    )


def test_every_step_finishes_and_the_report_has_every_section(study):
    store, printed = study
    for step in STEPS:
        assert len(results(store, step)) == 1, step
    report = results(store, "report")[0].with_name("report.md").read_text()
    for heading in (
        "Environment",
        "Tokenizer training",
        "Data: overlap of training text with the benchmarks",
        "Base model evaluation",
        "Midtraining",
        "Chat evaluation sft",
        "Power sampling evaluation",
        "Power sampling evaluation base",
        "Sharpening against training",
        "Power sampling ablations",
        "Chat RL",
        "Chat evaluation rl",
        "Summary",
    ):
        assert f"\n## {heading}\n" in report, heading
    assert "data: embedded" in report and "skipped" not in report
    for figure in (
        "accuracy_by_alpha",
        "accuracy_by_steps",
        "accuracy_by_positions",
        "acceptance_by_step",
        "reward",
        "tasks",
        "power_eval_log_p_reliability",
        "methods_by_model",
        "tok_eval_bytes_per_token",
    ):
        path = results(store, "report")[0].with_name("figures") / f"{figure}.png"
        assert path.stat().st_size > 5000 and path.with_suffix(".csv").is_file(), figure
    page = results(store, "report")[0].with_name("report.html").read_text()
    assert (
        "Planned for cpu" in page
        and page.count("data:image/png;base64,") == report.count("![")
        and "Provenance" in page
    )
    rows = results(store, "report")[0].with_name("results.csv").read_text().splitlines()
    assert len(rows) > 200 and sum(",power_ablation," in row for row in rows) > 8
    assert "| GSM8K " in printed and "report.md" in printed and "make ui" in printed
    assert "Traceback" not in printed and "Warning" not in printed


def test_a_rerun_reuses_every_step_but_the_report(study):
    store, _ = study
    printed = run(store, "scripts/run_all.py", "experiments/micro.yaml")
    assert (
        printed.count(" reused ") == len(STEPS) - 1 and printed.count(" running") == 1
    )  # the report is compiled anew
    for step in STEPS:
        assert step == "report" or len(results(store, step)) == 1, step


def test_the_notebooks_that_read_records_show_what_has_run(study, tmp_path):
    """And the notebook of a stage, executed by run_all, ends with cards in the place of its
    lines.
    """
    store, _ = study
    values = {
        "00_start_here": {"experiment": "micro"},
        "11_compare": {},
        "12_one_chain": {"experiment": "micro"},
        "13_published": {},
    }

    def execute(name: str) -> str:
        path, output = tmp_path / f"{name}.yaml", tmp_path / f"{name}.ipynb"
        path.write_text(yaml.safe_dump(values[name]))
        run(
            store,
            "papermill",
            f"notebooks/{name}.ipynb",
            str(output),
            "-f",
            str(path),
            "--cwd",
            ".",
        )
        return outputs(output)

    with ThreadPoolExecutor() as pool:
        shown = dict(zip(values, pool.map(execute, values), strict=True))
    assert (
        "Every step of micro is finished" in shown["00_start_here"]
        and "10_report.ipynb" in shown["00_start_here"]
    )
    assert shown["00_start_here"].count("✓") == len(STEPS)
    for words in ("execution micro", "HumanEval", "best of n", "power_ablation", "in all"):
        assert words in shown["11_compare"], words
    for words in (
        "first state, drawn from the proposal",
        "step 2: ",
        "last state: ",
        "majority vote",
    ):
        assert words in shown["12_one_chain"], words
    assert "not run" in shown["13_published"] and "qwen_half_billion" in shown["13_published"]
    trained = outputs(next((store / "work" / "micro" / "executions").glob("*/02_base_train.ipynb")))
    assert (
        "finished" in trained
        and "validation bits per byte" in trained
        and "step 8/8" not in trained
    )


def outputs(notebook: Path) -> str:
    """What an executed notebook shows as HTML, Markdown or text."""
    cells = json.loads(notebook.read_text())["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(
        "".join(
            output.get("text", [])
            or output["data"].get("text/html", output["data"].get("text/markdown", ""))
        )
        for output in shown
    )


def test_plain_papermill_gives_the_metrics_of_run_all(study, tmp_path):
    store, _ = study
    before = json.loads(results(store, "power_eval")[-1].read_text())["metrics"]
    printed = run(
        store, "-m", "nanolab", "plan", "experiments/micro.yaml", "--parameters", "power_eval"
    )
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(printed) | {"fresh": True}))
    run(
        store,
        "papermill",
        "notebooks/07_power_eval.ipynb",
        str(tmp_path / "out.ipynb"),
        "-f",
        str(path),
        "--cwd",
        ".",
    )
    after = json.loads(results(store, "power_eval")[-1].read_text())["metrics"]
    assert after == before


def test_the_commands_of_the_pages_that_read_a_finished_study_run(finished_study, tmp_path):
    """In one process, which imports once; `clean` last. Of `chat` without a question nobody asks
    one.
    """
    store = shutil.copytree(finished_study[0], tmp_path / "mlruns")
    commands = pages.on_a_finished_study("micro", tmp_path)
    assert {words[0] for words in commands} == set(pages.STUDY_COMMANDS)
    program = (
        "import json, sys; from nanolab.__main__ import main; print([main(words) for words in"
        " json.loads(sys.argv[1])])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NANOLAB_MLRUNS": str(store)},
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str([0] * len(commands)), (
        done.stdout[-3000:] + done.stderr[-3000:]
    )


def test_a_damaged_checkpoint_is_one_clear_line_and_what_it_says_leads_to_the_same_numbers(study):
    store, _ = study
    folder = next((store / "work" / "micro" / "sft").glob("*/checkpoints/step-000004"))
    before, trained = (
        results(store, "chat_eval_sft"),
        json.loads((folder.parents[1] / "result.json").read_text())["metrics"],
    )
    scores = json.loads(before[-1].read_text())["metrics"]
    chat_eval = ["scripts/run_all.py", "experiments/micro.yaml", "--only", "chat_eval_sft,report"]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"~")
    done = call(store, *chat_eval, "--fresh")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert lines[-1].endswith(
        f"its SHA-256 is not the recorded one; remove {folder}, then run the same command again"
    )
    shutil.rmtree(folder)
    planned = run(store, *chat_eval, "--dry-run")
    assert "sft: its checkpoint step-000004 is missing: trained again from the start" in planned
    printed = run(store, *chat_eval)
    again = json.loads((folder.parents[1] / "result.json").read_text())["metrics"]
    assert {key: value for key, value in again.items() if value != trained[key]}.keys() <= {
        "tokens_per_second"
    }
    assert json.loads(results(store, "chat_eval_sft")[-1].read_text())["metrics"] == scores
    assert len(results(store, "chat_eval_sft")) == len(before) + 1  # the old result was set aside
    assert "| GSM8K " in printed
    assert "status: finished" in results(store, "report")[-1].with_name("report.md").read_text()
