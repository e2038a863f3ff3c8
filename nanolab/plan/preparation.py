"""What a run of a study will do, checked before anything starts."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from nanolab.errors import UserError
from nanolab.plan import notebook_files
from nanolab.plan.steps import Step, layout, plan
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.study_file import load_study


@dataclass(frozen=True)
class Prepared:
    """A study with one seed, checked: nothing of it has started."""

    study: StudyConfig
    groups: list[list[str]]  # steps, joined where one notebook execution fills several
    planned: dict[str, Step]
    rest: list[Step]  # finished ones that are not asked for: the report shows them too

    @property
    def asked(self) -> list[str]:
        """The planned steps that are asked for, in order; the report needs no plan."""
        return [step for steps in self.groups for step in steps if step in self.planned]


def per_seed(study: StudyConfig) -> list[StudyConfig]:
    """The study once for each of its seeds: one experiment, several executions."""
    return [replace(study, seed=seed) for seed in study.seeds or [study.seed]]


def prepare_seeds(
    study: str, overrides: Iterable[str], only: list[str], start: str | None = None
) -> list[Prepared]:
    """`prepare` for each seed of a study (a name or a YAML file) with changed settings."""
    seeds = per_seed(load_study(study, list(overrides)))
    return [prepare(each, only, start) for each in seeds]


def prepare(study: StudyConfig, only: list[str], start: str | None) -> Prepared:
    """The checked plan of a run of the steps `only` (default: all) from `start` on, of which the
    study need not list each; raises UserError for all that can be seen before it starts.
    """
    unlisted = [step for step in STEPS if step in only and step not in study.steps]
    if unlisted and not start:
        ends = [step for step in study.steps if step == "report"]
        listed = [step for step in study.steps if step not in ends]
        study = replace(study, steps=[*listed, *unlisted, *ends])
    groups = grouped(select(study, only, start))
    if not groups:
        raise UserError(
            f"nothing to run: study {study.experiment!r} has the steps"
            f" {', '.join(study.steps) or 'none'}"
            + (f", from {start} on there is none of {', '.join(only)}" if start and only else "")
        )
    for steps in groups:
        notebook_files.check_parameters(steps[0])
    planned = plan(study, [step for steps in groups for step in steps])
    local = study.data.root or os.environ.get("NANOLAB_DATA")
    if "base_eval" in planned and study.data.source == "hub" and not local:
        raise UserError(
            "base_eval needs the CORE tasks, which have no hub set: set data.root, or the variable"
            " NANOLAB_DATA, to a folder with core/tasks.json, or leave base_loss and base_eval out"
            " of steps (one notebook fills both)"
        )
    asked = {step for steps in groups for step in steps}
    beside = [step for name, step in planned.items() if name not in asked]
    for name in study.steps:
        if name not in planned and name != "report":
            # what cannot be planned is not finished, and was not asked for
            with suppress(UserError):
                beside.append(layout(study, [name])[name])
    return Prepared(study, groups, planned, [step for step in beside if step.finished])


def select(study: StudyConfig, only: list[str], start: str | None) -> list[str]:
    """The steps of the study to run; raises UserError for a name that the study does not run."""
    for step in [*only, *([start] if start else [])]:
        if step not in study.steps:
            raise UserError(
                f"unknown step {step!r}: study {study.experiment!r} runs {', '.join(study.steps)}"
            )
    steps = study.steps[study.steps.index(start) :] if start else study.steps
    return [step for step in steps if not only or step in only]


def grouped(steps: list[str]) -> list[list[str]]:
    """The steps joined where one notebook execution fills several of them, with those that it fills
    beside the ones asked for.
    """

    def execution(step: str) -> tuple:
        return STEPS[step].notebook, *STEPS[step].fixed.items()

    executions = dict.fromkeys(map(execution, steps))
    return [[step for step in STEPS if execution(step) == one] for one in executions]
