"""Saved views of a study's runs in the MLflow UI (its menu "Views"), and the addresses that open them.

A view is an experiment tag `mlflow.sharedViewState.KEY` as the UI writes it: filter, order, columns, charts. Sorted by their start the
runs stand as a tree, by anything else as a flat list.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

from nanolab import tracking
from nanolab.tracking import RunRecord

PREFIX = "mlflow.sharedViewState."
STEPS, TREE, GRID = "nanolab-steps", "nanolab-tree", "nanolab-ablation"
NAMES = {STEPS: "Steps", TREE: "Latest execution", GRID: "Ablation"}
GRID_PARAMS = ["method", "alpha", "temperature", "num_steps", "samples"]
COMPARED = 100  # runs that the UI's comparison can show legibly; their ids are part of its address, and a tag has a limit
LATEST = "latest"  # tag of the runs that stand for the steps of a study


def page(experiment_id: str, view: str, charts: bool = False) -> str:
    """The part of an address after the UI's own: a study's runs in a view; `charts` shows its charts instead of the table."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}{mode}"


def compare_page(experiment_id: str, run_ids: list[str]) -> str:
    """The part of an address after the UI's own that compares runs: parallel coordinates, scatter plots, their values side by side."""
    runs, experiments = (quote(json.dumps(ids)) for ids in (run_ids, [experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def address(experiment: str, view: str = STEPS) -> str:
    """The whole address of a study's runs: at the tracking server, or where `make ui` serves the store."""
    return f"{tracking.server_address()}/{page(tracking.experiment_id(experiment), view)}"


def save_views(parent: str) -> None:
    """Makes the views of a study show what stands for it, and describes it. `parent` is the execution that has just ended.

    That is the newest finished execution of run_all with its steps, so that a notebook run beside it changes nothing here; a study
    that has none shows execution `parent`, and the newest finished run of each step.
    """
    execution = tracking.record(parent)
    experiment_id, whole = (
        execution.experiment_id,
        tracking.latest_whole(execution.params["experiment"]),
    )
    steps = mark_latest(execution.params["experiment"], whole)
    views = {STEPS: steps_view(), TREE: tree_view(whole.id if whole else parent)}
    points = []
    if "power_ablation" in steps:
        views[GRID] = grid_view(steps["power_ablation"].id)
        points = [point.id for point in tracking.children(steps["power_ablation"].id)]
    now = round(time.time() * 1000)
    for key, state in views.items():
        value = {"name": NAMES[key], "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        tracking.set_experiment_tag(experiment_id, PREFIX + key, json.dumps(value))
    tracking.set_experiment_tag(
        experiment_id, "mlflow.note.content", study_note(execution, list(views), points)
    )


def mark_latest(experiment: str, whole: RunRecord | None) -> dict[str, RunRecord]:
    """Moves the tag `latest` to the finished run of each step that execution `whole` made or reused (None: to the newest of each step)."""
    before = {run.id for run in tracking.search(experiment, f"tags.{LATEST} = 'true'")}
    finished = tracking.search(
        experiment, "tags.`nanolab.kind` = 'step' and attributes.status = 'FINISHED'"
    )
    if whole:
        reused = {run_id for key, run_id in whole.tags.items() if key.startswith("reused.")}
        finished = [
            run
            for run in finished
            if run.tags.get("mlflow.parentRunId") == whole.id or run.id in reused
        ]
    after: dict[str, RunRecord] = {}
    for run in finished:  # newest first
        after.setdefault(run.tags["step"], run)
    marked = {run.id for run in after.values()}
    for run_id in before ^ marked:
        tracking.set_tag(run_id, LATEST, "true" if run_id in marked else "false")
    return after


def steps_view() -> dict[str, Any]:
    """The run of each step that stands for it, a row each, in the order of a study."""
    return {
        "searchFilter": f"tags.{LATEST} = 'true'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        **columns({"tags.`result`": 560, "attributes.`Dataset`": 300}),
    }


def columns(widths: dict[str, int]) -> dict[str, Any]:
    """The columns of a view with their widths in pixels, in their order, after those that the UI always shows."""
    return {"selectedColumns": list(widths), "columnOrder": list(widths), "columnWidths": widths}


def tree_view(parent: str) -> dict[str, Any]:
    """One execution as a tree: its steps in order, the grid points below theirs."""
    return {
        "searchFilter": f"tags.execution = '{parent}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        **columns(
            {
                "tags.`result`": 430,
                "metrics.`accuracy`": 100,
                "metrics.`positions_per_problem`": 170,
            }
        ),
    }


def grid_view(step_run: str) -> dict[str, Any]:
    """The grid points of one ablation, best first, and its charts: parallel coordinates, accuracy against cost, accuracy."""
    section = "nanolab-ablation"

    def chart(name: str, type: str, **settings: Any) -> dict[str, Any]:
        return {
            "uuid": f"{section}-{name}",
            "type": type,
            "runsCountToCompare": 100,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
            **settings,
        }

    axes = {
        "xaxis": {"key": "positions_per_problem", "type": "METRIC"},
        "yaxis": {"key": "accuracy", "type": "METRIC"},
    }
    shown = [
        *(f"params.`{key}`" for key in GRID_PARAMS),
        *(
            f"metrics.`{key}`"
            for key in ("accuracy", "low", "high", "positions_per_problem", "acceptance", "log_p")
        ),
    ]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{step_run}'",
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
        **columns(dict.fromkeys(shown, 105)),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            {
                "uuid": section,
                "name": "What the ablation found",
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": 1,
                "cardHeight": 420,
            }
        ],
        "compareRunCharts": [
            chart(
                "parallel",
                "PARALLEL",
                selectedParams=GRID_PARAMS,
                showAllRuns=False,
                selectedMetrics=["positions_per_problem", "accuracy"],
            ),
            chart("cost", "SCATTER", **axes),
            chart("accuracy", "BAR", metricKey="accuracy"),
        ],
    }


def study_note(execution: RunRecord, views: list[str], points: list[str]) -> str:
    """The study's description: what it is, its views, how the runs hang together; `points` are the runs of the ablation's grid."""
    links = [f"[{NAMES[key]}]({page(execution.experiment_id, key)})" for key in views]
    if GRID in views:
        links.append(f"[its charts]({page(execution.experiment_id, GRID, charts=True)})")
        of = f" (the first {COMPARED} of {len(points)} points)" if len(points) > COMPARED else ""
        links.append(
            f"[side by side]({compare_page(execution.experiment_id, points[:COMPARED])}){of}"
        )
    return (
        f"{execution.params.get('description') or 'A study of nanolab.'} {' · '.join(links)}\n\n"
        "An execution of the study is a parent run; its steps are the runs below it, numbered in order; a point of the ablation's "
        "grid is a run below its step. The column `result` has the main result of each run in words, and the description of each "
        "run leads to the report, to its executed notebook and to the runs that it reads.\n\n"
        "`final/...` are a step's final values, other metrics are curves; grid points have `accuracy` with its 95% interval "
        "(`low`, `high`) and its cost in forwarded `positions_per_problem`. A step that was not run anew is named by the parent's tag "
        "`reused.STEP`."
    )
