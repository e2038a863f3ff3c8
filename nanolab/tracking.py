"""MLflow: studies, executions, step runs and grid points. Few files import mlflow (tests/test_layering.py), and only when it is needed.

Study = MLflow experiment, execution = parent run, step = child run, grid point = grandchild run. A stage records into a
journal (nanolab/journal.py) that the process which launched it carries to MLflow (nanolab/courier.py).
Importing this module costs nothing; the first call that reaches the store costs 2 to 3 s.
"""

from __future__ import annotations

import ast
import getpass
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.journal import NullRun, Run
from nanolab.schema import UserError
from nanolab.tracking_store import client, server_address, store_uri

__all__ = ["NullRun", "Run", "RunRecord", "client", "server_address", "store_uri"]

RUN_ALL = "scripts/run_all.py"  # source of the executions of whole studies; notebooks alone are executions too


@dataclass(frozen=True)
class RunRecord:
    """One MLflow run as it stands; times in milliseconds since 1970, `end` None while it runs."""

    id: str
    name: str
    status: str  # RUNNING, FINISHED or FAILED
    start: int
    end: int | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    experiment_id: str = ""


# ---- studies


def experiment_id(name: str) -> str:
    """The id of a study's experiment, which is created when it is missing; raises UserError when it is deleted."""
    found = client().get_experiment_by_name(name)
    if found is None:
        own = store_uri().startswith("sqlite:")  # a server decides itself where artifacts go
        return client().create_experiment(
            name, artifact_location=str(files.MLRUNS / "artifacts" / name) if own else None
        )
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name!r} is deleted: restore it with `mlflow experiments restore "
            f"-x {found.experiment_id}` or give the study another name"
        )
    return found.experiment_id


# ---- opening and closing runs


def open_execution(
    study: dict[str, Any], name: str, source: str, texts: dict[str, str] | None = None
) -> str:
    """Opens the parent run of one execution of a study (its plain values), with `texts` as files, and returns its id."""
    sweep(study["experiment"])
    tags = {
        **_origin(source),
        "nanolab.kind": "execution",
        "mlflow.note.content": study.get("description", ""),
    }
    run_id = _open(study["experiment"], name, tags)
    set_tag(
        run_id, "execution", run_id
    )  # its steps and their points have it too: a filter for one whole tree
    log_params(run_id, flatten(study))
    for file_name, text in {"study.json": json.dumps(study, indent=1), **(texts or {})}.items():
        client().log_text(run_id, text, file_name)
    return run_id


def open_step(
    experiment: str,
    parent: str,
    step: str,
    fingerprint: str,
    params: dict[str, Any],
    tags: dict[str, str],
    start: int | None = None,
    name: str = "",
) -> str:
    """Opens the child run of a step and returns its id; `params` is the step's whole configuration, `start` in milliseconds.

    `name` is what people read (default: the step); everything here goes by the tag `step`.
    """
    tags = {
        **_origin(tags.pop("source", "nanolab")),
        "nanolab.kind": "step",
        "step": step,
        "fingerprint": fingerprint,
        "mlflow.parentRunId": parent,
        "execution": parent,
        **tags,
    }
    run_id = _open(experiment, name or step, tags, start)
    log_params(run_id, flatten(params))
    return run_id


def close_run(run_id: str, status: str, end: int | None = None) -> None:
    """Ends a run as FINISHED or FAILED, now or at `end` in milliseconds."""
    client().set_terminated(run_id, status, end)


def set_tag(run_id: str, key: str, value: str) -> None:
    """Labels a run."""
    client().set_tag(run_id, key, value)


def set_experiment_tag(experiment_id: str, key: str, value: str) -> None:
    """Labels a study's experiment."""
    client().set_experiment_tag(experiment_id, key, value)


def open_point(step_run: str, name: str, start: int) -> str:
    """Opens a grid point below a step's run and returns its id; `start` in milliseconds."""
    step = client().get_run(step_run)
    kept = (
        "nanolab.host",
        "nanolab.pid",
        "nanolab.started",
        "step",
        "execution",
        "mlflow.source.name",
        "mlflow.source.type",
        "mlflow.user",
    )
    tags = {key: step.data.tags[key] for key in kept if key in step.data.tags} | {
        "nanolab.kind": "point",
        "mlflow.parentRunId": step_run,
    }
    return client().create_run(step.info.experiment_id, start, tags, name).info.run_id


def log_params(run_id: str, params: dict[str, Any]) -> None:
    """Adds settings to a run."""
    from mlflow.entities import Param

    items = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(items), 100):
        client().log_batch(run_id, params=items[first : first + 100])


def log_metrics(run_id: str, values: dict[str, float]) -> None:
    """Adds final numbers to a run."""
    log_curves(
        run_id, [(key, float(value), round(time.time() * 1000), 0) for key, value in values.items()]
    )


def log_curves(run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    """Adds (key, value, time in milliseconds, step) points to a run, in as few calls as MLflow allows."""
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points]
    for first in range(0, len(metrics), 1000):
        client().log_batch(run_id, metrics=metrics[first : first + 1000])


def log_dataset(
    run_id: str, name: str, source: str, digest: str, context: str, rows: int | None = None
) -> None:
    """Adds a data set that a run reads: name, where it comes from, digest of its content, number of rows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = None if rows is None else json.dumps({"num_rows": rows})
    dataset = Dataset(name, digest[:12], "local", json.dumps({"uri": source}), profile=profile)
    client().log_inputs(
        run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
    )


def log_file(run_id: str, path: Path | str, folder: str = "") -> None:
    """Copies a file to a run's artifacts."""
    client().log_artifact(run_id, str(path), folder or None)


