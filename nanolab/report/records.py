"""Where a study stands in MLflow: its latest runs, whether there is any, and the addresses of runs in the UI."""

from __future__ import annotations

import functools

from nanolab import files, tracking
from nanolab.config import STEPS
from nanolab.report import cards, collect
from nanolab.tracking import RunRecord

NOTHING = "Nothing has run in this store yet. Run `make run` in a terminal, or open [01_tokenizer.ipynb](01_tokenizer.ipynb) and run it."


def store_exists() -> bool:
    """Whether there is a store to read; making one takes seconds and is left to the first run."""
    return (
        not tracking.store_uri().endswith(f"{files.MLRUNS}/mlflow.db")
        or (files.MLRUNS / "mlflow.db").is_file()
    )


def studies() -> list[str]:
    """The studies that have an execution, the one that ran last first."""
    if not store_exists():
        return []
    last = {
        name: runs[0].start
        for name in (e.name for e in tracking.client().search_experiments())
        if (runs := tracking.executions(name))
    }
    return sorted(last, key=lambda name: -last[name])


def latest(study: str) -> tuple[str, dict[str, RunRecord]]:
    """What stands for a study, in words, and the run of each step in it, in the order of a study.

    That is the newest finished execution of run_all; for a study whose notebooks were run one by one, the newest finished run of each step.
    """
    if execution := tracking.latest_whole(study):
        return f"execution {execution.name}", collect.step_runs(execution.id)
    found: dict[str, RunRecord] = {}
    for run in tracking.search(
        study, "tags.`nanolab.kind` = 'step' and attributes.status = 'FINISHED'"
    ):
        found.setdefault(run.tags["step"], run)
    return "the newest finished run of each step", {
        step: found[step] for step in dict.fromkeys([*STEPS, *found]) if step in found
    }


@functools.lru_cache(maxsize=256)
def run_address(run_id: str) -> str:
    """The address of a run in the MLflow UI."""
    found = tracking.record(run_id)
    return f"{tracking.server_address()}/#/experiments/{found.experiment_id}/runs/{run_id}?workflowType=machine_learning"


def run_link(run_id: str, text: str = "MLflow") -> cards.Markup:
    """A link to a run in the MLflow UI, which `make ui` starts."""
    return cards.link(text, run_address(run_id))
