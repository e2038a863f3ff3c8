"""Step report: report.md, report.html, its figures and results.csv, from what MLflow holds. Runs in
the notebook's kernel.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from nanolab import wording
from nanolab.figures import ablation, chains, style, training
from nanolab.figures.style import Drawn
from nanolab.files import write_atomic
from nanolab.report import document, html_page, outside, results_csv, store_values, tables
from nanolab.settings.config import Job
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.address import server_address
from nanolab.tracking.journal import Run
from nanolab.wording import METHOD_LABELS

TRAINING = {"base_train": "Base model training", "mid_train": "Midtraining", "sft": "Chat SFT"}
ABLATION = {
    "accuracy_by_alpha": "Accuracy against alpha",
    "accuracy_by_steps": "Accuracy against num_steps",
    "accuracy_by_positions": "Accuracy against forwarded positions",
    "acceptance_by_step": "Acceptance by step",
}
# what a power evaluation drew itself, from the records of its chains and samples
RECORDED = {
    "acceptance_by_cut": "Acceptance by the place of the cut",
    "log_p_trajectories": "log p by step",
    "log_p_reliability": "Accuracy by log p",
}
TOKENIZER = {"bytes_per_token": "Bytes per token by kind of text"}


def run(job: Job, run: Run) -> dict[str, Any]:
    """Writes the report into the job's folder and records it; gives the summary table and the paths
    of the report, its page, its CSV.
    """
    return compile_report(
        run_reader.record(run.id).tags["mlflow.parentRunId"], job.folder, run, job.config.title
    )


def compile_report(parent: str, folder: Path, run: Run, title: str) -> dict[str, Any]:
    """The report of execution `parent` in `folder`."""
    values = store_values.collect(parent) | {"title": title, "figures": {}}
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)

    def show(step: str, caption: str, path: Path) -> None:
        for file in (path, path.with_suffix(".csv")):
            if file.exists():
                run.artifact(file, "figures")
        values["figures"].setdefault(step, []).append(
            {"caption": caption, "path": f"figures/{path.name}"}
        )

    for step, name, caption, (figure, data) in [*draw(parent), *draw_power(values)]:
        path = figures / f"{name}.png"
        path.write_bytes(style.png(figure))
        data.to_csv(path.with_suffix(".csv"), index=False)
        show(step, caption, path)
    for step, name, caption in copy_recorded(parent, figures):
        show(step, caption, figures / name)
    written = {"report": "report.md", "html": "report.html", "results": "results.csv"}
    write_atomic(folder / written["report"], document.render(values))
    write_atomic(folder / written["html"], html_page.render(values, folder, server_address()))
    write_atomic(folder / written["results"], results_csv.to_csv(results_csv.of_execution(parent)))
    for name in written.values():
        run.artifact(folder / name)
        run_writer.log_file(parent, folder / name)
    return {
        "summary": tables.summary_table(values["steps"]),
        **{key: os.path.relpath(folder / name) for key, name in written.items()},
        "steps_reported": len(values["steps"]),
    }


def draw(parent: str) -> list[tuple[str, str, str, Drawn]]:
    """(step, file name, caption, (figure, data)) of every figure an execution has the records
    for.
    """
    runs = store_values.step_runs(parent)
    drawn = []
    for step, title in TRAINING.items():
        if step in runs:
            curves, tokens = store_values.curves(runs[step]), store_values.curve_tokens(runs[step])
            figure = training.training_curves(curves, title, tokens)
            drawn.append((step, f"{step}_curves", f"{title}: loss and validation", figure))
    if "rl" in runs:
        figure = training.reward_curve(store_values.curves(runs["rl"]))
        drawn.append(("rl", "reward", "Reward of the rollouts", figure))
    if rows := store_values.task_results(runs):
        last = list(outside.asked({step: run.params for step, run in runs.items()}).values())[-1]
        caption = "Tasks by model, with 95% intervals"
        drawn.append((last, "tasks", caption, training.task_bars(rows)))
    if "power_ablation" in runs:
        figures = ablation.figures(*store_values.grid_points(runs["power_ablation"]))
        drawn += [
            ("power_ablation", name, ABLATION[name], figure) for name, figure in figures.items()
        ]
    return drawn


def draw_power(values: dict[str, Any]) -> list[tuple[str, str, str, Drawn]]:
    """(section, file name, caption, (figure, data)) of what compares power evaluations with each
    other, where there is what to compare.
    """
    drawn = []
    problems = [row for row in values["sharpening"] if row["task"] == "gsm8k"]
    if len({row["model"] for row in problems}) > 1:
        figure = chains.methods_by_model(problems)
        drawn.append(("sharpening", "methods_by_model", "Sharpening against training", figure))
    rows = store_values.pass_at_k(values["rows"])
    if len(rows) > 1:
        several_tasks = len({row["task"] for row in rows}) > 1
        several_totals = len({row["total"] for row in rows}) > 1

        def line(row: dict[str, Any]) -> str:
            method = METHOD_LABELS.get(row["method"], row["method"])
            parts = [wording.model_label(row["model"]), method]
            if several_tasks and row["task"] == "humaneval":  # word problems need no word
                parts.append("code")
            if several_totals and row["total"] is not None:
                parts.append(f"n = {row['total']:.0f}")
            return ", ".join(parts)

        place = "sharpening" if values["sharpening"] else "power_eval"
        figure = chains.pass_at_k([row | {"method": line(row)} for row in rows])
        drawn.append((place, "pass_at_k", "Chance that one of k samples is right", figure))
    return drawn


def copy_recorded(parent: str, figures: Path) -> list[tuple[str, str, str]]:
    """(step, file name, caption) of the figures that tokenizer and power evaluations recorded,
    copied into `figures` with their data.
    """
    copied = []
    runs = store_values.step_runs(parent)
    recorded = {"tok_eval": TOKENIZER} if "tok_eval" in runs else {}
    for step, captions in (
        recorded | dict.fromkeys(store_values.power_steps(runs), RECORDED)
    ).items():
        names = run_reader.artifact_names(runs[step].id, "plots")
        for name, caption in captions.items():
            if f"plots/{name}.png" not in names:
                continue
            for file in {f"plots/{name}.png", f"plots/{name}.csv"} & set(names):
                shutil.copyfile(
                    run_reader.artifact(runs[step].id, file), figures / f"{step}_{Path(file).name}"
                )
            copied.append((step, f"{step}_{name}.png", caption))
    return copied
