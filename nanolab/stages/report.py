"""Step report: report.md and its figures, from what MLflow holds. Runs in the notebook's kernel; nothing is launched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nanolab import tracking
from nanolab.config import Job
from nanolab.files import write_atomic
from nanolab.journal import Run
from nanolab.report import collect, markdown, plots

TRAINING = {"base_train": "Base model training", "mid_train": "Midtraining", "sft": "Chat SFT"}
ABLATION = {"accuracy_by_alpha": "Accuracy against alpha", "accuracy_by_steps": "Accuracy against num_steps",
            "accuracy_by_positions": "Accuracy against forwarded positions", "acceptance_by_step": "Acceptance by step"}


def run(job: Job, run: Run) -> dict[str, Any]:
    """Writes report.md and figures/ into the job's folder and records them; gives the summary table and the report's path."""
    return compile_report(tracking.record(run.id).tags["mlflow.parentRunId"], job.folder, run, job.config.title)


def compile_report(parent: str, folder: Path, run: Run, title: str) -> dict[str, Any]:
    """The report of execution `parent` in `folder`."""
    values = collect.collect(parent) | {"title": title, "figures": {}}
    for step, name, caption, (figure, data) in draw(parent):
        path = folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plots.png(figure))
        data.to_csv(path.with_suffix(".csv"), index=False)
        run.artifact(path, "figures")
        run.artifact(path.with_suffix(".csv"), "figures")
        values["figures"].setdefault(step, []).append({"caption": caption, "path": f"figures/{name}.png"})
    report = folder / "report.md"
    write_atomic(report, markdown.render(values))
    run.artifact(report)
    tracking.log_file(parent, report)
    return {"summary": markdown.summary_table(values["steps"]), "report": os.path.relpath(report), "steps_reported": len(values["steps"])}


def draw(parent: str) -> list[tuple[str, str, str, tuple]]:
    """(step, file name, caption, (figure, data)) of every figure an execution has the records for."""
    runs = collect.step_runs(parent)
    drawn = [(step, f"{step}_curves", f"{title}: loss and validation", plots.training_curves(collect.curves(runs[step]), title))
             for step, title in TRAINING.items() if step in runs]
    if "rl" in runs:
        drawn.append(("rl", "reward", "Reward of the rollouts", plots.reward_curve(collect.curves(runs["rl"]))))
    results = collect.task_results(runs)
    if results:
        last = [step for step in collect.MODELS.values() if step in runs][-1]
        drawn.append((last, "tasks", "Tasks by model, with 95% intervals", plots.task_bars(results)))
    if "power_ablation" in runs:
        points, baselines, series = collect.grid_points(runs["power_ablation"])
        figures = {"accuracy_by_alpha": plots.accuracy_by_alpha(points), "accuracy_by_steps": plots.accuracy_by_steps(points),
                   "accuracy_by_positions": plots.accuracy_by_positions(points, baselines)}
        if series:
            figures["acceptance_by_step"] = plots.acceptance_by_step(series)
        drawn += [("power_ablation", name, ABLATION[name], figure) for name, figure in figures.items()]
    return drawn