def _open(experiment: str, name: str, tags: dict[str, str], start: int | None = None) -> str:
    return client().create_run(experiment_id(experiment), start, tags, name).info.run_id


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, e.g. {"data": {"seed": 0}} -> {"data.seed": 0}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _origin(source: str) -> dict[str, str]:
    """Where a run comes from: code version, person, process."""
    tags = {
        "mlflow.source.name": source,
        "mlflow.source.type": "NOTEBOOK" if source.endswith(".ipynb") else "LOCAL",
        "mlflow.user": getpass.getuser(),
        "nanolab.host": socket.gethostname(),
        "nanolab.pid": str(os.getpid()),
        "nanolab.started": process_start(os.getpid()) or "",
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags |= {
            "mlflow.source.git.commit": commit,
            "git.branch": _git("rev-parse", "--abbrev-ref", "HEAD"),
            "git.dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
        }
    return tags


def _git(*arguments: str) -> str:
    """Output of a git command in the repository; empty outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(files.ROOT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# ---- reading runs


def record(run_id: str) -> RunRecord:
    """One run; raises UserError when the store has none with this id."""
    from mlflow.exceptions import MlflowException

    try:
        return _record(client().get_run(run_id))
    except MlflowException as error:
        raise UserError(
            f"no run {run_id!r} in {store_uri()}: {error.message.splitlines()[0]}"
        ) from error


def executions(experiment: str) -> list[RunRecord]:
    """The executions of a study, newest first."""
    return search(experiment, "tags.`nanolab.kind` = 'execution'")


def newest_study() -> tuple[str, str] | None:
    """Name and experiment id of the study that has run last; None in an empty store."""
    names = {found.experiment_id: found.name for found in client().search_experiments()}
    runs = client().search_runs(
        list(names),
        "tags.`nanolab.kind` = 'execution'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return (names[runs[0].info.experiment_id], runs[0].info.experiment_id) if runs else None


def latest_whole(experiment: str, **params: str) -> RunRecord | None:
    """What stands for a study where one execution must: the newest finished one of run_all, before others one with every step.

    `params` are values that it must have, such as seed="1". None where there is none.
    """
    found = [
        run
        for run in executions(experiment)
        if run.status == "FINISHED"
        and run.tags.get("mlflow.source.name") == RUN_ALL
        and params.items() <= run.params.items()
    ]
    return next((run for run in found if _has_every_step(run)), found[0] if found else None)


def _has_every_step(execution: RunRecord) -> bool:
    """Whether an execution has run or reused each step of its study."""
    have = {key.removeprefix("reused.") for key in execution.tags if key.startswith("reused.")}
    have |= {run.tags.get("step", "") for run in children(execution.id) if run.status == "FINISHED"}
    return set(ast.literal_eval(execution.params.get("steps", "[]"))) <= have


def children(run_id: str) -> list[RunRecord]:
    """The runs directly below a run, oldest first: an execution's steps, a step's grid points."""
    experiment_id = client().get_run(run_id).info.experiment_id
    return _search([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")[::-1]


def find_finished(experiment: str, step: str, fingerprint: str) -> RunRecord | None:
    """The newest finished run of a step with this fingerprint whose work folder was not set aside."""
    condition = f"tags.step = '{step}' and tags.fingerprint = '{fingerprint}' and attributes.status = 'FINISHED'"
    return next(
        (run for run in search(experiment, condition) if "superseded" not in run.tags), None
    )


def supersede(experiment: str, step: str, fingerprint: str, work_folder: str) -> None:
    """Labels the runs of a step whose work folder was set aside: they are no longer found as finished, and say where it lies now."""
    for run in search(experiment, f"tags.step = '{step}' and tags.fingerprint = '{fingerprint}'"):
        if "superseded" not in run.tags:
            set_tag(run.id, "superseded", "true")
            set_tag(run.id, "work_folder", work_folder)


def search(experiment: str, condition: str = "") -> list[RunRecord]:
    """Runs of a study that match an MLflow filter, newest first; none for an unknown study."""
    found = client().get_experiment_by_name(experiment)
    return _search([found.experiment_id], condition) if found else []


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    """A curve: (step, value) in the order of the steps."""
    return sorted(
        (metric.step, metric.value) for metric in client().get_metric_history(run_id, key)
    )


def artifact(run_id: str, name: str) -> Path:
    """A local copy of a run's artifact."""
    return Path(client().download_artifacts(run_id, name))


def artifact_names(run_id: str, folder: str = "") -> list[str]:
    """The files directly in a folder of a run's artifacts."""
    return [
        item.path for item in client().list_artifacts(run_id, folder or None) if not item.is_dir
    ]


def _search(experiment_ids: list[str], condition: str) -> list[RunRecord]:
    found, token = [], None
    while True:
        page = client().search_runs(
            experiment_ids,
            condition,
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += [_record(run) for run in page]
        token = page.token
        if not token:
            return found


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


def registered_runs() -> list[str]:
    """The runs that the versions of registered models come from."""
    return [version.run_id for version in client().search_model_versions() if version.run_id]


# ---- dead processes


def sweep(experiment: str) -> list[str]:
    """Marks the RUNNING runs of dead processes of this machine FAILED; returns their ids."""
    dead = []
    for run in search(experiment, "attributes.status = 'RUNNING'"):
        pid, started = run.tags.get("nanolab.pid", ""), run.tags.get("nanolab.started", "")
        if (
            run.tags.get("nanolab.host") == socket.gethostname()
            and pid
            and process_start(int(pid)) != started
        ):
            close_run(run.id, "FAILED")
            dead.append(run.id)
    return dead


def process_start(pid: int) -> str | None:
    """When a live process started, in clock ticks since boot: it tells a process from a later one with the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # Z, X: ended, but still in its parent's list
