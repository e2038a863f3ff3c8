"""Two studies, or two executions, beside each other: settings that differ, accuracies with
intervals of their difference, other metrics.

Accuracies on the same problems are paired problem by problem: Newcombe's paired interval and
McNemar's exact test; else the interval is Newcombe's for independent proportions. Everything is
given as rows (lists of dicts), for a table, JSON, CSV or a DataFrame. No torch.
"""

import json
from dataclasses import dataclass
from typing import Any

from nanolab import files
from nanolab.artefacts import RESULT, verified
from nanolab.errors import UserError
from nanolab.report import outside, results_csv
from nanolab.report.provenance import hourly_rate, seconds
from nanolab.report.store_values import recorded_environment, step_runs
from nanolab.settings.model_source import is_outside
from nanolab.settings.study_file import find_study, load_study
from nanolab.statistics import mcnemar_exact, newcombe, newcombe_paired
from nanolab.tracking import comparable, run_reader
from nanolab.tracking.address import shown_uri
from nanolab.tracking.run_reader import RunRecord
from nanolab.wording import or_dash

Row = dict[str, Any]
Outcomes = dict[int, tuple[bool, Any]]  # number of a problem -> (passed, the answer expected)

PAIRED = "Newcombe 1998, paired, method 10"
UNPAIRED = "Newcombe 1998, unpaired, method 10"
# settings that choose the problems
SAME_DATA = ("data.source", "data.root", "data.seed")
SAME_PROBLEMS = (*SAME_DATA, "data.choice_answers", "subset", "split")
KEY = ("step", "model", "task", "metric", "method", "setting")  # of a number that both may have
VALUES = ("a", "b", "difference", "low", "high", "p_value", "n", "only_a", "only_b")
SPEEDS = ("tokens_per_second", "positions_per_second")  # of an engine, as of a model
COLUMNS = ("kind", *KEY, *VALUES, "interval", "note", "run_a", "run_b")


@dataclass(frozen=True)
class Side:
    """One of the two: an execution with the runs of its steps."""

    execution: RunRecord
    runs: dict[str, RunRecord]

    @property
    def name(self) -> str:
        """The execution's name: the study's and when it started."""
        return self.execution.name

    @property
    def models(self) -> list[str]:
        """The models from outside that its steps are of, by their names."""
        return list(outside.names({step: run.params for step, run in self.runs.items()}).values())


def find(name: str) -> Side:
    """The execution of a run id, or the latest whole one of a study (its name, or its YAML file),
    else its latest.

    Raises UserError for a study that never ran, and for a name that is neither.
    """
    executions = run_reader.executions(name)
    if not executions and len(name) == 32 and set(name) <= set("0123456789abcdef"):
        run = run_reader.record(name)
        if run.tags.get("nanolab.kind") != "execution":
            raise UserError(
                f"run {name} is {run.tags.get('step') or run.name!r}, no execution of a study; "
                f"its execution is {run.tags.get('mlflow.parentRunId', 'unknown')}"
            )
        return Side(run, step_runs(run.id))
    if not executions:
        path = find_study(name)  # refuses a name that is no study
        executions = run_reader.executions(load_study(str(path)).experiment)
        if not executions:
            raise UserError(
                f"study {name!r} has no execution in {shown_uri()}: run it first, with "
                f"python scripts/run_all.py {name}"
            )
    study = executions[0].params["experiment"]
    whole = [run for run in executions if run.tags.get("mlflow.source.name") == run_reader.RUN_ALL]
    chosen = run_reader.latest_whole(study) or (whole or executions)[0]
    return Side(chosen, step_runs(chosen.id))


def seeds_of(side: Side) -> list[Side]:
    """The execution of each seed of a study with several, as its latest execution has them; else
    the one.
    """
    params = side.execution.params
    seeds = json.loads(params.get("seeds") or "[]")
    found = [
        run_reader.latest_whole(params["experiment"], seed=str(seed), seeds=params["seeds"])
        for seed in seeds
    ]
    return [Side(one, step_runs(one.id)) for one in found if one is not None] or [side]


