"""Opens, fills and ends runs in the store: executions of a study, their steps, grid points."""

import getpass
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.data.sources.published import mlflow_source
from nanolab.errors import UserError
from nanolab.tracking import environment, run_reader
from nanolab.tracking.address import as_variable, database_path, folder_address, store_uri
from nanolab.tracking.store import client

Point = tuple[str, float, int, int]  # of a curve: key, value, time in milliseconds, step
POINT_TAGS = (  # that a grid point has from its step's run
    "nanolab.host", "nanolab.pid", "nanolab.started", "step", "execution", "mlflow.source.name",
    "mlflow.source.type", "mlflow.user",
)  # fmt: skip


def experiment_id(name: str) -> str:
    """The id of a study's experiment, made when missing; raises UserError when deleted."""
    found = client().get_experiment_by_name(name)
    if found is None:
        place = folder_address(files.MLRUNS / "artifacts" / name)
        own = database_path(store_uri()) is not None  # a server decides itself where artifacts go
        return client().create_experiment(name, artifact_location=place if own else None)
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name!r} is deleted: restore it with `{as_variable()}"
            f"{sys.executable} -m mlflow experiments restore -x {found.experiment_id}` or give the"
            " study another name"
        )
    return found.experiment_id


# ---- opening and ending


def open_execution(
    study: dict[str, Any], name: str, source: str, texts: dict[str, str] | None = None
) -> str:
    """Opens the parent run of an execution, with `texts` as files, and returns its id."""
    sweep(study["experiment"])
    note = study.get("description", "")
    tags = {**_origin(source), "nanolab.kind": "execution", "mlflow.note.content": note}
    experiment = experiment_id(study["experiment"])
    run_id = client().create_run(experiment, tags=tags, run_name=name).info.run_id
    # its steps and their points have it too: a filter for one whole tree
    set_tag(run_id, "execution", run_id)
    log_params(run_id, flatten(study))
    for file_name, text in {"study.json": json.dumps(study, indent=1), **(texts or {})}.items():
        client().log_text(run_id, text, file_name)
    return run_id


def open_step(
    parent: str,
    step: str,
    fingerprint: str,
    params: dict[str, Any],
    tags: dict[str, str],
    start: int | None = None,
) -> str:
    """Opens the run of a step below an execution and returns its id; `start` in milliseconds. Of
    `tags`, "source" is the file that is run, "mlflow.runName" what people read (default: the step).
    """
    own = {"step": step, "fingerprint": fingerprint, "execution": parent, "nanolab.kind": "step"}
    given = {**_origin(tags.get("source", "nanolab")), **own, **tags}
    given.pop("source", None)
    run_id = _open_below(client().get_run(parent), given.pop("mlflow.runName", step), given, start)
    log_params(run_id, flatten(params))
    return run_id


def open_point(step_run: str, name: str, start: int) -> str:
    """Opens a grid point below a step's run and returns its id; `start` in milliseconds."""
    step = client().get_run(step_run)
    tags = {key: step.data.tags[key] for key in POINT_TAGS if key in step.data.tags}
    return _open_below(step, name, {**tags, "nanolab.kind": "point"}, start)


def _open_below(parent: Any, name: str, tags: dict[str, str], start: int | None) -> str:
    tags = {**tags, "mlflow.parentRunId": parent.info.run_id}
    return client().create_run(parent.info.experiment_id, start, tags, name).info.run_id


def close_run(run_id: str, status: str, end: int | None = None) -> None:
    """Ends a run as FINISHED, FAILED or KILLED, now or at `end` in milliseconds."""
    client().set_terminated(run_id, status, end)


def supersede(experiment: str, step: str, fingerprint: str, aside: Path) -> None:
    """Labels the runs of a step whose work folder was set aside, where it lies now."""
    for run in run_reader.search(experiment, run_reader.step_condition(step, fingerprint)):
        if "superseded" not in run.tags:
            set_tag(run.id, "superseded", "true")
            set_tag(run.id, "work_folder", os.path.relpath(aside, files.MLRUNS))


