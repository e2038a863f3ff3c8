"""Every result of a study as one table, results.csv: a row for each number that an execution's
steps ended with.

What the COLUMNS hold that their names do not say:

- execution, run_id: ids of MLflow runs; commit: the code's, "-dirty" where tracked files differed.
- model: base, mid, sft, rl or one from outside; empty for the tokenizer.
- method: how answers were drawn; empty where that does not apply.
- setting: a grid point's settings; before or after learning; core for the tasks of CORE.
- low, high: the 95% interval (Wilson) of a share of n problems.
- p_value: McNemar's exact test against power sampling (power_eval), greedy (power_ablation), the
  model before (rl).
- positions: token positions forwarded a problem, which engines do not count alike; engine: what
  decoded the answers, empty where a step cannot choose; seconds: of the step, all of its attempts.
"""

import csv
import io
from typing import Any

from nanolab.report.provenance import seconds
from nanolab.report.store_values import rows_of, step_runs
from nanolab.results import OF_TASKS, Score, flat, model_of
from nanolab.tracking import run_reader
from nanolab.tracking.run_reader import RunRecord
from nanolab.wording import is_missing

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
    "engine",
    "seconds",
    "run_id",
    "commit",
)
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
    execution, runs = run_reader.record(parent), step_runs(parent)
    points = run_reader.children(runs["power_ablation"].id) if "power_ablation" in runs else []
    return result_rows(execution, runs, points)


def result_rows(
    execution: RunRecord, runs: dict[str, RunRecord], points: list[RunRecord]
) -> list[Row]:
    """The rows of an execution's steps, the report's left out; `points` are the grandchild runs of
    its ablation.
    """
    rows = []
    for step, run in runs.items():
        if step == "report":
            continue
        common = {
            "study": execution.params.get("experiment", ""),
            "execution": execution.id,
            "seed": execution.params.get("seed", ""),
            "step": step,
            "engine": run.params.get("engine") or run.params.get("model.engine", ""),
            "seconds": seconds(run),
            "run_id": run.id,
            "commit": commit(run),
            "model": model_of(step, run.params.get("source", "")),
        }
        rows += [common | line for row in rows_of(run) for line in score_rows(row)]
        if step == "power_ablation":
            rows += [common | point_row(point, run.params.get("task", "gsm8k")) for point in points]
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows]


def score_rows(row: Score) -> list[Row]:
    """The lines of one measured number: an accuracy with its details in one, its chance in another;
    of other metrics each flat value by itself.
    """
    of = {"task": row.task, "method": row.method, "setting": row.suite or row.moment}
    of = {key: value for key, value in of.items() if value}
    if row.metric.startswith("accuracy") and not row.chosen and not row.part:
        p_value = None if row.moment == "before" else row.p_value
        details = {"low": row.low, "high": row.high, "n": row.n, "p_value": p_value}
        line = of | {"metric": row.metric, "value": row.value, "positions": row.positions} | details
        lines = [line]
        if row.metric == "accuracy":
            lines.append(of | {"metric": "chance", "value": row.chance})
    elif row.metric == "pass_at_k":
        of |= {"metric": f"pass_at_{row.k}", "value": row.value}
        lines = [of | {"low": row.low, "high": row.high}]
    elif row.metric in OF_TASKS:
        lines = [of | {"metric": row.metric, "value": row.value}]
    else:
        lines = [{"metric": key, "value": value} for key, value in flat([row]).items()]
        lines = [line for line in lines if not isinstance(line["value"], str)]
    return [
        {key: value for key, value in line.items() if value is not None}
        for line in lines
        if line["value"] is not None
    ]


def point_row(point: RunRecord, task: str) -> Row:
    """The row of a grid point of an ablation."""
    setting = " ".join(
        f"{key}={float(point.params[key]):g}"
        for key in GRID
        if not is_missing(point.params.get(key))
    )
    names = {"value": "accuracy", "low": "low", "high": "high", "n": "total", "p_value": "p_value"}
    names["positions"] = "positions_per_problem"
    found = {column: point.metrics.get(name) for column, name in names.items()}
    return {
        "task": task,
        "metric": "accuracy",
        "method": point.params.get("method", "power"),
        "setting": setting,
        "run_id": point.id,
        **{column: value for column, value in found.items() if value is not None},
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
