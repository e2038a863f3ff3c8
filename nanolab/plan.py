"""Which steps a study has, with which config, inputs and fingerprint, and which are finished. Imports no torch or mlflow.

Whether a step is finished is read from its work folder, where result.json is written last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.config import SOURCE_STEPS, STAGES, STEPS, Job, StudyConfig
from nanolab.data.requirements import check_data
from nanolab.data.sources import open_source
from nanolab.experiment import load_study, study_from_dict
from nanolab.fingerprint import fingerprint
from nanolab.model.scaling import derive
from nanolab.model_source import is_outside
from nanolab.schema import UserError, build, to_dict

JOB, RESULT, ERROR, LOG = "job.json", "result.json", "error.json", "log.txt"


@dataclass(frozen=True)
class Step:
    """A step as planned: its final config, its fingerprint, its work folder and the steps it reads."""

    name: str
    config: Any
    fingerprint: str
    folder: Path
    inputs: dict[str, Step] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its result was written, which happens last."""
        return (self.folder / RESULT).is_file()

    @property
    def started(self) -> bool:
        """Whether an attempt left something to go on from."""
        return (self.folder / JOB).is_file()

    def result(self) -> dict[str, Any]:
        """The final metrics of the finished step."""
        return files.read_json(self.folder / RESULT)["metrics"]


# ---- planning


def resolve(stage: str, parameters: dict[str, Any] | None, experiment: str) -> StudyConfig:
    """The study of `experiment` (a name or a YAML file) with `parameters` as the whole config of `stage`."""
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}; valid stages are {', '.join(STAGES)}")
    study = load_study(experiment)
    if parameters is None:
        return study
    build(STAGES[stage], parameters, stage)
    return study_from_dict({**to_dict(study), stage: parameters})


def steps_of(stage: str, study: StudyConfig) -> list[str]:
    """The steps that a notebook of `stage` fills: those that fix what the config says, of the study's own where it has such.

    Of several the ones that fix most: power_eval with source rl is step power_eval_rl in a study that has that step.
    """
    config = study.stage(stage)
    names = [name for name, spec in STEPS.items() if spec.stage == stage]
    fitting = [
        name
        for name in names
        if all(getattr(config, key) == value for key, value in STEPS[name].fixed.items())
    ]
    if stage == "chat_eval":
        fitting = [
            name for name in fitting if (name == "chat_eval_hf") == is_outside(config.source)
        ]
    own = [name for name in fitting if name in study.steps]
    if own:
        most = max(len(STEPS[name].fixed) for name in own)
        return [
            name
            for name in fitting
            if len(STEPS[name].fixed) == most and (name in own or not STEPS[name].fixed)
        ]
    loose = [name for name in fitting if not STEPS[name].fixed]
    if loose:
        return loose
    if not fitting:
        valid = [
            *sorted({str(value) for name in names for value in STEPS[name].fixed.values()}),
            "hf:NAME-or-folder",
        ]
        raise UserError(
            f"{stage}.source = {config.source!r}: no step evaluates it; valid sources are {', '.join(valid)}"
        )
    return fitting


def plan(study: StudyConfig, steps: list[str] | None = None) -> dict[str, Step]:
    """The steps named (default: the study's) and all steps that they read, in an order in which they can run.

    Raises UserError for what cannot run: a shape, a batch size, a source, or data that a step which is not finished reads.
    """
    planned = layout(study, study.steps if steps is None else steps)
    own = [step.name for step in planned.values() if not step.finished]
    check_data(
        study, own, open_source(study.data)
    )  # a split that is not there is refused before anything starts
    return planned


def layout(study: StudyConfig, steps: list[str]) -> dict[str, Step]:
    """`plan` without a look at the data."""
    planned: dict[str, Step] = {}
    scale = derive(
        study.base_train, study.tokenizer.vocab_size
    )  # a shape that cannot be is refused before anything starts
    for name in ("base_train", "mid_train", "sft"):
        batch_size, processes = (
            study.stage(name).batch_size or scale.batch_size,
            study.launch.nproc * study.launch.nnodes,
        )
        if batch_size % processes:
            raise UserError(
                f"{name}.batch_size = {batch_size} sequences must divide evenly over {processes} processes"
            )
    for name in steps:
        if name != "report":
            _plan_step(study, name, planned, ())
    return planned


