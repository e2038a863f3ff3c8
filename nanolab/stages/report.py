"""Step report: report.md, report.html, its figures and results.csv, from what MLflow holds. Runs in the notebook's kernel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from nanolab import tracking
from nanolab.config import Job
from nanolab.files import write_atomic
from nanolab.journal import Run
from nanolab.report import collect, html, markdown, plots, power_plots, results

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
    """Writes the report into the job's folder and records it; gives the summary table and the paths of the report, its page, its CSV."""
    return compile_report(
        tracking.record(run.id).tags["mlflow.parentRunId"], job.folder, run, job.config.title
    )


def compile_report(parent: str, folder: Path, run: Run, title: str) -> dict[str, Any]:
    """The report of execution `parent` in `folder`."""
    values = collect.collect(parent) | {"title": title, "figures": {}}
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
        path.write_bytes(plots.png(figure))
        data.to_csv(path.with_suffix(".csv"), index=False)
        show(step, caption, path)
    for step, name, caption in copy_recorded(parent, figures):
        show(step, caption, figures / name)
    written = {"report": "report.md", "html": "report.html", "results": "results.csv"}
    write_atomic(folder / written["report"], markdown.render(values))
    write_atomic(folder / written["html"], html.render(values, folder, tracking.server_address()))
    write_atomic(folder / written["results"], results.to_csv(results.of_execution(parent)))
    for name in written.values():
        run.artifact(folder / name)
        tracking.log_file(parent, folder / name)
    return {
        "summary": markdown.summary_table(values["steps"]),
        **{key: os.path.relpath(folder / name) for key, name in written.items()},
        "steps_reported": len(values["steps"]),
    }


def draw(parent: str) -> list[tuple[str, str, str, tuple]]:
    """(step, file name, caption, (figure, data)) of every figure an execution has the records for."""
    runs = collect.step_runs(parent)
    drawn = [
        (
            step,
            f"{step}_curves",
            f"{title}: loss and validation",
            plots.training_curves(collect.curves(runs[step]), title),
        )
        for step, title in TRAINING.items()
        if step in runs
    ]
    if "rl" in runs:
        drawn.append(
            (
                "rl",
                "reward",
                "Reward of the rollouts",
                plots.reward_curve(collect.curves(runs["rl"])),
            )
        )
    results = collect.task_results(runs)
    if results:
        last = [step for step in collect.MODELS.values() if step in runs][-1]
        drawn.append(
            (last, "tasks", "Tasks by model, with 95% intervals", plots.task_bars(results))
        )
    if "power_ablation" in runs:
        points, baselines, series = collect.grid_points(runs["power_ablation"])
        figures = {
            "accuracy_by_alpha": plots.accuracy_by_alpha(points),
            "accuracy_by_steps": plots.accuracy_by_steps(points),
            "accuracy_by_positions": plots.accuracy_by_positions(points, baselines),
        }
        if series:
            figures["acceptance_by_step"] = plots.acceptance_by_step(series)
        drawn += [
            ("power_ablation", name, ABLATION[name], figure) for name, figure in figures.items()
        ]
    return drawn


def draw_power(values: dict[str, Any]) -> list[tuple[str, str, str, tuple]]:
    """(section, file name, caption, (figure, data)) of what compares power evaluations with each other, where there is what to compare."""
    drawn = []
    problems = [row for row in values["sharpening"] if row["task"] == "gsm8k"]
    if len({row["model"] for row in problems}) > 1:
        drawn.append(
            (
                "sharpening",
                "methods_by_model",
                "Sharpening against training",
                power_plots.methods_by_model(problems),
            )
        )
    rows = collect.pass_at_k(values["steps"])
    if len(rows) > 1:
        code = (
            len({row["task"] for row in rows}) > 1
        )  # then a label says the task where it is not word problems
        label = markdown.MODEL_LABELS
        lines = [
            row
            | {
                "method": f"{label.get(row['model'], row['model'])}, {markdown.METHOD_LABELS.get(row['method'], row['method'])}"
                + (", code" if code and row["task"] == "humaneval" else "")
            }
            for row in rows
        ]
        place = "sharpening" if values["sharpening"] else "power_eval"
        drawn.append(
            (
                place,
                "pass_at_k",
                "Chance that one of k samples is right",
                power_plots.pass_at_k(lines),
            )
        )
    return drawn


def copy_recorded(parent: str, figures: Path) -> list[tuple[str, str, str]]:
    """(step, file name, caption) of the figures that tokenizer and power evaluations recorded, copied into `figures` with their data."""
    copied = []
    runs = collect.step_runs(parent)
    recorded = {"tok_eval": TOKENIZER} if "tok_eval" in runs else {}
    for step, captions in (recorded | dict.fromkeys(collect.power_steps(runs), RECORDED)).items():
        names = tracking.artifact_names(runs[step].id, "plots")
        for name, caption in captions.items():
            if f"plots/{name}.png" not in names:
                continue
            for file in {f"plots/{name}.png", f"plots/{name}.csv"} & set(names):
                shutil.copyfile(
                    tracking.artifact(runs[step].id, file), figures / f"{step}_{Path(file).name}"
                )
            copied.append((step, f"{step}_{name}.png", caption))
    return copied
