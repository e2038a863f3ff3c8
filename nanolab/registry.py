"""The registered model of a study: its best chat model, with the alias `best`, for `mlflow models serve` and `mlflow.pyfunc.load_model`.

The best is the chat model with the highest ChatCORE among those that the study's newest execution evaluated (of equals the later one
in training), for a study with several seeds the newest execution of each of them (of equals the first seed); where none was evaluated,
the last one trained. A version holds a copy of the final checkpoint's weights, the tokenizer and this package's source; no optimizer
state. The same weights are registered once: again, only the alias moves.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanolab import files, tracking
from nanolab.config import SOURCE_STEPS
from nanolab.schema import UserError
from nanolab.tracking import RunRecord

ALIAS = "best"
EVALUATED = "highest ChatCORE"  # how the reason of a choice by evaluation begins
STAGES = ("rl", "sft", "mid")  # chat models, the last trained first
REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "psutil",
    "pyarrow",
    "PyYAML",
    "rustbpe",
    "safetensors",
    "scipy",
    "tiktoken",
    "torch",
    "tqdm",
)
CODE = "Tokens as the model writes them: a tool call with its output stands as <<call=output>> in the text."


@dataclass(frozen=True)
class Choice:
    """The model to register: the run that trained it, its work folder, and why it was chosen."""

    source: str
    run: RunRecord
    folder: Path
    step: int | None  # of the checkpoint; None: the finished one
    reason: str
    score: float | None = None  # ChatCORE


@dataclass(frozen=True)
class Registered:
    """A version of a study's registered model."""

    name: str
    version: str
    source: str
    reason: str
    new: bool  # False: these weights were registered before
    size: int = 0  # bytes that the version takes in the store

    @property
    def uri(self) -> str:
        """Its address for MLflow."""
        return f"models:/{self.name}@{ALIAS}"

    @property
    def line(self) -> str:
        """What was done, in one line."""
        made = f"{self.size / 2**20:.1f} MiB" if self.new else "registered before"
        return (
            f"{self.uri} is version {self.version}: the {self.source} model, {self.reason} ({made})"
        )


def register(study: str, executions: list[str] | None = None) -> Registered:
    """Registers the best chat model of some executions (None: those of `newest`) and returns its version.

    Executions that evaluated none do not take the alias from a model that was evaluated.

    Raises UserError when the study has no chat model, or its checkpoint is gone.
    """
    from nanolab import checkpoint

    chosen = best_of(newest(study) if executions is None else executions)
    if chosen is not None and chosen.score is None and (kept := _evaluated(study)):
        return kept
    if chosen is None:
        raise UserError(
            f"study {study!r} has no finished chat model in {tracking.store_uri()} (steps mid_train, sft, rl): run one first, "
            f"python -m nanolab run {study}"
        )
    if not (chosen.folder / "checkpoints").is_dir():
        raise UserError(
            f"no checkpoints in {chosen.folder}: they stay on the machine that trained them; register the model there"
        )
    weights = files.read_json(
        checkpoint.find(chosen.folder / "checkpoints", chosen.step) / files.COMPLETE
    )["files"][checkpoint.WEIGHTS]
    mark = f"{chosen.folder.name} {chosen.step or 'finished'} {weights['sha256']}"  # a step run anew has the folder of the earlier one
    registry, size = tracking.client(), 0
    version = _known(study, mark)
    new = version is None
    if version is None:
        with tempfile.TemporaryDirectory(prefix="nanolab-model-") as temporary:
            model, step = _written(chosen, Path(temporary))
            size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
            tags = {
                "study": study,
                "source": chosen.source,
                "step": str(step),
                "checkpoint": mark,
                "chosen": chosen.reason,
            }
            version = _logged(study, chosen, model, tags)
    registry.set_registered_model_alias(study, ALIAS, version)
    return Registered(study, version, chosen.source, chosen.reason, new, size)