def settings(a: Side, b: Side) -> list[Row]:
    """Rows (setting, a, b) of the settings in which the two differ; None where one has no such
    setting.
    """
    keys = dict.fromkeys([*a.execution.params, *b.execution.params])
    left, right = a.execution.params, b.execution.params
    return [
        {"setting": key, "a": left.get(key), "b": right.get(key)}
        for key in keys
        if left.get(key) != right.get(key) and key not in ("experiment", "description")
    ]


def differences(a: Side, b: Side) -> list[Row]:
    """Rows with the COLUMNS: kind "accuracy", then "metric", then "cost"; `difference` is b - a,
    None where there is no such thing.

    Ablation grids, whose points are studies of their own, are left out.
    """
    left, right = _results(a), _results(b)
    rows: list[Row] = []
    for key in [key for key in left if key in right]:
        one, other = left[key], right[key]
        row = _row("metric", one["value"], other["value"], one["run_id"], other["run_id"])
        models = dict.fromkeys([one["model"], other["model"]])
        row |= dict(zip(KEY, key)) | {"model": ", ".join(models)}
        runs = a.runs[row["step"]], b.runs[row["step"]]
        if row["metric"] == "accuracy" and one["n"] and other["n"]:
            row |= {"kind": "accuracy", **_tested(row, one, other, *runs)}
        else:
            row["note"] = _unlike(one, other, *runs)
        rows.append(row)
    rows += _costs(a, b)
    order = {"accuracy": 0, "metric": 1, "cost": 2}
    return sorted(rows, key=lambda row: order[row["kind"]])


def _row(kind: str, a: float, b: float, run_a: str, run_b: str) -> Row:
    known = {"kind": kind, "a": a, "b": b, "difference": b - a, "run_a": run_a, "run_b": run_b}
    return dict.fromkeys(COLUMNS) | known


def _results(side: Side) -> dict[tuple[str, ...], Row]:
    """Every number by what it is of; a model from outside stands beside any other from outside."""
    rows = results_csv.result_rows(side.execution, side.runs, [])

    def key(row: Row) -> tuple[str, ...]:
        model = "" if is_outside(row["model"]) else row["model"]
        return tuple((row | {"model": model})[column] for column in KEY)

    return {key(row): row for row in rows}


def _unlike(one: Row, other: Row, run: RunRecord, other_run: RunRecord) -> str:
    """Why two numbers are not of the same rows, problems or kind; empty where nothing tells."""
    engines = [outside.engine_of(each.params) for each in (run, other_run)]
    if one["metric"] in SPEEDS and engines[0] != engines[1]:
        return f"the engines differ ({', '.join(engines)})"
    if one["n"] != other["n"]:
        return f"a of {or_dash(one['n'])}, b of {or_dash(other['n'])}"
    for key in SAME_DATA:
        if run.params.get(key) != other_run.params.get(key):
            return f"{key} differs"
    asked = [run_reader.under("problems.", each.params) for each in (run, other_run)]
    return "" if asked[0] == asked[1] else "not the same problems"


def _costs(a: Side, b: Side) -> list[Row]:
    """Seconds of every step that both have, and of all steps of each; their dollars where both have
    an hourly rate.
    """
    took_a, took_b = (
        {step: seconds(run) for step, run in side.runs.items() if step != "report"}
        for side in (a, b)
    )
    rows = [
        _row("cost", took_a[step], took_b[step], a.runs[step].id, b.runs[step].id)
        | {"step": step, "metric": "seconds"}
        for step in took_a
        if step in took_b
    ]
    whole = sum(took_a.values()), sum(took_b.values())
    executions = a.execution.id, b.execution.id
    total = {"step": "all steps", "metric": "seconds"}
    rows.append(_row("cost", *whole, *executions) | total)
    hardware = [recorded_environment(run)["hardware"] for run in executions]
    rates = hourly_rate(a.execution, hardware[0]), hourly_rate(b.execution, hardware[1])
    if None not in rates:
        dollars = [rate * time / 3600 for rate, time in zip(rates, whole)]
        rows.append(_row("cost", *dollars, *executions) | total | {"metric": "dollars"})
    return rows


# ---- accuracies


