"""Saved views of a study's runs in the MLflow UI (its menu "Views"), and their addresses.

A view is an experiment tag as the UI writes it. Sorted by their start the runs stand as a tree, by
anything else as a flat list.
"""

import json
import time
from typing import Any
from urllib.parse import quote

from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.address import server_address
from nanolab.tracking.run_reader import RunRecord
from nanolab.tracking.store import client

PREFIX = "mlflow.sharedViewState."
STEPS, TREE, GRID = "nanolab-steps", "nanolab-tree", "nanolab-ablation"
NAMES = {STEPS: "Steps", TREE: "Latest execution", GRID: "Ablation"}
GRID_PARAMS = ["method", "alpha", "temperature", "num_steps", "samples"]
GRID_METRICS = ["accuracy", "low", "high", "positions_per_problem", "acceptance", "log_p"]
COMPARED = 100  # runs: their ids are part of an address in a tag, which has a limit
LATEST = "latest"  # tag of the runs that stand for the steps of a study
STUDY_NOTE = """\
{description} {links}

An execution of the study is a parent run; its steps are the runs below it, numbered in order; a \
point of the ablation's grid is a run below its step. The column `result` has the main result of \
each run in words, and the description of each run leads to the report, to its executed notebook \
and to the runs that it reads.

`final/...` are a step's final values, other metrics are curves; grid points have `accuracy` with \
its 95% interval (`low`, `high`) and its cost in forwarded `positions_per_problem`. A step that \
was not run anew is named by the parent's tag `reused.STEP`."""


def page(experiment_id: str, view: str, charts: bool = False) -> str:
    """The part of an address after the UI's own: a study's runs in a view, as a table or charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    runs = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{runs}&viewStateShareKey={view}{mode}"


def compare_page(experiment_id: str, run_ids: list[str]) -> str:
    """The part of an address after the UI's own that shows runs side by side."""
    runs, experiments = (quote(json.dumps(ids)) for ids in (run_ids, [experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def address(experiment: str, view: str = STEPS) -> str:
    """The whole address of a study's runs, at the tracking server or at `make ui`."""
    return f"{server_address()}/{page(run_writer.experiment_id(experiment), view)}"


def save_views(parent: str) -> None:
    """Makes a study's views show its newest finished execution of run_all, so that a notebook run
    beside it changes nothing; without one, execution `parent` and the newest run of each step.
    """
    execution = run_reader.record(parent)
    experiment, number = execution.params["experiment"], execution.experiment_id
    whole = run_reader.latest_whole(experiment)
    steps = _mark_latest(experiment, whole)
    views = {STEPS: STEPS_VIEW, TREE: _tree_view(whole.id if whole else parent)}
    points = []
    if "power_ablation" in steps:
        views[GRID] = _grid_view(steps["power_ablation"].id)
        points = [point.id for point in run_reader.children(steps["power_ablation"].id)]
    now = round(time.time() * 1000)
    for key, state in views.items():
        value = {"name": NAMES[key], "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        client().set_experiment_tag(number, PREFIX + key, json.dumps(value))
    note = study_note(execution, list(views), points)
    client().set_experiment_tag(number, "mlflow.note.content", note)


def _mark_latest(experiment: str, whole: RunRecord | None) -> dict[str, RunRecord]:
    """Moves the tag `latest` to the finished run of each step that `whole` made or reused."""
    before = {run.id for run in run_reader.search(experiment, f"tags.{LATEST} = 'true'")}
    finished = "tags.`nanolab.kind` = 'step' and attributes.status = 'FINISHED'"
    after: dict[str, RunRecord] = {}
    for run in run_reader.search(experiment, finished):  # newest first
        own = whole is None or run.tags.get("mlflow.parentRunId") == whole.id
        if own or run.id in whole.reused.values():
            after.setdefault(run.tags["step"], run)
    marked = {run.id for run in after.values()}
    for run_id in before ^ marked:
        run_writer.set_tag(run_id, LATEST, "true" if run_id in marked else "false")
    return after


def study_note(execution: RunRecord, views: list[str], points: list[str]) -> str:
    """The study's description, with links to its views and to the points of its ablation's grid."""
    number = execution.experiment_id
    links = [f"[{NAMES[key]}]({page(number, key)})" for key in views]
    if GRID in views:
        links.append(f"[its charts]({page(number, GRID, charts=True)})")
        of = f" (the first {COMPARED} of {len(points)} points)" if len(points) > COMPARED else ""
        links.append(f"[side by side]({compare_page(number, points[:COMPARED])}){of}")
    description = execution.params.get("description") or "A study of nanolab."
    return STUDY_NOTE.format(description=description, links=" · ".join(links))


# ---- views as the UI keeps them


def _view(condition: str, order: str, widths: dict[str, int], ascending: bool = True) -> Any:
    return {
        "searchFilter": condition,
        "orderByKey": order,
        "orderByAsc": ascending,
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }


# the run of each step that stands for it, a row each, in the order of a study
STEPS_VIEW = _view(
    f"tags.{LATEST} = 'true'",
    "tags.`mlflow.runName`",
    {"tags.`result`": 560, "attributes.`Dataset`": 300},
)


def _tree_view(parent: str) -> dict[str, Any]:
    cost = "metrics.`positions_per_problem`"
    widths = {"tags.`result`": 430, "metrics.`accuracy`": 100, cost: 170}
    return _view(f"tags.execution = '{parent}'", "attributes.start_time", widths)


def _grid_view(step_run: str) -> dict[str, Any]:
    titles = [f"params.`{key}`" for key in GRID_PARAMS]
    titles += [f"metrics.`{key}`" for key in GRID_METRICS]
    cost, accuracy = "positions_per_problem", "accuracy"
    kept = {"deleted": False, "isGenerated": False}
    section = {
        "uuid": GRID,
        "name": "What the ablation found",
        "display": True,
        "isReordered": True,
        "columns": 1,
        "cardHeight": 420,
    }
    charts = {
        "parallel": {
            "type": "PARALLEL",
            "selectedParams": GRID_PARAMS,
            "showAllRuns": False,
            "selectedMetrics": [cost, accuracy],
        },
        "cost": {
            "type": "SCATTER",
            "xaxis": {"key": cost, "type": "METRIC"},
            "yaxis": {"key": accuracy, "type": "METRIC"},
        },
        "accuracy": {"type": "BAR", "metricKey": accuracy},
    }
    shared = {"runsCountToCompare": 100, "metricSectionId": GRID, **kept}
    condition = f"tags.`mlflow.parentRunId` = '{step_run}'"
    return {
        **_view(condition, f"metrics.`{accuracy}`", dict.fromkeys(titles, 105), ascending=False),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section | kept],
        "compareRunCharts": [
            {"uuid": f"{GRID}-{name}", **chart, **shared} for name, chart in charts.items()
        ],
    }
