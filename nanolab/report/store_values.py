"""MLflow runs of one execution -> the values of its report.

A step's values are its parameters and its final metrics; a step that was reused is followed by the
parent's tag `reused.STEP` to the run that made it. Nothing is read from work folders, so an older
study or a team's server serves as well.
"""

import ast
import time
from collections.abc import Iterable
from typing import Any

from nanolab import files, results
from nanolab.report import outside, provenance, published_figures
from nanolab.report.provenance import FINAL, seconds
from nanolab.results import Score, answered, first, select
from nanolab.settings.config import STEPS
from nanolab.settings.grid import SAMPLERS
from nanolab.tracking import comparable, environment, run_reader
from nanolab.tracking.run_reader import RunRecord
from nanolab.wording import METHOD_LABELS, MODEL_LABELS, TASKS, is_missing

CURVES = ("train/loss", "validation/bits_per_byte", "validation/bits_per_byte_se", "train/reward")
METHODS = list(METHOD_LABELS)
# of a trajectory, read at every num_steps
SETTING = ("alpha", "temperature", "restart_prob", "num_blocks")
# rows of sharpening against training
SHARPENED = ("greedy", "plain", "low_temperature", "best_of", "majority", "power")

TABLES = {"kinds": "bytes_per_token.json", "overlap": "overlap.json"}  # of step tok_eval
SPEED = "speed.json"  # of a step that asks a model from outside

Values = dict[str, Any]


def step_runs(parent: str) -> dict[str, RunRecord]:
    """The finished run of every step that an execution ran or reused, in the order of a study;
    steps it does not know come last.
    """
    runs = {}
    for key, run_id in run_reader.record(parent).tags.items():
        if key.startswith("reused."):
            runs[key.removeprefix("reused.")] = run_reader.record(run_id)
    for run in run_reader.children(parent):
        if "step" in run.tags and run.status == "FINISHED":
            runs[run.tags["step"]] = run
    return {step: runs[step] for step in dict.fromkeys([*STEPS, *runs]) if step in runs}


def final_values(run: RunRecord) -> Values:
    """A step's parameters under its final metrics, by plain name."""
    return {**run.params} | _final(run)


def _final(run: RunRecord) -> Values:
    found = {**run.tags, **run.metrics}
    return {key.removeprefix(FINAL): value for key, value in found.items() if key.startswith(FINAL)}


def rows_of(run: RunRecord) -> list[Score]:
    """What a step measured: the rows that it recorded; of a version that recorded none, those
    behind its flat metrics.
    """
    if results.FILE in run_reader.artifact_names(run.id):
        return results.from_json(files.read_json(run_reader.artifact(run.id, results.FILE)))
    step = run.tags["step"]
    model = results.model_of(step, run.params.get("source", ""))
    return results.read_flat(step, _final(run), model)


def grid_points(run: RunRecord) -> tuple[list[Values], list[Values], list[Values]]:
    """Of an ablation: its power points, the other methods, and the acceptance by step of each
    longest trajectory.
    """
    points, baselines, series = [], [], []
    longest: dict[tuple[float, ...], tuple[float, str]] = {}
    for child in run_reader.children(run.id):
        values = _point_values(run, child)
        if values.get("method") != "power":
            baselines.append(values)
            continue
        points.append(values)
        key = _setting(values)
        longest[key] = max(longest.get(key, (-1.0, "")), (values["num_steps"], child.id))
    baselines.sort(key=_baseline_order)
    points.sort(key=_point_order)
    for key, (_, run_id) in sorted(longest.items()):
        for step, share in run_reader.history(run_id, "acceptance_by_step"):
            series.append({**dict(zip(SETTING, key)), "step": step, "acceptance": share})
    return points, baselines, series


def _point_order(point: Values) -> tuple[Any, ...]:
    temperature = point["temperature"]
    return temperature != 0.7, temperature, _setting(point), point["num_steps"]


def _baseline_order(row: Values) -> tuple[Any, ...]:
    method = row.get("method", "")
    place = METHODS.index(method) if method in METHODS else len(METHODS)
    return place, _setting(row), row["n"], row.get("num_steps", 0.0)


