"""MLflow runs of one execution -> the values of its report.

A step's values are its parameters and its final metrics; a step that was reused is followed by the parent's tag
`reused.STEP` to the run that made it. Nothing is read from work folders, so an older study or a team's server serves as well.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from nanolab import tracking
from nanolab.config import CHAT_TASKS, STEPS
from nanolab.grid import SAMPLERS
from nanolab.report import environment, provenance
from nanolab.report.formats import is_missing
from nanolab.report.markdown import TASK_LABELS
from nanolab.report.provenance import FINAL, seconds
from nanolab.tracking import RunRecord

CURVES = ("train/loss", "validation/bits_per_byte", "train/reward")
MODELS = {"base": "base_eval", "mid": "chat_eval_mid", "sft": "chat_eval_sft", "rl": "chat_eval_rl"}
METHODS = (
    "greedy",
    "low_temperature",
    "plain",
    "best_of",
    "majority",
    "smc",
    "rollout",
    "chain_vote",
    "most_likely",
)
SETTING = (
    "alpha",
    "temperature",
    "restart_prob",
    "num_blocks",
)  # of a trajectory, read at every num_steps
SHARPENED = (
    "greedy",
    "plain",
    "low_temperature",
    "best_of",
    "majority",
    "power",
)  # rows of sharpening against training

TABLES = {"kinds": "bytes_per_token.json", "overlap": "overlap.json"}  # of step tok_eval

Values = dict[str, Any]


def step_runs(parent: str) -> dict[str, RunRecord]:
    """The finished run of every step that an execution ran or reused, in the order of a study; steps it does not know come last."""
    runs = {}
    for key, run_id in tracking.record(parent).tags.items():
        if key.startswith("reused."):
            runs[key.removeprefix("reused.")] = tracking.record(run_id)
    for run in tracking.children(parent):
        if "step" in run.tags and run.status == "FINISHED":
            runs[run.tags["step"]] = run
    return {step: runs[step] for step in dict.fromkeys([*STEPS, *runs]) if step in runs}


def final_values(run: RunRecord) -> Values:
    """A step's parameters under its final metrics, by plain name."""
    values: Values = dict(run.params)
    values |= {
        key.removeprefix(FINAL): text for key, text in run.tags.items() if key.startswith(FINAL)
    }
    return values | {
        key.removeprefix(FINAL): number
        for key, number in run.metrics.items()
        if key.startswith(FINAL)
    }


def grid_points(run: RunRecord) -> tuple[list[Values], list[Values], list[Values]]:
    """Of an ablation: its power points, the other methods, and the acceptance by step of each longest trajectory."""
    points, baselines, series = [], [], []
    longest: dict[tuple[float, ...], tuple[float, str]] = {}
    for child in tracking.children(run.id):
        values = _point_values(run, child)
        if values.get("method") != "power":
            baselines.append(values)
            continue
        points.append(values)
        key = _setting(values)
        longest[key] = max(longest.get(key, (-1.0, "")), (values["num_steps"], child.id))
    order = {method: place for place, method in enumerate(METHODS)}
    baselines.sort(
        key=lambda row: (
            order.get(row.get("method", ""), len(order)),
            _setting(row),
            row["n"],
            row.get("num_steps", 0.0),
        )
    )
    points.sort(
        key=lambda point: (
            point["temperature"] != 0.7,
            point["temperature"],
            _setting(point),
            point["num_steps"],
        )
    )
    for key, (_, run_id) in sorted(longest.items()):
        for step, share in tracking.history(run_id, "acceptance_by_step"):
            series.append({**dict(zip(SETTING, key)), "step": step, "acceptance": share})
    return points, baselines, series


def _point_values(run: RunRecord, child: RunRecord) -> Values:
    """A grid point's row; a setting that its grid does not vary is a parameter of the step alone."""
    method = child.params.get("method", "power")
    given = {key: run.params[key] for key in SAMPLERS.get(method, ()) if key in run.params}
    values: Values = {
        key: value
        for key, value in {**given, **child.params, **child.metrics}.items()
        if not is_missing(value)
    }
    values |= {key: float(values[key]) for key in (*SETTING, "num_steps") if key in values} | {
        "run_id": child.id
    }
    samples = values.pop("samples", None)
    if method == "power":
        return values  # of one chain
    if (
        samples is not None
    ):  # a baseline's alpha of 1 and its 0 steps are there for parallel coordinates only
        values = {
            key: value
            for key, value in values.items()
            if key not in ("num_steps", *(() if method in SAMPLERS else ("alpha",)))
        }
    values["n"] = int(values.get("n", 1) if samples is None else samples)
    return values | {
        key: values["n"] for key in ("particles", "rollouts") if key in SAMPLERS.get(method, ())
    }


def _setting(values: Values) -> tuple[float, ...]:
    """The setting of a grid point; a key that it lacks is a setting's default: no restarts, one block."""
    return tuple(values.get(key, 1.0 if key == "num_blocks" else 0.0) for key in SETTING)


