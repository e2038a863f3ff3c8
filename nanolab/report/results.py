"""Every result of a study as one table, results.csv: one row for each number that an execution's steps ended with.

Columns:
    study, execution     the study's name, and the id of the MLflow run of its execution
    seed                 the seed of the execution
    step, model          the step, and the model that it trained, evaluated or sampled (base, mid, sft, rl, one from outside); empty
                         for the tokenizer
    task                 the task (gsm8k, ...; hellaswag, ... of CORE) of an accuracy; empty for another metric
    metric               accuracy, pass_at_4, loss, validation_bits_per_byte, tokens_per_second, ...
    method               how answers were drawn: power, greedy, plain, best_of, ...; empty where that does not apply
    setting              what else tells a row from others: a grid point's alpha, temperature, ...; before or after learning; core for
                         the tasks of CORE, some of which are chat tasks too (arc_easy), asked in another way
    value                the number
    low, high            its 95% interval (Wilson), where it is a share
    n                    problems it is a share of
    p_value              McNemar's exact test against power sampling (power_eval), greedy (power_ablation), the model before (rl)
    positions            token positions forwarded a problem
    seconds              how long the step took, all of its attempts
    run_id, commit       the MLflow run, and the code's commit, "-dirty" where tracked files differed from it
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from nanolab import tracking
from nanolab.config import CHAT_TASKS, STEPS
from nanolab.report.collect import step_runs
from nanolab.report.provenance import FINAL, seconds
from nanolab.tracking import RunRecord

COLUMNS = (
    "study",
    "execution",
    "seed",
    "step",
    "model",
    "task",
    "metric",
    "method",
    "setting",
    "value",
    "low",
    "high",
    "n",
    "p_value",
    "positions",
    "seconds",
    "run_id",
    "commit",
)
TRAINED = {
    "base_train": "base",
    "base_loss": "base",
    "base_eval": "base",
    "mid_train": "mid",
    "sft": "sft",
    "rl": "rl",
}
DETAILS = {
    "low": "low",
    "high": "high",
    "n": "n",
    "total": "n",
    "p_value": "p_value",
    "positions_per_problem": "positions",
}
COUNTED = (
    "passed",
    "n",
    "total",
    "low",
    "high",
    "p_value",
    "positions_per_problem",
)  # they belong to an accuracy's row
GRID = (
    "alpha",
    "temperature",
    "num_steps",
    "n",
    "restart_prob",
    "num_blocks",
    "particles",
    "ess_threshold",
    "ramp_tokens",
    "candidates",
    "rollouts",
    "horizon",
)

Row = dict[str, Any]


def of_execution(parent: str) -> list[Row]:
    """The rows of an execution. Raises UserError for an unknown run."""
    execution, runs = tracking.record(parent), step_runs(parent)
    points = tracking.children(runs["power_ablation"].id) if "power_ablation" in runs else []
    return result_rows(execution, runs, points)


def result_rows(
    execution: RunRecord, runs: dict[str, RunRecord], points: list[RunRecord]
) -> list[Row]:
    """The rows of an execution's steps, the report's left out; `points` are the grandchild runs of its ablation."""
    rows = []
    for step, run in runs.items():
        if step == "report":
            continue
        common = {
            "study": execution.params.get("experiment", ""),
            "execution": execution.id,
            "seed": execution.params.get("seed", ""),
            "step": step,
            "seconds": seconds(run),
            "run_id": run.id,
            "commit": commit(run),
            "model": run.params.get("source") or STEPS[step].fixed.get("source", "")
            if step not in TRAINED and step in STEPS
            else TRAINED.get(step, ""),
        }
        values = {
            key.removeprefix(FINAL): value
            for key, value in run.metrics.items()
            if key.startswith(FINAL)
        }
        rows += [common | row for row in metric_rows(step, values)]
        if step == "power_ablation":
            rows += [common | point_row(point, run.params.get("task", "gsm8k")) for point in points]
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows]


def metric_rows(step: str, values: dict[str, float]) -> list[Row]:
    """The rows of one step's final metrics, by plain name."""
    sampling = step.startswith("power_eval")
    rows = []
    for key, value in values.items():
        head, _, last = key.rpartition("/")
        task = next((task for task in CHAT_TASKS if task in values), "") if sampling else ""
        if found := re.fullmatch(r"core/([^/]+)(?:/(\w+))?", key):
            if not found[2]:
                rows.append(
                    {
                        "task": found[1],
                        "metric": "accuracy",
                        "setting": "core",
                        "value": value,
                        **_details(values, f"{key}/"),
                    }
                )
            elif found[2] not in COUNTED:
                rows.append(
                    {"task": found[1], "metric": found[2], "setting": "core", "value": value}
                )
        elif found := re.fullmatch(
            r"(before|after)(_\w+)?", last
        ):  # of reinforcement learning, beside the paired test
            if not found[2]:
                details = {
                    "low": values.get(f"{key}_low"),
                    "high": values.get(f"{key}_high"),
                    "n": values.get(f"{head}/n"),
                    "p_value": values.get(f"{head}/p_value") if last == "after" else None,
                }
                rows.append(
                    {
                        "task": "gsm8k",
                        "metric": "accuracy",
                        "method": head,
                        "setting": last,
                        "value": value,
                        **details,
                    }
                )
        elif found := re.fullmatch(r"pass_at_(\d+)", last):
            rows.append(
                {
                    "task": task if sampling else head,
                    "metric": last,
                    "method": head if sampling else "",
                    "value": value,
                    "low": values.get(f"{key}_low"),
                    "high": values.get(f"{key}_high"),
                }
            )
        elif key in CHAT_TASKS:
            prefix = "" if sampling else f"{key}/"
            method = "power" if sampling else ""
            rows.append(
                {
                    "task": key,
                    "metric": "accuracy",
                    "method": method,
                    "value": value,
                    **_details(values, prefix),
                }
            )
        elif last == "accuracy":
            rows.append(
                {
                    "task": task,
                    "metric": "accuracy",
                    "method": head,
                    "value": value,
                    **_details(values, f"{head}/"),
                }
            )
        elif last not in COUNTED and not re.fullmatch(r"pass_at_\d+_(low|high)", last):
            is_task = head in CHAT_TASKS
            rows.append(
                {
                    "task": head if is_task else "",
                    "metric": last if is_task else key,
                    "value": value,
                }
            )
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def point_row(point: RunRecord, task: str) -> Row:
    """The row of a grid point of an ablation."""
    setting = " ".join(
        f"{key}={float(point.params[key]):g}"
        for key in GRID
        if point.params.get(key) not in (None, "None")
    )
    return {
        "task": task,
        "metric": "accuracy",
        "method": point.params.get("method", "power"),
        "setting": setting,
        "run_id": point.id,
        "value": point.metrics.get("accuracy"),
        **_details(point.metrics, ""),
    }


def _details(values: dict[str, float], prefix: str) -> Row:
    return {
        column: values[prefix + key] for key, column in DETAILS.items() if prefix + key in values
    }


def commit(run: RunRecord) -> str:
    """The code's commit of a run."""
    found = run.tags.get("mlflow.source.git.commit", "")
    return found + ("-dirty" if found and run.tags.get("git.dirty") == "true" else "")


def to_csv(rows: list[Row]) -> str:
    """The rows as CSV with a header, numbers as Python writes them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
