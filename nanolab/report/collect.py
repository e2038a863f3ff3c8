"""MLflow runs of one execution -> the values of its report.

A step's values are its parameters and its final metrics; a step that was reused is followed by the parent's tag
`reused.STEP` to the run that made it. Nothing is read from work folders, so an older study or a team's server serves as well.
"""

from __future__ import annotations

import json
import time
from typing import Any

from nanolab import tracking
from nanolab.config import CHAT_TASKS, STEPS
from nanolab.report import environment
from nanolab.tracking import RunRecord

FINAL = "final/"
CURVES = ("train/loss", "validation/bits_per_byte", "train/reward")
MODELS = {"base": "base_eval", "mid": "chat_eval_mid", "sft": "chat_eval_sft", "rl": "chat_eval_rl"}
METHODS = ("greedy", "low_temperature", "plain", "best_of", "majority")

Values = dict[str, Any]


def step_runs(parent: str) -> dict[str, RunRecord]:
    """The finished run of every step that an execution ran or reused, in the order of a study."""
    runs = {}
    for key, run_id in tracking.record(parent).tags.items():
        if key.startswith("reused."):
            runs[key.removeprefix("reused.")] = tracking.record(run_id)
    for run in tracking.children(parent):
        if run.tags.get("step") in STEPS and run.status == "FINISHED":
            runs[run.tags["step"]] = run
    return {step: runs[step] for step in STEPS if step in runs}


def final_values(run: RunRecord) -> Values:
    """A step's parameters under its final metrics, by plain name."""
    values: Values = dict(run.params)
    values |= {key.removeprefix(FINAL): text for key, text in run.tags.items() if key.startswith(FINAL)}
    return values | {key.removeprefix(FINAL): number for key, number in run.metrics.items() if key.startswith(FINAL)}


def seconds(run: RunRecord) -> float:
    """How long a step took, its earlier attempts included."""
    return ((run.end or run.start) - run.start) / 1000 + float(run.tags.get("earlier_seconds", 0))


def grid_points(run: RunRecord) -> tuple[list[Values], list[Values], list[Values]]:
    """Of an ablation: its power points, its baselines, and the acceptance by step of each longest trajectory."""
    points, baselines, series = [], [], []
    longest: dict[tuple[float, float], tuple[float, str]] = {}
    for child in tracking.children(run.id):
        values: Values = {**child.params, **child.metrics}
        if values.get("method") != "power":
            baselines.append(values | {"n": int(values.get("n", 1))})
            continue
        values |= {key: float(values[key]) for key in ("alpha", "temperature", "num_steps")}
        points.append(values)
        key = values["alpha"], values["temperature"]
        longest[key] = max(longest.get(key, (-1.0, "")), (values["num_steps"], child.id))
    order = {method: place for place, method in enumerate(METHODS)}
    baselines.sort(key=lambda row: (order.get(row.get("method", ""), len(order)), row["n"]))
    points.sort(key=lambda point: (point["temperature"] != 0.7, point["temperature"], point["alpha"], point["num_steps"]))
    for (alpha, temperature), (_, run_id) in sorted(longest.items()):
        for step, share in tracking.history(run_id, "acceptance_by_step"):
            series.append({"alpha": alpha, "temperature": temperature, "step": step, "acceptance": share})
    return points, baselines, series


def curves(run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """The curves of a training step that its figure shows."""
    return {key: tracking.history(run.id, key) for key in CURVES if key in run.metrics}


def task_results(runs: dict[str, RunRecord]) -> list[Values]:
    """Rows (model, task, accuracy, low, high, chance, passed, n) of every evaluated model."""
    rows = []
    for model, step in MODELS.items():
        values = final_values(runs[step]) if step in runs else {}
        rows += [{"model": model, "task": task, "accuracy": values[task],
                  **{key: values.get(f"{task}/{key}") for key in ("low", "high", "chance", "passed", "n")}}
                 for task in CHAT_TASKS if isinstance(values.get(task), float)]
    return rows


def recorded_environment(parent: str) -> Values:
    """The environment that an execution ran in; all unknown where none was recorded, never that of today."""
    if "environment.json" not in tracking.artifact_names(parent):
        return environment.unknown()
    return json.loads(tracking.artifact(parent, "environment.json").read_text())


def collect(parent: str) -> Values:
    """Everything `markdown.render` prints of one execution, figures left out. Raises UserError for an unknown run."""
    execution, runs = tracking.record(parent), step_runs(parent)
    steps = {step: final_values(run) for step, run in runs.items() if step != "report"}
    if "power_ablation" in runs:
        steps["power_ablation"]["points"], steps["power_ablation"]["baselines"], _ = grid_points(runs["power_ablation"])
    used = [run for step, run in runs.items() if step != "report"]
    own = [run.end for run in used if run.end and run.tags.get("mlflow.parentRunId") == parent]
    return {
        "title": execution.params.get("report.title", "nanolab training report"),
        "generated": time.strftime("%Y-%m-%d %H:%M:%S"),
        "experiment_file": execution.tags.get("experiment_file", f"{execution.params.get('experiment', 'this study')}.yaml"),
        "environment": recorded_environment(parent),
        "steps": steps,
        "wall_clock_seconds": sum(map(seconds, used)),
        "elapsed_seconds": (max(own) - execution.start) / 1000 if own else None,
    }