def curves(run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """The curves of a training step that its figure shows."""
    return {key: tracking.history(run.id, key) for key in CURVES if key in run.metrics}


def task_results(runs: dict[str, RunRecord]) -> list[Values]:
    """Rows (model, task, accuracy, low, high, chance, passed, n) of every evaluated model."""
    rows = []
    for model, step in MODELS.items():
        values = final_values(runs[step]) if step in runs else {}
        rows += [
            {
                "model": model,
                "task": task,
                "accuracy": values[task],
                **{
                    key: values.get(f"{task}/{key}")
                    for key in ("low", "high", "chance", "passed", "n")
                },
            }
            for task in CHAT_TASKS
            if isinstance(values.get(task), float)
        ]
    return rows


def power_steps(steps: dict[str, Any]) -> list[str]:
    """The steps among `steps` that evaluate power sampling: power_eval, and power_eval_NAME of other models and tasks."""
    return [step for step in steps if step == "power_eval" or step.startswith("power_eval_")]


def _subject(step: str, values: Values) -> tuple[str, str]:
    """(model, task) of a power evaluation."""
    task = next(
        (task for task in TASK_LABELS.values() if not is_missing(values.get(task))), "gsm8k"
    )
    return values.get("source") or step.removeprefix("power_eval_"), task


def sharpening(steps: dict[str, Values]) -> list[Values]:
    """Rows (model, task, method, accuracy, step, passed, total, low, high, positions_per_problem, p_value) of every power evaluation.

    `steps` gives the values of each step. p_value, in the row of power, is the exact McNemar test of power against greedy.
    """
    rows = []
    for step in power_steps(steps):
        values = steps[step]
        model, task = _subject(step, values)
        for method in SHARPENED:
            prefix = "" if method == "power" else f"{method}/"
            accuracy = values.get(task if method == "power" else f"{method}/accuracy")
            if not is_missing(accuracy):
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "method": method,
                        "accuracy": accuracy,
                        "step": step,
                        **{
                            key: values.get(prefix + key)
                            for key in ("passed", "total", "low", "high", "positions_per_problem")
                        },
                        "p_value": values.get("greedy/p_value") if method == "power" else None,
                    }
                )
    models = list(MODELS)
    rows.sort(
        key=lambda row: (
            row["task"] != "gsm8k",
            row["task"],
            models.index(row["model"]) if row["model"] in models else len(models),
        )
    )
    return rows


def pass_at_k(steps: dict[str, Values]) -> list[Values]:
    """Rows (model, task, method, k, pass_at_k, low, high) from the metrics METHOD/pass_at_K, and METHOD/pass_at_K_low and _high."""
    rows = []
    for step in power_steps(steps):
        for key, value in steps[step].items():
            found = re.fullmatch(r"(\w+)/pass_at_(\d+)", key)
            if found:
                model, task = _subject(step, steps[step])
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "method": found[1],
                        "k": int(found[2]),
                        "pass_at_k": value,
                        "low": steps[step].get(f"{key}_low"),
                        "high": steps[step].get(f"{key}_high"),
                    }
                )
    return sorted(
        rows, key=lambda row: (row["task"] != "gsm8k", row["method"] != "power", row["k"])
    )


def recorded_environment(parent: str) -> Values:
    """The environment that an execution ran in; all unknown where none was recorded, never that of today."""
    if "environment.json" not in tracking.artifact_names(parent):
        return environment.unknown()
    return json.loads(tracking.artifact(parent, "environment.json").read_text())


def recorded_tables(run: RunRecord) -> Values:
    """The tables of a tokenizer evaluation that the report prints, those that it recorded, by their key in TABLES."""
    names, found = tracking.artifact_names(run.id), {}
    for key, name in TABLES.items():
        if name in names:
            content = json.loads(tracking.artifact(run.id, name).read_text())
            found[key] = [dict(zip(content["columns"], row)) for row in content["data"]]
    return found


def collect(parent: str) -> Values:
    """Everything `markdown.render` prints of one execution, figures left out. Raises UserError for an unknown run."""
    execution, runs = tracking.record(parent), step_runs(parent)
    steps = {step: final_values(run) for step, run in runs.items() if step != "report"}
    if "power_ablation" in runs:
        steps["power_ablation"]["points"], steps["power_ablation"]["baselines"], _ = grid_points(
            runs["power_ablation"]
        )
    if "tok_eval" in runs:
        steps["tok_eval"] |= recorded_tables(runs["tok_eval"])
    used = [run for step, run in runs.items() if step != "report"]
    own = [run.end for run in used if run.end and run.tags.get("mlflow.parentRunId") == parent]
    recorded = recorded_environment(parent)
    compared = sharpening(steps) if len(power_steps(steps)) > 1 or "power_eval" not in steps else []
    return {
        "title": execution.params.get("report.title", "nanolab training report"),
        "generated": time.strftime("%Y-%m-%d %H:%M:%S"),
        "experiment_file": execution.tags.get(
            "experiment_file", f"{execution.params.get('experiment', 'this study')}.yaml"
        ),
        "environment": recorded,
        "steps": steps,
        # with one model there is nothing to hold sharpening against; its section has the same numbers
        "sharpening": [row | {"run_id": runs[row["step"]].id} for row in compared],
        "wall_clock_seconds": sum(map(seconds, used)),
        "elapsed_seconds": (max(own) - execution.start) / 1000 if own else None,
        "origins": provenance.origins(execution, runs),
        "costs": provenance.planned_and_spent(
            execution, {step: run for step, run in runs.items() if step != "report"}, recorded
        ),
        "task_results": task_results(runs),
    }