def _point_values(run: RunRecord, child: RunRecord) -> Values:
    """A grid point's row; a setting that its grid does not vary is a parameter of the step
    alone.
    """
    method = child.params.get("method", "power")
    own = SAMPLERS.get(method, ())
    given = {key: run.params[key] for key in own if key in run.params}
    known = {**given, **child.params, **child.metrics}
    values: Values = {key: value for key, value in known.items() if not is_missing(value)}
    values |= {key: float(values[key]) for key in (*SETTING, "num_steps") if key in values}
    values["run_id"] = child.id
    samples = values.pop("samples", None)
    if method == "power":
        return values  # of one chain
    if samples is None:
        samples = values.get("n", 1)
    else:  # a baseline's alpha of 1 and its 0 steps are there for parallel coordinates only
        for key in ("num_steps", *(() if own else ("alpha",))):
            values.pop(key, None)
    count = {key: int(samples) for key in ("n", "particles", "rollouts") if key in ("n", *own)}
    return values | count


def _setting(values: Values) -> tuple[float, ...]:
    """The setting of a grid point; a key that it lacks is a setting's default: no restarts, one
    block.
    """
    return tuple(values.get(key, 1.0 if key == "num_blocks" else 0.0) for key in SETTING)


def curves(run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """The curves of a training step that its figure shows."""
    return {key: run_reader.history(run.id, key) for key in CURVES if key in run.metrics}


def curve_tokens(run: RunRecord) -> dict[str, float]:
    """How many tokens a point of a training step's curves is measured on, where that is known."""
    rows = rows_of(run)
    loss = first(rows, metric="loss")
    bits = first(rows, metric="bits_per_byte", split="validation")
    found = {}
    if bits and bits.tokens is not None:
        found["validation/bits_per_byte"] = float(bits.tokens)
    if loss and loss.tokens is not None and loss.n:
        found["train/loss"] = loss.tokens / loss.n
    return found


def task_results(runs: dict[str, RunRecord]) -> list[Values]:
    """Rows (model, task, accuracy, low, high, chance, passed, n, problems: their digest) of every
    evaluated model.
    """
    found = []
    for model, step in outside.asked({step: run.params for step, run in runs.items()}).items():
        rows = rows_of(runs[step])
        for row in filter(None, (answered(rows, task) for task in TASKS)):
            counts = {key: getattr(row, key) for key in ("low", "high", "chance", "passed", "n")}
            problems = comparable.digest(runs[step].params, row.task) or None
            of = {"model": model, "task": row.task, "accuracy": row.value}
            found.append(of | counts | {"problems": problems})
    return found


def power_steps(steps: Iterable[str]) -> list[str]:
    """The steps among `steps` that evaluate power sampling: power_eval, and power_eval_NAME of
    other models and tasks.
    """
    return [step for step in steps if step == "power_eval" or step.startswith("power_eval_")]


def _model(step: str, rows: list[Score]) -> str:
    """The model of a power evaluation, also of a step that no study has."""
    return (rows[0].model if rows else "") or step.removeprefix("power_eval_")


def sharpening(found: dict[str, list[Score]]) -> list[Values]:
    """Rows (model, task, method, accuracy, step, passed, total, low, high, positions_per_problem,
    p_value) of every power evaluation, of which `found` has the rows.

    p_value, in the row of power, is the exact McNemar test of power against greedy.
    """
    lines = []
    for step in power_steps(found):
        by_method = results.accuracies(found[step])
        greedy = by_method.get("greedy")
        for method in (method for method in SHARPENED if method in by_method):
            row = by_method[method]
            lines.append(
                {
                    "model": _model(step, found[step]),
                    "task": row.task,
                    "method": method,
                    "accuracy": row.value,
                    "step": step,
                    "passed": row.passed,
                    "total": row.n,
                    "low": row.low,
                    "high": row.high,
                    "positions_per_problem": row.positions,
                    "p_value": greedy.p_value if greedy and method == "power" else None,
                }
            )
    models = list(MODEL_LABELS)

    def order(line: Values) -> tuple[bool, str, int]:
        known = line["model"] in models
        place = models.index(line["model"]) if known else len(models)
        return line["task"] != "gsm8k", line["task"], place

    return sorted(lines, key=order)


def pass_at_k(found: dict[str, list[Score]]) -> list[Values]:
    """Rows (model, task, method, k, pass_at_k, low, high, total) of every power evaluation."""
    lines = []
    for step in power_steps(found):
        rows = found[step]
        total = next((row.n for row in results.accuracies(rows).values()), None)
        for row in select(rows, metric="pass_at_k"):
            of = {"model": _model(step, rows), "task": row.task, "method": row.method, "k": row.k}
            of |= {"pass_at_k": row.value, "low": row.low, "high": row.high, "total": total}
            lines.append(of)
    return sorted(
        lines, key=lambda line: (line["task"] != "gsm8k", line["method"] != "power", line["k"])
    )


def recorded_environment(parent: str) -> Values:
    """The environment that an execution ran in; all unknown where none was recorded, never that of
    today.
    """
    if "environment.json" not in run_reader.artifact_names(parent):
        return environment.unknown()
    return files.read_json(run_reader.artifact(parent, "environment.json"))


def recorded_tables(run: RunRecord) -> Values:
    """The tables of a tokenizer evaluation that the report prints, those that it recorded, by their
    key in TABLES.
    """
    tables = {key: run_reader.table(run.id, name) for key, name in TABLES.items()}
    return {key: rows for key, rows in tables.items() if rows is not None}


def of_outside(run: RunRecord) -> Values:
    """What is known besides of a step that asks a model from outside: the speed of its parts
    (nanolab/evals/model_facts.py) and its peak memory in GiB.
    """
    return {"speed": run_reader.table(run.id, SPEED), "peak_gib": provenance.peak_memory(run)[0]}


def listed_steps(execution: RunRecord) -> list[str] | None:
    """The steps that an execution's study asks for; None where that was not recorded."""
    found = execution.params.get("steps")
    return None if found is None else ast.literal_eval(found)


def collect(parent: str) -> Values:
    """Everything that `document.render` prints of one execution, figures left out: `steps` has the
    settings and flat values of each step, `rows` what it measured. Raises UserError for an unknown
    run.
    """
    execution, every = run_reader.record(parent), step_runs(parent)
    runs = {step: run for step, run in every.items() if step != "report"}
    steps = {step: final_values(run) for step, run in runs.items()}
    rows = {step: rows_of(run) for step, run in runs.items()}
    if "power_ablation" in runs:
        points, baselines, _ = grid_points(runs["power_ablation"])
        steps["power_ablation"] |= {"points": points, "baselines": baselines}
    if "tok_eval" in runs:
        steps["tok_eval"] |= recorded_tables(runs["tok_eval"])
    for step in filter(lambda step: outside.source_of(steps[step]), steps):
        steps[step] |= of_outside(runs[step])
    used = list(runs.values())
    own = [run.end for run in used if run.end and run.tags.get("mlflow.parentRunId") == parent]
    recorded = recorded_environment(parent)
    compared = sharpening(rows) if len(power_steps(steps)) > 1 or "power_eval" not in steps else []
    return {
        "title": execution.params.get("report.title", "nanolab training report"),
        "generated": time.strftime("%Y-%m-%d %H:%M:%S"),
        "experiment_file": execution.tags.get(
            "experiment_file", f"{execution.params.get('experiment', 'this study')}.yaml"
        ),
        "environment": recorded,
        "steps": steps,
        "rows": rows,
        # with one model there is nothing to hold sharpening against; its section has the same
        # numbers
        "sharpening": [
            row | {"run_id": runs[row["step"]].id, "engine": outside.engine_of(steps[row["step"]])}
            for row in compared
        ],
        "listed": listed_steps(execution),
        "published": published_figures.beside(steps, rows),
        "wall_clock_seconds": sum(map(seconds, used)),
        "elapsed_seconds": (max(own) - execution.start) / 1000 if own else None,
        "origins": provenance.origins(execution, every),
        "costs": provenance.planned_and_spent(execution, runs, recorded),
    }
