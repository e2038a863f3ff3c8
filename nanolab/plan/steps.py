"""Which steps a study has, with which config, inputs and fingerprint, and which are finished, as
their work folders say (artefacts.py). Imports no torch or mlflow.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanolab import artefacts, files
from nanolab.artefacts import JOB, RESULT
from nanolab.data.sources.requirements import check_data
from nanolab.data.sources.source import open_source
from nanolab.errors import UserError
from nanolab.model.scaling import derive
from nanolab.plan.fingerprint import fingerprint
from nanolab.settings.config import SOURCE_STEPS, STAGES, STEPS, Job, StudyConfig
from nanolab.settings.model_source import FORMS, is_outside
from nanolab.settings.schema import build, to_dict
from nanolab.settings.study_file import NAME, load_study, study_from_dict

LOG = "log.txt"


@dataclass(frozen=True)
class Step:
    """A step as planned: its final config, fingerprint, work folder, and the steps it reads."""

    name: str
    config: Any
    fingerprint: str
    folder: Path
    inputs: dict[str, Step] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its result, and everything that the result names, is there."""
        return artefacts.is_finished(self.folder)

    @property
    def why_again(self) -> str:
        """Why it runs again though it has a result, and from where; "" where it does not."""
        return artefacts.why_again(self.folder)

    @property
    def started(self) -> bool:
        """Whether an attempt left something to go on from."""
        return (self.folder / JOB).is_file()

    def result(self) -> dict[str, Any]:
        """The final metrics of the finished step."""
        return dict(artefacts.read_result(self.folder)["metrics"])


# ---- planning


def resolve(stage: str, parameters: dict[str, Any] | None, experiment: str) -> StudyConfig:
    """The study of `experiment` with `parameters` as the whole config of `stage`."""
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}; valid stages are {', '.join(STAGES)}")
    study = load_study(experiment)
    if parameters is None:
        return study
    return study_from_dict({**to_dict(study), stage: parameters})


def steps_of(stage: str, study: StudyConfig) -> list[str]:
    """The steps that a notebook of `stage` fills: those that fix what the config says, of the
    study's own the ones that fix most (with source rl power_eval_rl, where it has that step).
    """
    config = study.stage(stage)
    fixed = {name: spec.fixed for name, spec in STEPS.items() if spec.stage == stage}
    fitting = [name for name, values in fixed.items() if vars(config).items() >= values.items()]
    if stage == "chat_eval":
        outside = is_outside(config.source)
        fitting = [name for name in fitting if (name == "chat_eval_hf") == outside]
    if own := [name for name in fitting if name in study.steps]:
        most = max(len(fixed[name]) for name in own)
        most_fixed = [name for name in fitting if len(fixed[name]) == most]
        return [name for name in most_fixed if name in own or not fixed[name]]
    if not fitting:
        sources = sorted({str(value) for values in fixed.values() for value in values.values()})
        raise UserError(
            f"{stage}.source = {config.source!r}: no step evaluates it; valid sources are"
            f" {', '.join([*sources, FORMS])}"
        )
    return [name for name in fitting if not fixed[name]] or fitting


def plan(study: StudyConfig, steps: list[str] | None = None) -> dict[str, Step]:
    """The steps named (default: the study's) and all that they read, in an order in which they can
    run. Raises UserError for what cannot run: a shape, a batch size, a source, or missing data.
    """
    planned = layout(study, study.steps if steps is None else steps)
    unfinished = [step.name for step in planned.values() if not step.finished]
    check_data(study, unfinished, open_source(study.data))
    return planned


def layout(study: StudyConfig, steps: list[str]) -> dict[str, Step]:
    """`plan` without a look at the data."""
    planned: dict[str, Step] = {}
    scale = derive(study.base_train, study.tokenizer.vocab_size)  # refuses a shape that cannot be
    processes = study.launch.nproc * study.launch.nnodes
    for name in ("base_train", "mid_train", "sft"):
        batch_size = study.stage(name).batch_size or scale.batch_size
        if batch_size % processes:
            raise UserError(
                f"{name}.batch_size = {batch_size} sequences must divide evenly over {processes}"
                " processes"
            )
    for name in steps:
        if name != "report":
            _plan_step(study, name, planned, ())
    return planned


def report_step(study: StudyConfig, parent: str) -> Step:
    """The report of an execution: no plan has it, for it reads what the execution holds."""
    mark = parent[:12]
    folder = files.work_folder(study.experiment, "report", mark)
    return Step("report", study.report, mark, folder)


def step_config(study: StudyConfig, name: str) -> Any:
    """The config of a step: its stage's, with what the step fixes."""
    return replace(study.stage(STEPS[name].stage), **STEPS[name].fixed)


