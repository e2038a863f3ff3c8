"""Where the numbers of a report come from, and what they cost: the run behind every step, and the
plan beside the actual cost.
"""

from typing import Any

from nanolab import files
from nanolab.costs import estimate
from nanolab.costs.hardware import GIB, GPUS, machine_named, rate_of
from nanolab.errors import UserError
from nanolab.model.scaling import derive
from nanolab.report.environment_section import EXECUTION
from nanolab.results import FINAL
from nanolab.settings.study_file import study_from_dict
from nanolab.tracking import run_reader
from nanolab.tracking.run_reader import RunRecord

# curves of system metrics, in MB, the one that says most of a step first
MEMORY = (
    "system/gpu_0_memory_usage_megabytes",
    "system/processes_memory_megabytes",
)  # as system_metrics.py names them


def seconds(run: RunRecord) -> float:
    """How long a step took, its earlier attempts included."""
    return ((run.end or run.start) - run.start) / 1000 + float(run.tags.get("earlier_seconds", 0))


def origins(execution: RunRecord, runs: dict[str, RunRecord]) -> dict[str, dict[str, Any]]:
    """For the execution (as "execution") and each step: run_id, experiment_id, name, status, start
    (ms), seconds, commit, dirty, fingerprint, work_folder, data, attempt, and reused: whether
    another execution made it.
    """

    def origin(run: RunRecord) -> dict[str, Any]:
        return {
            "run_id": run.id,
            "experiment_id": run.experiment_id,
            "name": run.name,
            "status": run.status,
            "start": run.start,
            "seconds": seconds(run),
            "commit": run.tags.get("mlflow.source.git.commit", ""),
            "dirty": run.tags.get("git.dirty") == "true",
            "fingerprint": run.tags.get("fingerprint", ""),
            "work_folder": run.tags.get("work_folder", ""),
            "data": run.tags.get(FINAL + "data", ""),
            "attempt": run.tags.get("attempt", ""),
            "reused": run.tags.get("mlflow.parentRunId", execution.id) != execution.id,
        }

    return {
        EXECUTION: origin(execution),
        **{step: origin(run) for step, run in runs.items() if step != "report"},
    }


def planned_and_spent(
    execution: RunRecord, runs: dict[str, RunRecord], environment: dict[str, Any]
) -> dict[str, Any]:
    """The plan of nanolab/costs/estimate.py, by its table alone, beside what each step took.

    `machine` and `source` (of its speeds) are empty where the study's settings were not recorded,
    are of another version, or the device is not in the table. `rows`: step, planned_hours, flops,
    planned_gib, hours, tokens_per_second, peak_gib and which of MEMORY it is (memory_of),
    planned_dollars, dollars; None where unknown.
    """
    study, machine, hardware = recorded_study(execution), None, environment["hardware"]
    used = gpus_used(execution, hardware)
    name = "cpu"
    if used:
        name = next((gpu for gpu in GPUS if gpu in (hardware.get("gpu_name") or "")), "")
    if study is not None and used is not None and name:
        width = derive(study.base_train, study.tokenizer.vocab_size).model.width
        machine = machine_named(f"{used}x{name}" if used else name, study.hourly_rates, width)
    planned = {}
    if machine is not None:
        planned = {row.step: row for row in estimate.plan_costs(study, machine)}
    names = {
        "planned_hours": "hours",
        "flops": "flops",
        "planned_gib": "memory_gib",
        "planned_dollars": "dollars",
    }
    rate, rows = hourly_rate(execution, hardware), []
    for step, run in runs.items():
        row, hours = planned.get(step), seconds(run) / 3600
        peak, memory_of = peak_memory(run)
        rows.append(
            {
                "step": step,
                "hours": hours,
                "tokens_per_second": run.metrics.get(FINAL + "tokens_per_second"),
                "peak_gib": peak,
                "memory_of": memory_of,
                "dollars": None if rate is None else hours * rate,
                **{key: getattr(row, of, None) for key, of in names.items()},
            }
        )
    return {
        "machine": machine.name if machine else "",
        "source": machine.speeds.source if machine else "",
        "rows": rows,
    }


def gpus_used(execution: RunRecord, hardware: dict[str, Any]) -> int | None:
    """GPUs that an execution's processes use, one each, on all its machines; 0: its processors;
    None where that was not recorded.
    """
    if execution.params.get("launch.device") == "cpu":
        return 0
    there = hardware.get("gpu_count")
    if there is None:
        return None
    return min(there, int(execution.params.get("launch.nproc", there))) * int(
        execution.params.get("launch.nnodes", 1)
    )


def hourly_rate(execution: RunRecord, hardware: dict[str, Any]) -> float | None:
    """Dollars an hour of what an execution used: of its GPUs as recorded (`hardware` has the rate
    of all of a machine's), else of one machine by the rate of "cpu" in the study; None where there
    is no rate.
    """
    used, rate = gpus_used(execution, hardware), hardware.get("hourly_rate")
    if used == 0:
        params = execution.params.items()
        of = "hourly_rates."
        return rate_of(
            "cpu", {key[len(of) :]: float(value) for key, value in params if key.startswith(of)}
        )
    return None if rate is None else float(rate) * (used / hardware["gpu_count"] if used else 1)


def recorded_study(execution: RunRecord) -> Any:
    """The settings of an execution, a StudyConfig; None where they were not recorded, or are of a
    version with other settings.
    """
    if "study.json" not in run_reader.artifact_names(execution.id):
        return None
    try:
        return study_from_dict(files.read_json(run_reader.artifact(execution.id, "study.json")))
    except UserError:
        return None


def peak_memory(run: RunRecord) -> tuple[float | None, str]:
    """(GiB, the metric that says so) of the most memory that a run's system metrics show; (None,
    "") without any.
    """
    for key in MEMORY:
        if key in run.metrics:
            return max(value for _, value in run_reader.history(run.id, key)) * 1e6 / GIB, key
    return None, ""
