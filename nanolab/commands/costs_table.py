"""The table of `plan --hardware`: what a study would take and cost, before anything is spent."""

from __future__ import annotations

import dataclasses
import json

from nanolab import costs
from nanolab.commands.table import show_table
from nanolab.experiment import load_study
from nanolab.model.scaling import derive
from nanolab.report.formats import duration, short

HEADER = (
    "step",
    "parameters",
    "read",
    "trained",
    "generated",
    "FLOPs",
    "GiB a device",
    "disk GiB",
    "time",
    "$",
)


def show_costs(study_name: str, overrides: list[str], hardware: str, as_json: bool) -> int:
    """Prints the costs of each step (of one seed) and in all (of every seed), with what they rest on.

    Raises UserError for an unknown machine.
    """
    study = load_study(study_name, overrides)
    machine = costs.hardware(
        hardware,
        study.hourly_rates,
        derive(study.base_train, study.tokenizer.vocab_size).model.width,
    )
    rows = costs.plan_costs(
        study, machine, costs.finished_steps() if machine.device == "cpu" else None
    )
    one, notes = costs.total(rows), costs.notes(study, machine, rows)
    together = costs.of_all_seeds(study, one)
    if as_json:
        print(
            json.dumps(
                {
                    "study": study.experiment,
                    "hardware": machine.name,
                    "dollars_an_hour": machine.rate,
                    "seeds": study.seeds or [study.seed],
                    "steps": [dataclasses.asdict(row) for row in rows],
                    "one_seed": dataclasses.asdict(one),
                    "total": dataclasses.asdict(together),
                    "notes": notes,
                },
                indent=1,
            )
        )
        return 0
    rate = "" if machine.rate is None else f", ${machine.rate:.2f} an hour"
    lines = [cells(row) for row in rows]
    if len(study.seeds) > 1:
        lines.append(["one seed", *cells(one)[1:]])
        together = dataclasses.replace(together, step=f"{len(study.seeds)} seeds")
    show_table(f"{study.experiment} on {machine.name}{rate}", HEADER, lines, cells(together))
    print("\n".join(f"- {note}" for note in notes))
    return 0


def cells(row: costs.Cost) -> list[str]:
    """A row of the table."""
    return [
        row.step,
        "-" if row.parameters is None else f"{row.parameters:,}",
        *(short(value) for value in (row.tokens_read, row.tokens_trained, row.tokens_generated)),
        f"{row.flops:.1e}" if row.flops else "-",
        f"{row.memory_gib:.1f}",
        f"{row.disk_gib:.2f}",
        duration(row.hours),
        "-" if row.dollars is None else f"{row.dollars:.2f}",
    ]