def _plan_step(
    study: StudyConfig, name: str, planned: dict[str, Step], path: tuple[str, ...]
) -> Step:
    if name in path:
        raise UserError(
            f"{name}.source makes {name} read its own result ({' <- '.join([*path, name])}); choose"
            " an earlier model"
        )
    if name in planned:
        return planned[name]
    config = step_config(study, name)
    tag = getattr(config, "model_tag", "default")
    source = getattr(config, "source", None)
    own_model = [SOURCE_STEPS[source]] if source in SOURCE_STEPS else []
    reads = [] if is_outside(source) else [*STEPS[name].inputs, *own_model]
    inputs = {}
    for needed in dict.fromkeys(reads):
        if tag in ("default", study.experiment):
            inputs[needed] = _plan_step(study, needed, planned, (*path, name))
        else:
            inputs[needed] = _foreign_step(tag, needed, *own_model or ["base_train"])
    marks = {key: step.fingerprint for key, step in inputs.items()}
    mark = fingerprint(name, STEPS[name].module or name, config, study, marks)
    folder = files.work_folder(study.experiment, name, mark)
    planned[name] = Step(name, config, mark, folder, inputs)
    return planned[name]


def missing_steps(
    planned: dict[str, Step], own: list[str], fresh: bool = False
) -> tuple[list[Step], list[Step]]:
    """Of the planned steps, those to run now, in order, and the finished ones that are used."""
    missing: dict[str, Step] = {}
    reused: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.finished and not (fresh and step.name in own):
            reused[step.name] = step
        elif step.name not in missing:
            for needed in step.inputs.values():
                visit(needed)
            missing[step.name] = step

    for name in own:
        visit(planned[name])
    return list(missing.values()), list(reused.values())


def _foreign_step(study: str, name: str, model: str) -> Step:
    folder = newest_result(study, model)
    if folder is None:
        raise UserError(
            f"model_tag: study {study!r} has no finished step {model} in {files.MLRUNS / 'work'}; "
            f"run {first_command(study, model)}"
        )
    if name != model:
        require_finished(folder)
        folder = read_job(folder / JOB).inputs[name]
    require_finished(folder)
    return Step(name, None, folder.name, folder)


def newest_result(study: str, step: str) -> Path | None:
    """The work folder of a step of a study with the newest result, set aside ones left out; None
    where there is none. `artefacts.is_finished` says whether it is whole.
    """
    found = (files.MLRUNS / "work" / study / step).glob(f"*/{RESULT}")
    found = [path for path in found if not is_aside(path.parent)]
    return max(found, key=os.path.getmtime).parent if found else None


def is_aside(folder: Path) -> bool:
    """Whether a work folder was set aside by a fresh run."""
    return re.fullmatch(r"[0-9a-f]{12}\.\d+", folder.name) is not None


def require_finished(folder: Path) -> None:
    """Raises UserError, with the command that mends it, for a result that lost a part."""
    study, step = folder.relative_to(files.MLRUNS / "work").parts[:2]
    written = (folder / RESULT).is_file()
    if lost := artefacts.why_again(folder) if written else f"its {RESULT} is missing":
        raise UserError(
            f"step {step} of study {study!r} is no longer finished, {lost}; run "
            f"{artefacts.command(folder)}"
        )


def first_command(study: str, step: str) -> str:
    """The command line that runs a step which a study (a name or a file) has not finished."""
    try:
        steps = load_study(study).steps
    except UserError:  # its file is gone, or never had that name: the store knows how its steps ran
        jobs = (files.MLRUNS / "work" / study).glob(f"*/*/{JOB}")
        study, steps = str(max(jobs, key=os.path.getmtime, default=study)), []
    which = f"--only {step}" if step in steps else f"--set 'steps=[{step}]'"
    return f"python scripts/run_all.py {shlex.quote(study)} {which}"


def experiment_name(study: str) -> str:
    """The name under which the store keeps a study, else that of its YAML file."""
    is_kept = re.fullmatch(NAME, study) is not None and (files.MLRUNS / "work" / study).is_dir()
    return study if is_kept else load_study(study).experiment


# ---- job files


def job_of(study: StudyConfig, step: Step) -> Job:
    """What the processes of a step are told."""
    inputs = {name: given.folder for name, given in step.inputs.items()}
    return Job(step.name, study, step.config, step.folder, inputs)


def write_job(job: Job) -> Path:
    """Writes job.json in the step's folder; folders are kept relative to mlruns/."""
    inputs = {name: os.path.relpath(folder, files.MLRUNS) for name, folder in job.inputs.items()}
    study, config = to_dict(job.study), to_dict(job.config)
    values = {"step": job.step, "study": study, "config": config, "inputs": inputs}
    files.write_json(job.folder / JOB, values)
    return job.folder / JOB


def read_job(path: Path | str) -> Job:
    """The job of a job.json; raises UserError for one that is not of this version."""
    path = Path(path).absolute()
    values = files.read_json(path)
    known = isinstance(values, dict) and set(values) == {"step", "study", "config", "inputs"}
    if not known or values["step"] not in STEPS:
        raise UserError(f"{path} is not a job file: remove it, then run the same command again")
    stage = STEPS[values["step"]].stage
    config = build(STAGES[stage], values["config"], stage)
    inputs = {name: (files.MLRUNS / place).resolve() for name, place in values["inputs"].items()}
    return Job(values["step"], study_from_dict(values["study"]), config, path.parent, inputs)
