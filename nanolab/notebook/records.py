"""Where a study stands in MLflow: its latest runs, and their addresses in the UI."""

import functools

from nanolab import files
from nanolab.notebook import cards
from nanolab.report import store_values
from nanolab.results import Score, first
from nanolab.settings.config import STEPS
from nanolab.tracking import run_reader
from nanolab.tracking.address import is_own, server_address, store_uri
from nanolab.tracking.run_reader import RunRecord
from nanolab.tracking.store import client

Runs = dict[str, RunRecord]  # by step
NOTHING = (
    "Nothing has run in this store yet. Run `make run` in a terminal, or open"
    " [01_tokenizer.ipynb](01_tokenizer.ipynb) and run it."
)


def store_exists() -> bool:
    """Whether there is a store to read; making one takes seconds and is left to the first run."""
    return not is_own(store_uri()) or (files.MLRUNS / "mlflow.db").is_file()


def studies() -> list[str]:
    """The studies that have an execution, the one that ran last first."""
    if not store_exists():
        return []
    names = [experiment.name for experiment in client().search_experiments()]
    last = {name: runs[0].start for name in names if (runs := run_reader.executions(name))}
    return sorted(last, key=lambda name: -last[name])


def finished(study: str, step: str = "") -> list[RunRecord]:
    """The finished runs of a study, or of one step, newest first."""
    which = f"tags.step = '{step}'" if step else "tags.`nanolab.kind` = 'step'"
    return run_reader.search(study, f"{which} and attributes.status = 'FINISHED'")


def latest(study: str) -> tuple[str, Runs]:
    """What stands for a study, in words, and the run of each step: the newest finished execution of
    run_all; where notebooks were run one by one, the newest finished run of each step.
    """
    if execution := run_reader.latest_whole(study):
        return f"execution {execution.name}", store_values.step_runs(execution.id)
    runs = {run.tags["step"]: run for run in reversed(finished(study))}
    return "the newest finished run of each step", in_order(runs)


def in_order(runs: Runs) -> Runs:
    """By step, in the order of a study."""
    return {step: runs[step] for step in dict.fromkeys([*STEPS, *runs]) if step in runs}


def bits_per_byte(runs: Runs, step: str) -> Score | None:
    """In validation, of a training step's model; of the base model as base_loss measured it."""
    measured = "base_loss" if step == "base_train" and "base_loss" in runs else step
    rows = store_values.rows_of(runs[measured]) if measured in runs else []
    return first(rows, metric="bits_per_byte", split="validation")


@functools.lru_cache(maxsize=256)
def run_address(run_id: str) -> str:
    """The address of a run in the MLflow UI."""
    found = run_reader.record(run_id)
    page = f"#/experiments/{found.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{server_address()}/{page}"


def run_link(run_id: str, text: str = "MLflow") -> str:
    """A link to a run in the MLflow UI, which `make ui` starts."""
    return cards.html().link(text, run_address(run_id))
