"""Where the numbers of a report come from, and what they cost: the run behind every step, and the plan beside the actual cost."""

from __future__ import annotations

import json
from typing import Any

from nanolab import costs, tracking
from nanolab.experiment import study_from_dict
from nanolab.model.scaling import derive
from nanolab.report.markdown import EXECUTION
from nanolab.schema import UserError
from nanolab.tracking import RunRecord

FINAL = "final/"
# curves of system metrics, in MB, the one that says most of a step first
MEMORY = ("system/gpu_0_memory_usage_megabytes", "system/processes_memory_megabytes")  # as system_metrics.py names them


def seconds(run: RunRecord) -> float:
    """How long a step took, its earlier attempts included."""
    return ((run.end or run.start) - run.start) / 1000 + float(run.tags.get("earlier_seconds", 0))


def origins(execution: RunRecord, runs: dict[str, RunRecord]) -> dict[str, dict[str, Any]]:
    """For the execution (as "execution") and each step: run_id, experiment_id, name, status, start (ms), seconds, commit, dirty,
    fingerprint, work_folder, data, attempt, and reused: whether another execution made it.
    """
    def origin(run: RunRecord) -> dict[str, Any]:
        return {"run_id": run.id, "experiment_id": run.experiment_id, "name": run.name, "status": run.status, "start": run.start,
                "seconds": seconds(run), "commit": run.tags.get("mlflow.source.git.commit", ""),
                "dirty": run.tags.get("git.dirty") == "true", "fingerprint": run.tags.get("fingerprint", ""),
                "work_folder": run.tags.get("work_folder", ""), "data": run.tags.get(FINAL + "data", ""),
                "attempt": run.tags.get("attempt", ""), "reused": run.tags.get("mlflow.parentRunId", execution.id) != execution.id}
    return {EXECUTION: origin(execution), **{step: origin(run) for step, run in runs.items() if step != "report"}}


def planned_and_spent(execution: RunRecord, runs: dict[str, RunRecord], environment: dict[str, Any]) -> dict[str, Any]:
    """The plan of nanolab/costs.py, by its table alone, beside what each step took.

    `machine` and `source` (of its speeds) are empty where the study's settings were not recorded, are of another version, or the device is
    not in the table. `rows`: step, planned_hours, flops, planned_gib, hours, tokens_per_second, peak_gib and which of MEMORY it is
    (memory_of), planned_dollars, dollars; None where unknown.
    """
    study, machine = recorded_study(execution), None
    if study is not None:
        hardware = environment["hardware"]
        name = next((gpu for gpu in costs.GPUS if gpu in (hardware.get("gpu_name") or "")), "") if hardware.get("gpu_count") else "cpu"
        width = derive(study.base_train, study.tokenizer.vocab_size).model.width
        if name and hardware["gpu_count"] is not None:
            machine = costs.hardware(name if name == "cpu" else f"{hardware['gpu_count']}x{name}", study.hourly_rates, width)
    planned = {row.step: row for row in costs.plan_costs(study, machine)} if study is not None and machine is not None else {}
    rate, rows = environment["hardware"].get("hourly_rate"), []
    for step, run in runs.items():
        row, hours = planned.get(step), seconds(run) / 3600
        peak, memory_of = peak_memory(run)
        rows.append({"step": step, "hours": hours, "tokens_per_second": run.metrics.get(FINAL + "tokens_per_second"), "peak_gib": peak,
                     "memory_of": memory_of, "dollars": None if rate is None else hours * float(rate),
                     **{key: getattr(row, of) if row else None for key, of in (
                         ("planned_hours", "hours"), ("flops", "flops"), ("planned_gib", "memory_gib"), ("planned_dollars", "dollars"))}})
    return {"machine": machine.name if machine else "", "source": machine.speeds.source if machine else "", "rows": rows}


def recorded_study(execution: RunRecord) -> Any:
    """The settings of an execution, a StudyConfig; None where they were not recorded, or are of a version with other settings."""
    if "study.json" not in tracking.artifact_names(execution.id):
        return None
    try:
        return study_from_dict(json.loads(tracking.artifact(execution.id, "study.json").read_text()))
    except UserError:
        return None


def peak_memory(run: RunRecord) -> tuple[float | None, str]:
    """(GiB, the metric that says so) of the most memory that a run's system metrics show; (None, "") without any."""
    for key in MEMORY:
        if key in run.metrics:
            return max(value for _, value in tracking.history(run.id, key)) * 1e6 / costs.GIB, key
    return None, ""
