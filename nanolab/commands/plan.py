"""`plan`: a study's steps, their state and their fingerprints, before anything is spent."""

from __future__ import annotations

import argparse
import sys

from nanolab.config import StudyConfig
from nanolab.plan import Step
from nanolab.schema import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="change a setting; may be repeated",
    )
    parser.add_argument(
        "--parameters",
        metavar="STEP",
        help="print the YAML file of a step's notebook, for papermill -f",
    )
    parser.add_argument(
        "--hardware",
        metavar="8xH100",
        help="what the study would cost: on 8xH100, 1xH100, another number of GPUs, or cpu",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --hardware: print the costs as JSON"
    )


def main(given: argparse.Namespace) -> int:
    """Prints the plan, the parameters of one step's notebook, or what the study would cost."""
    if given.hardware is not None and given.parameters is not None:
        raise UserError(
            "--hardware and --parameters cannot be combined: one shows costs, the other a step's settings"
        )
    if given.json and given.hardware is None:
        raise UserError("--json needs --hardware, for example --hardware 8xH100")
    if given.hardware is not None:
        from nanolab.commands.costs_table import show_costs

        return show_costs(given.study, given.set, given.hardware, given.json)
    if given.parameters is not None:
        return show_parameters(given.study, given.set, given.parameters)
    from nanolab.experiment import load_study
    from nanolab.plan import plan
    from nanolab.study import per_seed

    return show(
        [
            (study, list(plan(study).values()))
            for study in per_seed(load_study(given.study, given.set))
        ]
    )


def show(planned: list[tuple[StudyConfig, list[Step]]], as_json: bool = False) -> int:
    """Prints the steps with their state and fingerprint, of each seed of a study."""
    from nanolab import screens, terminal

    for study, rows in planned:
        title = f"{study.experiment} seed {study.seed}" if len(planned) > 1 else study.experiment
        if as_json:
            facts = {
                "study": study.experiment,
                "seed": study.seed,
                "store": None,
                "execution": None,
                "log": None,
            }
            screens.open_screen("json").plan(title, rows, facts)
            continue
        if len(planned) > 1:
            print(title)
        if terminal.is_live(sys.stdout):
            from nanolab.terminal_live import plan_table
            from nanolab.terminal_live import show as show_table

            show_table(plan_table(rows))
        else:
            print(terminal.plan_lines(rows))
    return 0


def show_parameters(study_name: str, overrides: list[str], step: str) -> int:
    """Prints the parameters of a step's notebook as YAML."""
    import yaml

    from nanolab import notebooks
    from nanolab.config import STEPS
    from nanolab.experiment import find_study, load_study
    from nanolab.plan import step_config

    study = load_study(study_name, overrides)
    if step not in STEPS:
        raise UserError(f"unknown step {step!r}; valid steps are {', '.join(STEPS)}")
    values = notebooks.parameters(
        STEPS[step].stage, step_config(study, step), str(find_study(study_name))
    )
    print(yaml.safe_dump(values, sort_keys=False), end="")
    return 0