def _tested(row: Row, one: Row, other: Row, run: RunRecord, other_run: RunRecord) -> Row:
    """difference, low, high, p_value, n, only_a, only_b, interval and note of an accuracy."""
    n, other_n = round(float(one["n"])), round(float(other["n"]))
    address = row["task"], row["method"], row["setting"]
    found = [
        outcomes(run, *address, one["value"], n),
        outcomes(other_run, *address, other["value"], other_n),
    ]
    name = f"core/{row['task']}" if row["setting"] == "core" else row["task"]
    digests = [
        comparable.digest(each.params, name, each.params.get("split", "test"))
        for each in (run, other_run)
    ]
    if why := _not_paired(found, run, other_run, digests):
        passed = round(one["value"] * n), round(other["value"] * other_n)
        low, high = newcombe(passed[1], other_n, passed[0], n)
        sizes = "" if n == other_n else f"; a of {n}, b of {other_n} problems"
        return {
            "low": low,
            "high": high,
            "n": n if n == other_n else None,
            "interval": UNPAIRED,
            "note": f"not paired: {why}{sizes}",
        }
    left, right = found
    assert left is not None and right is not None
    common = sorted(set(left) & set(right))
    table = {
        pair: sum((left[index][0], right[index][0]) == pair for index in common)
        for pair in ((True, True), (False, True), (True, False), (False, False))
    }
    both, only_b, only_a, neither = table.values()
    low, high = newcombe_paired(both, only_b, only_a, neither)
    n = len(common)
    part = "" if n == max(len(left), len(right)) else f"of the {n} problems that both answered"
    return {
        "a": (both + only_a) / n,
        "b": (both + only_b) / n,
        "difference": (only_b - only_a) / n,
        "low": low,
        "high": high,
        "p_value": mcnemar_exact(only_b, only_a),
        "n": n,
        "only_a": only_a,
        "only_b": only_b,
        "interval": PAIRED,
        "note": part,
    }


def _not_paired(
    found: list[Outcomes | None], run: RunRecord, other: RunRecord, digests: list[str]
) -> str:
    """Why two runs' problems cannot be paired; empty where they can. `digests` are of all that each
    was asked: of a part the expected answers must tell that its numbers name the same problems.
    """
    for key in SAME_PROBLEMS:
        if run.params.get(key) != other.params.get(key):
            values = f"({run.params.get(key)}, {other.params.get(key)})"
            return f"not the same test set, {key} differs {values}"
    left, right = found
    if left is None or right is None:
        if left is right:
            return "no record of each problem is at hand"
        return f"{'a' if left is None else 'b'} has no record of each problem"
    common = set(left) & set(right)
    if not common or any(left[index][1] != right[index][1] for index in common):
        return "the problems are not the same"
    if len(left) != len(right):
        unknown = any(left[index][1] is None for index in common)
        return "nothing tells which problems both answered" if unknown else ""
    if digests[0] == digests[1]:  # older runs recorded none
        return ""
    return f"the problems are not {'' if all(digests) else 'known to be '}the same"


def outcomes(
    run: RunRecord, task: str, method: str, setting: str, accuracy: float, n: int
) -> Outcomes | None:
    """Which problems a step's run passed, by number, with the answer expected; None where no record
    of them agrees with its accuracy.

    Power evaluations keep their problems in MLflow; other steps in their work folder, which may lie
    on another machine or hold a later attempt: so a record counts only if it gives the accuracy
    that the run states.
    Raises UserError for one that is not as the step left it.
    """
    folder = files.MLRUNS / run.tags.get("work_folder", "-") / "records"
    if run.tags.get("step", "").startswith("power_eval"):
        if "problems.jsonl" not in run_reader.artifact_names(run.id):
            return None
        lines = files.read_json_lines(run_reader.artifact(run.id, "problems.jsonl"))
        records = [{"index": line["index"], **line["methods"].get(method, {})} for line in lines]
    else:
        # before_greedy.jsonl of reinforcement learning, core_hellaswag.jsonl of CORE
        path = folder / (f"{setting}_{method or task}.jsonl" if setting else f"{task}.jsonl")
        if path.is_file() and (folder.parent / RESULT).is_file():
            verified(folder.parent, f"records/{path.name}")
        records = files.read_json_lines(path) if path.is_file() else []
    if len(records) != n or not all("passed" in record for record in records):
        return None
    found = {
        record["index"]: (bool(record["passed"]), record.get("expected")) for record in records
    }
    return found if abs(sum(passed for passed, _ in found.values()) / n - accuracy) < 1e-6 else None