def register_at_end(study: str, executions: list[str]) -> str:
    """`register` for the end of a run, whose study is finished whatever comes of it: what to print, "" where no chat model was trained.

    The executions, one for each seed, are tagged `registered` with the same words, a failure's too, so that the runs table shows them.
    """
    try:
        if best_of(executions) is None:
            return ""
        line = register(study, executions).line
    except Exception as error:  # a full disk, a server away, a checkpoint removed: said, not raised, since every step is finished
        line = f"not registered ({' '.join(str(error).split()) or type(error).__name__}); try again with python -m nanolab register {study}"
    for execution in executions:
        tracking.set_tag(execution, "registered", line)
    return line


def newest(study: str) -> list[str]:
    """The newest execution with a chat model; of a study with several seeds the newest such execution of each, in their order."""
    found: dict[str, RunRecord] = {}  # by seed
    seeds = None  # as the newest execution has them
    for run in tracking.executions(study):
        own, seed = run.params.get("seeds", "[]"), run.params.get("seed", "")
        if seeds in (None, own) and seed not in found and best(run.id):
            found[seed], seeds = run, own
            if len(json.loads(seeds)) < 2:
                break
    order = list(map(str, json.loads(seeds or "[]")))
    return [
        found[seed].id
        for seed in sorted(
            found, key=lambda seed: order.index(seed) if seed in order else len(order)
        )
    ]


def best_of(executions: list[str]) -> Choice | None:
    """The chat model to register of several executions, each of another seed; None when they have none."""
    found = [
        (choice, tracking.record(execution).params.get("seed"))
        for execution in executions
        if (choice := best(execution))
    ]
    if not found:
        return None
    chosen, seed = max(
        found, key=lambda one: (one[0].score is not None, one[0].score or 0.0)
    )  # the first of equals
    if len(found) == 1:
        return chosen
    which, seeds = (
        "first" if chosen.score is None else "best",
        ", ".join(str(seed) for _, seed in found),
    )
    return replace(chosen, reason=f"{chosen.reason}, of seed {seed}, the {which} of seeds {seeds}")


def best(execution: str) -> Choice | None:
    """The chat model of an execution to register; None when it has none."""
    from nanolab.report.collect import step_runs

    runs = step_runs(execution)
    evaluated = {
        source: runs[step]
        for source in reversed(STAGES)
        if "final/chat_core" in getattr(runs.get(step := f"chat_eval_{source}"), "metrics", ())
    }
    if evaluated:
        scores = {source: run.metrics["final/chat_core"] for source, run in evaluated.items()}
        source = max(scores, key=lambda one: (scores[one], -STAGES.index(one)))
        run, step = evaluated[source], evaluated[source].params.get("step", "None")
        folder = files.MLRUNS / run.tags[f"input.{SOURCE_STEPS[source]}"]
        return Choice(
            source,
            runs.get(SOURCE_STEPS[source], run),
            folder,
            None if step == "None" else int(step),
            f"{EVALUATED} ({scores[source]:.4f}) of {', '.join(scores)}",
            scores[source],
        )
    for source in STAGES:
        if SOURCE_STEPS[source] in runs:
            run = runs[SOURCE_STEPS[source]]
            return Choice(
                source,
                run,
                files.MLRUNS / run.tags["work_folder"],
                None,
                "the last one trained, none evaluated",
            )
    return None


def _evaluated(name: str) -> Registered | None:
    """The version that has the alias, if it was chosen by an evaluation."""
    from mlflow.exceptions import MlflowException

    try:
        held = tracking.client().get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):  # no such model, no such alias
            raise
        return None
    if not held.tags["chosen"].startswith(EVALUATED):
        return None
    return Registered(
        name,
        str(held.version),
        held.tags["source"],
        f"{held.tags['chosen']}; this execution evaluated none",
        False,
    )