def step_config(study: StudyConfig, name: str) -> Any:
    """The config of a step: its stage's, with what the step fixes."""
    return replace(study.stage(STEPS[name].stage), **STEPS[name].fixed)


def _plan_step(
    study: StudyConfig, name: str, planned: dict[str, Step], path: tuple[str, ...]
) -> Step:
    if name in path:
        raise UserError(
            f"{name}.source makes {name} read its own result ({' <- '.join([*path, name])}); choose an earlier model"
        )
    if name not in planned:
        config = step_config(study, name)
        inputs = {}
        for needed in needs(name, config):
            tag = getattr(config, "model_tag", "default")
            if tag in ("default", study.experiment):
                inputs[needed] = _plan_step(study, needed, planned, (*path, name))
            else:
                inputs[needed] = _foreign_step(tag, needed, _model_step(name, config))
        module = STEPS[name].module or name
        mark = fingerprint(
            name, module, config, study, {key: step.fingerprint for key, step in inputs.items()}
        )
        planned[name] = Step(
            name, config, mark, files.work_folder(study.experiment, name, mark), inputs
        )
    return planned[name]


def needs(name: str, config: Any) -> list[str]:
    """The steps that a step reads: those of the table, and the one that makes the model named by `source`; none for hf:..."""
    if is_outside(getattr(config, "source", None)):
        return []
    source = [SOURCE_STEPS[config.source]] if hasattr(config, "source") else []
    return list(dict.fromkeys([*STEPS[name].inputs, *source]))


def _model_step(name: str, config: Any) -> str:
    return SOURCE_STEPS[config.source] if hasattr(config, "source") else "base_train"


def _foreign_step(study: str, name: str, model: str) -> Step:
    """The newest finished step of another study; its tokenizer is the one its model was trained with."""
    found = sorted(
        (files.MLRUNS / "work" / study / model).glob(f"*/{RESULT}"),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise UserError(
            f"model_tag: study {study!r} has no finished step {model} in {files.MLRUNS / 'work'}; run that study first"
        )
    folder = found[-1].parent
    if name != model:
        folder = read_job(folder / JOB).inputs[name]
    return Step(name, None, folder.name, folder)


def experiment_name(study: str) -> str:
    """The name under which a study's steps are kept: `study` itself where the store has it, else that of its YAML file."""
    return (
        study
        if (files.MLRUNS / "work" / study).is_dir() and "/" not in study
        else load_study(study).experiment
    )


# ---- job files


def job_of(study: StudyConfig, step: Step) -> Job:
    """What the processes of a step are told."""
    return Job(
        step.name,
        study,
        step.config,
        step.folder,
        {name: given.folder for name, given in step.inputs.items()},
    )


def write_job(job: Job) -> Path:
    """Writes job.json in the step's work folder; folders are kept relative to mlruns/, which may move."""
    path = job.folder / JOB
    files.write_json(
        path,
        {
            "step": job.step,
            "study": to_dict(job.study),
            "config": to_dict(job.config),
            "inputs": {
                name: os.path.relpath(folder, files.MLRUNS) for name, folder in job.inputs.items()
            },
        },
    )
    return path


def read_job(path: Path | str) -> Job:
    """The job of a job.json; raises UserError when it is missing, truncated or not of this version."""
    path = Path(path).absolute()
    values = files.read_json(path)
    if (
        not isinstance(values, dict)
        or set(values) != {"step", "study", "config", "inputs"}
        or values["step"] not in STEPS
    ):
        raise UserError(
            f"{path} is not a job file: run the step through its notebook or run_all.py, which write it"
        )
    stage = STEPS[values["step"]].stage
    return Job(
        values["step"],
        study_from_dict(values["study"]),
        build(STAGES[stage], values["config"], stage),
        path.parent,
        {name: (files.MLRUNS / folder).resolve() for name, folder in values["inputs"].items()},
    )
