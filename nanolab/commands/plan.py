"""`plan`: a study's steps, their state, and what they would cost, before anything is spent; `data
fetch` brings the hub data of a study ahead, so that it runs without a network.
"""

import argparse
import json
from dataclasses import asdict, replace
from typing import Any

from nanolab import files
from nanolab.errors import UserError
from nanolab.plan.steps import Step
from nanolab.settings.config import StudyConfig

COST_COLUMNS = (
    "step", "parameters", "read", "trained", "generated", "FLOPs", "GiB a device", "disk GiB",
    "time", "$",
)  # fmt: skip


STUDY = {"help": "experiments/NAME.yaml or NAME"}
SET = {"action": "append", "default": [], "metavar": "STAGE.KEY=VALUE"}
SET["help"] = "change a setting; may be repeated"


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `plan`."""
    parser.add_argument("study", **STUDY)
    parser.add_argument("--set", **SET)
    text = "print every setting as YAML; of a STEP, those of its notebook, for papermill -f"
    parser.add_argument("--parameters", nargs="?", const="", metavar="STEP", help=text)
    text = "what the study would cost: on 8xH100, 1xH100, another number of GPUs, or cpu"
    parser.add_argument("--hardware", metavar="8xH100", help=text)
    text = "with --hardware: print the costs as JSON"
    parser.add_argument("--json", action="store_true", help=text)


def plan(given: argparse.Namespace) -> int:
    """Prints the steps of a study, their costs or their settings."""
    from nanolab.plan import steps
    from nanolab.plan.preparation import per_seed
    from nanolab.settings.study_file import load_study

    if given.hardware is not None and given.parameters is not None:
        raise UserError("--hardware and --parameters cannot be combined: costs, or settings")
    if given.json and given.hardware is None:
        raise UserError("--json needs --hardware, for example --hardware 8xH100")
    study = load_study(given.study, given.set)
    if given.hardware is not None:
        return show_costs(study, given.hardware, given.json)
    if given.parameters is not None:
        return show_parameters(study, given.study, given.parameters)
    return show([(each, list(steps.plan(each).values())) for each in per_seed(study)])


def show(planned: list[tuple[StudyConfig, list[Step]]], as_json: bool = False) -> int:
    """The steps of each seed of a study."""
    from nanolab.plan import durations
    from nanolab.terminal import plain, screens
    from nanolab.terminal.events import Note, Planned

    for study, steps in planned:
        notes = durations.long_steps(study, steps)
        title = f"{study.experiment} seed {study.seed}" if len(planned) > 1 else study.experiment
        if as_json:
            facts = {"study": study.experiment, "seed": study.seed}
            facts |= dict.fromkeys(("store", "execution", "log"))
            screen = screens.open_screen("json")
            screen.tell(Planned(title, steps, facts))
            for note in notes:
                screen.tell(Note(note, "note", {"line": note}))
        else:
            title = title if len(planned) > 1 else ""
            table = plain.plan_table(steps)
            replace(table, title=title, notes=[*table.notes, *notes]).show()
    return 0


def show_parameters(study: StudyConfig, name: str, step: str) -> int:
    """Prints every setting of a study (asked for as `name`) as YAML, or those of a notebook."""
    import yaml

    from nanolab.plan import notebook_files
    from nanolab.plan.steps import step_config
    from nanolab.settings.config import STEPS
    from nanolab.settings.schema import to_dict
    from nanolab.settings.study_file import find_study

    if step and step not in STEPS:
        raise UserError(f"unknown step {step!r}; valid steps are {', '.join(STEPS)}")
    values = to_dict(study)
    if step:
        config = step_config(study, step)
        values = notebook_files.parameters(config, str(find_study(name)))
    print(yaml.safe_dump(values, sort_keys=False), end="")
    return 0


def show_costs(study: StudyConfig, hardware: str, as_json: bool) -> int:
    """The costs of each step of one seed, and of every seed in all."""
    from nanolab.costs import estimate
    from nanolab.costs.hardware import machine_named
    from nanolab.model.scaling import derive
    from nanolab.terminal.plain import Table

    width = derive(study.base_train, study.tokenizer.vocab_size).model.width
    machine = machine_named(hardware, study.hourly_rates, width)
    finished = estimate.finished_steps(files.MLRUNS) if machine.device == "cpu" else None
    rows = estimate.plan_costs(study, machine, finished)
    one = estimate.total(rows)
    notes = list(estimate.notes(study, machine, rows))
    together = estimate.of_all_seeds(study, one)
    if as_json:
        facts = {
            "study": study.experiment,
            "hardware": machine.name,
            "dollars_an_hour": machine.rate,
            "seeds": study.seeds or [study.seed],
            "steps": [asdict(row) for row in rows],
            "one_seed": asdict(one),
            "total": asdict(together),
            "notes": notes,
        }
        print(json.dumps(facts, indent=1))
        return 0
    if len(study.seeds) > 1:
        rows.append(replace(one, step="one seed"))
        together = replace(together, step=f"{len(study.seeds)} seeds")
    rate = "" if machine.rate is None else f", ${machine.rate:.2f} an hour"
    title = f"{study.experiment} on {machine.name}{rate}"
    cells, notes = [_cost_cells(row) for row in rows], [f"- {note}" for note in notes]
    Table(COST_COLUMNS, cells, COST_COLUMNS[1:], title, _cost_cells(together), notes).show()
    return 0


def _cost_cells(row: Any) -> list[str]:
    """A row of the table, from an `estimate.Cost`."""
    from nanolab.wording import duration, or_dash, short

    return [
        row.step,
        or_dash(row.parameters, "{:,}".format),
        *map(short, (row.tokens_read, row.tokens_trained, row.tokens_generated)),
        or_dash(row.flops or None, "{:.1e}".format),
        f"{row.memory_gib:.1f}",
        f"{row.disk_gib:.2f}",
        duration(None if row.hours is None else row.hours * 3600),
        or_dash(row.dollars, "{:.2f}".format),
    ]


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `data`."""
    parser.add_argument("what", choices=["fetch"])
    parser.add_argument("study", **STUDY)
    parser.add_argument("--set", **SET)


def data(given: argparse.Namespace) -> int:
    """Fetches the data of a study."""
    from nanolab.pipeline.fetch import fetch
    from nanolab.settings.study_file import load_study

    fetch(load_study(given.study, given.set))
    return 0