def _known(name: str, mark: str) -> str | None:
    """The newest version with these weights; None for a new one."""
    from mlflow.exceptions import MlflowException

    try:
        tracking.client().get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        tracking.client().create_registered_model(
            name, description=f"The best chat model of the study {name}. {CODE}"
        )
        return None
    found = tracking.client().search_model_versions(
        f"name = '{name}' and tags.checkpoint = '{mark}'"
    )
    return max((str(one.version) for one in found), key=int, default=None)


# ---- the model's folder


def _written(chosen: Choice, folder: Path) -> tuple[Path, int]:
    """Writes MLflow's model folder below `folder`; returns it and the checkpoint's step."""
    from mlflow import pyfunc

    from nanolab.plan import JOB, read_job

    bundle = folder / "bundle"
    step = _weights(chosen, bundle / "checkpoints")
    shutil.copytree(
        read_job(chosen.folder / JOB).inputs["tok_train"] / "tokenizer", bundle / "tokenizer"
    )
    files.write_json(bundle / "model.json", {"source": chosen.source, "run": chosen.run.id})
    package = Path(__file__).parent
    model = folder / "model"
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*An input example was not provided"
        )  # it would only repeat the signature
        pyfunc.save_model(
            str(model),
            python_model=str(package / "served_model.py"),
            artifacts={"model": str(bundle)},
            code_paths=[str(package)],
            signature=signature(),
            pip_requirements=requirements(),
        )
    shutil.rmtree(bundle)
    for cache in model.rglob("__pycache__"):
        shutil.rmtree(cache)
    return model, step


def _weights(chosen: Choice, target: Path) -> int:
    """Copies the weights of the checkpoint, without the optimizer's state, marked complete by themselves; returns its step."""
    from nanolab import checkpoint

    source = checkpoint.find(chosen.folder / "checkpoints", chosen.step)
    facts = files.verify_complete(source)
    folder = checkpoint.step_folder(target, facts["step"])
    folder.mkdir(parents=True)
    shutil.copyfile(source / checkpoint.WEIGHTS, folder / checkpoint.WEIGHTS)
    files.mark_complete(folder, [checkpoint.WEIGHTS], **facts)
    return facts["step"]


def signature() -> Any:
    """What the model takes and gives: a prompt or messages, the chat settings as parameters; the answer's fields."""
    import dataclasses

    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema

    from nanolab.chat_session import ChatSettings

    message = Object([Property("role", "string"), Property("content", "string")])
    kinds = {int: "long", float: "double", str: "string"}
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", "prompt", required=False),
                ColSpec(Array(message), "messages", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec(one.name, kinds[type(one.default)], one.default)
                for one in dataclasses.fields(ChatSettings)
            ]
        ),
    )


def requirements() -> list[str]:
    """The packages that the served code imports, as requirements.lock pins them."""
    lines = (files.ROOT / "requirements.lock").read_text().splitlines()
    pinned = {line.split("==")[0].lower(): line.strip() for line in lines if "==" in line}
    return [pinned[name.lower()] for name in REQUIREMENTS]


def _logged(name: str, chosen: Choice, model: Path, tags: dict[str, str]) -> str:
    """Copies a model folder into the study's store as a model that the training run made, and makes it a version of `name`."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = tracking.client()
    run = client.get_run(chosen.run.id)
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=f"{name}-{chosen.source}",
        source_run_id=chosen.run.id,
        tags=tags,
        model_type="chat",
    )
    client.log_model_artifacts(logged.model_id, str(model))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(chosen.run.id, [LoggedModelOutput(logged.model_id, 0)])
    usage = json.dumps(
        {
            "dataframe_records": [{"prompt": "..."}],
            "params": {"sampler": "power", "alpha": 4.0, "num_steps": 10},
        }
    )
    text = (
        f"The {chosen.source} model: {chosen.reason}. Serve it: `mlflow models serve -m models:/{name}@{ALIAS} --env-manager local`, "
        f"then POST to /invocations: `{usage}`."
    )
    # not models:/ID, for which MLflow asks the process's default store instead of this client's
    version = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=chosen.run.id,
        tags=tags,
        description=text,
        model_id=logged.model_id,
    )
    return str(version.version)