# ---- what a run holds


def set_tag(run_id: str, key: str, value: str) -> None:
    """Labels a run."""
    client().set_tag(run_id, key, value)


def log_params(run_id: str, params: dict[str, Any]) -> None:
    """Adds settings to a run."""
    from mlflow.entities import Param

    _log(run_id, 100, params=[Param(key, str(value)) for key, value in params.items()])


def log_metrics(run_id: str, values: dict[str, float]) -> None:
    """Adds final numbers to a run."""
    now = round(time.time() * 1000)
    log_curves(run_id, [(key, float(value), now, 0) for key, value in values.items()])


def log_curves(run_id: str, points: list[Point]) -> None:
    """Adds points of curves to a run."""
    from mlflow.entities import Metric

    _log(run_id, 1000, metrics=[Metric(*point) for point in points])


def _log(run_id: str, most: int, **given: list[Any]) -> None:
    ((kind, items),) = given.items()
    for first in range(0, len(items), most):
        client().log_batch(run_id, **{kind: items[first : first + most]})


def log_dataset(run_id: str, read: dict[str, Any]) -> None:
    """Adds a data set that a run reads, as `Run.dataset` records it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = None if read.get("rows") is None else json.dumps({"num_rows": read["rows"]})
    kind, place = mlflow_source(read["name"], read["source"])
    dataset = Dataset(read["name"], read["digest"][:12], kind, json.dumps(place), profile=profile)
    given = DatasetInput(dataset, [InputTag("mlflow.data.context", read["context"])])
    client().log_inputs(run_id, datasets=[given])


def log_file(run_id: str, path: Path | str, folder: str = "") -> None:
    """Copies a file to a run's artifacts."""
    client().log_artifact(run_id, str(path), folder or None)


def log_sums(run_id: str, sums: dict[str, str]) -> None:
    """Notes the SHA-256 of a run's artifacts, which `run_reader.artifact` requires."""
    items = [(name, value[:16]) for name, value in sorted(sums.items())]
    for first in range(0, len(items), 50):
        part = json.dumps(dict(items[first : first + 50]))
        set_tag(run_id, f"{run_reader.SUMS}.{first // 50}", part)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, e.g. {"data": {"seed": 0}} -> {"data.seed": 0}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# ---- processes


def _origin(source: str) -> dict[str, str]:
    tags = {
        "mlflow.source.name": source,
        "mlflow.source.type": "NOTEBOOK" if source.endswith(".ipynb") else "LOCAL",
        "mlflow.user": getpass.getuser(),
        "nanolab.host": host(),
        "nanolab.pid": str(os.getpid()),
        "nanolab.started": process_start(os.getpid()) or "",
    }
    git = environment.git_facts()
    if git["commit"]:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags |= {"git.branch": git["branch"] or "", "git.dirty": str(git["dirty"]).lower()}
    return tags


def host() -> str:
    """The name of this machine, "unknown" where it has none."""
    return platform.node() or "unknown"


def sweep(experiment: str, status: str = "FAILED", own: bool = False) -> list[str]:
    """Ends the RUNNING runs of dead processes of this machine, and with `own` of this process."""
    ended = []
    for run in run_reader.search(experiment, "attributes.status = 'RUNNING'"):
        pid = int(run.tags.get("nanolab.pid") or 0)
        if run.tags.get("nanolab.host") == host() and pid:
            is_dead = process_start(pid) != run.tags.get("nanolab.started", "")
            if is_dead or (own and pid == os.getpid()):
                close_run(run.id, status)
                ended.append(run.id)
    return ended


def process_start(pid: int) -> str | None:
    """When a live process started, in clock ticks since boot (psutil's time of day moves with the
    clock): it tells a process from a later one with the same number.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # Z, X: ended, but still in its parent's list
