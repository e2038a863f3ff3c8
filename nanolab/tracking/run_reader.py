"""The runs of the store: a study is an experiment, an execution of it a parent run, a step a child
run, a grid point a grandchild run. The first call that reaches the store costs 2 to 3 s.
"""

import ast
import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab import artefacts, files
from nanolab.errors import UserError
from nanolab.tracking.address import shown_uri
from nanolab.tracking.store import client

# source of the executions of whole studies; notebooks alone are executions too
RUN_ALL = "scripts/run_all.py"
SUMS = "nanolab.sums"  # tags of a run that name its artifacts with their SHA-256
NEWEST_FIRST = ["attributes.start_time DESC"]
IS_EXECUTION = "tags.`nanolab.kind` = 'execution'"


@dataclass(frozen=True)
class RunRecord:
    """One MLflow run; times in milliseconds since 1970."""

    id: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED (interrupted)
    start: int
    end: int | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    experiment_id: str = ""

    @property
    def is_whole_study(self) -> bool:
        """Whether it is an execution of run_all, not of a notebook alone."""
        return self.tags.get("mlflow.source.name") == RUN_ALL

    @property
    def reused(self) -> dict[str, str]:
        """The steps that an execution found finished, with the runs that made them."""
        return under("reused.", self.tags)


def under(start: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose keys begin so, by the rest of their keys."""
    return {key.removeprefix(start): one for key, one in values.items() if key.startswith(start)}


def record(run_id: str) -> RunRecord:
    """One run; raises UserError when the store has none with this id."""
    from mlflow.exceptions import MlflowException

    try:
        return _record(client().get_run(run_id))
    except MlflowException as error:
        raise UserError(
            f"no run {run_id!r} in {shown_uri()}: {error.message.splitlines()[0]}"
        ) from error


def _record(run: Any) -> RunRecord:
    info, data = run.info, run.data
    return RunRecord(
        info.run_id,
        info.run_name,
        info.status,
        info.start_time,
        info.end_time or None,
        dict(data.params),
        dict(data.metrics),
        dict(data.tags),
        info.experiment_id,
    )


# ---- many runs


def search(experiment: str, condition: str = "") -> list[RunRecord]:
    """Runs of a study that match an MLflow filter, newest first."""
    found = client().get_experiment_by_name(experiment)
    return _search(found.experiment_id, condition) if found else []


def _search(experiment_id: str, condition: str) -> list[RunRecord]:
    found: list[RunRecord] = []
    token = None
    while token != "":
        page = client().search_runs(
            [experiment_id], condition, order_by=NEWEST_FIRST, page_token=token
        )
        found += map(_record, page)
        token = page.token or ""
    return found


def children(run_id: str) -> list[RunRecord]:
    """The runs directly below a run, oldest first."""
    experiment_id = client().get_run(run_id).info.experiment_id
    return _search(experiment_id, f"tags.`mlflow.parentRunId` = '{run_id}'")[::-1]


def executions(experiment: str) -> list[RunRecord]:
    """The executions of a study, newest first."""
    return search(experiment, IS_EXECUTION)


def newest_study() -> tuple[str, str] | None:
    """Name and experiment id of the study that has run last; None in an empty store."""
    names = {found.experiment_id: found.name for found in client().search_experiments()}
    runs = client().search_runs(list(names), IS_EXECUTION, max_results=1, order_by=NEWEST_FIRST)
    return (names[runs[0].info.experiment_id], runs[0].info.experiment_id) if runs else None


def latest_whole(experiment: str, **params: str) -> RunRecord | None:
    """The execution that stands for a study: the newest finished one of run_all, best with every
    step, whose parameters are `params`.
    """
    found = [
        run
        for run in executions(experiment)
        if run.status == "FINISHED" and run.is_whole_study and params.items() <= run.params.items()
    ]
    return next(filter(_has_every_step, found), found[0] if found else None)


def _has_every_step(execution: RunRecord) -> bool:
    own = {run.tags.get("step", "") for run in children(execution.id) if run.status == "FINISHED"}
    return set(ast.literal_eval(execution.params.get("steps", "[]"))) <= own | set(execution.reused)


def find_finished(experiment: str, step: str, fingerprint: str) -> RunRecord | None:
    """The newest finished run of a step whose work folder was not set aside."""
    condition = f"{step_condition(step, fingerprint)} and attributes.status = 'FINISHED'"
    found = search(experiment, condition)
    return next((run for run in found if "superseded" not in run.tags), None)


def step_condition(step: str, fingerprint: str) -> str:
    """MLflow's filter for the runs of a step with a fingerprint."""
    return f"tags.step = '{step}' and tags.fingerprint = '{fingerprint}'"


def registered_runs() -> list[str]:
    """The runs that the versions of registered models come from."""
    return [version.run_id for version in client().search_model_versions() if version.run_id]


# ---- what a run holds


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    """A curve: (step, value) in the order of the steps."""
    points = client().get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def artifact(run_id: str, name: str) -> Path:
    """A local copy of a run's artifact; raises UserError when it was altered since."""
    path, run = Path(client().download_artifacts(run_id, name)), record(run_id)
    sums = dict(ChainMap(*map(json.loads, under(f"{SUMS}.", run.tags).values())))
    if name in sums and not files.sha256_file(path).startswith(sums[name]):
        step = run if "work_folder" in run.tags else record(run.tags["mlflow.parentRunId"])
        folder = files.MLRUNS / step.tags["work_folder"]  # a grid point has its step's
        raise UserError(
            f"{name} of run {run_id} was altered in {shown_uri()}: its SHA-256 does "
            f"not begin with {sums[name]}; run {artefacts.command(folder, True)}"
        )
    return path


def artifact_names(run_id: str, folder: str = "") -> list[str]:
    """The files directly in a folder of a run's artifacts."""
    items = client().list_artifacts(run_id, folder or None)
    return [item.path for item in items if not item.is_dir]


def table(run_id: str, name: str) -> list[dict[str, Any]] | None:
    """The rows of a table that a run recorded as `name`; None where it has no such file."""
    return table_rows(artifact(run_id, name)) if name in artifact_names(run_id) else None


def table_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `journal.Run.table` wrote."""
    content = files.read_json(path)
    return [dict(zip(content["columns"], row)) for row in content["data"]]
