"""`plan`: a study's steps, their state and their fingerprints, before anything is spent."""

from __future__ import annotations

import argparse

from nanolab.schema import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", help="experiments/NAME.yaml or NAME")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting; may be repeated")
    parser.add_argument("--parameters", metavar="STEP", help="print the YAML file of a step's notebook, for papermill -f")
    parser.add_argument("--hardware", metavar="8xH100", help="what the study would cost: on 8xH100, 1xH100, another number of GPUs, or cpu")
    parser.add_argument("--json", action="store_true", help="with --hardware: print the costs as JSON")


def main(given: argparse.Namespace) -> int:
    """Prints the plan, the parameters of one step's notebook, or what the study would cost."""
    if given.json and not given.hardware:
        raise UserError("--json needs --hardware, for example --hardware 8xH100")
    if given.hardware:
        from nanolab.commands.costs_table import show_costs
        return show_costs(given.study, given.set, given.hardware, given.json)
    if given.parameters:
        return show_parameters(given.study, given.set, given.parameters)
    return show(given.study, given.set)


def show(study_name: str, overrides: list[str], steps: list[str] | None = None) -> int:
    """Prints the steps with their state (finished, to continue, missing) and their fingerprint."""
    from nanolab.experiment import load_study
    from nanolab.plan import plan
    planned = plan(load_study(study_name, overrides), steps)  # refuses before anything is printed
    print(f"{'step':16} {'state':11} fingerprint   inputs")
    for step in planned.values():
        state = "finished" if step.finished else "to continue" if step.started else "missing"
        print(f"{step.name:16} {state:11} {step.fingerprint}  {' '.join(step.inputs)}")
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
    values = notebooks.parameters(STEPS[step].stage, step_config(study, step), str(find_study(study_name)))
    print(yaml.safe_dump(values, sort_keys=False), end="")
    return 0
