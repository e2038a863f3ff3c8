"""The registered model of a study: its best chat model, with the alias `best`, for `mlflow models
serve` and `mlflow.pyfunc.load_model`.

The best has the highest ChatCORE among those that the study's newest execution evaluated (of equals
the later one in training), for a study with several seeds the newest execution of each of them (of
equals the first seed); where none was evaluated, the last one trained. The same weights are
registered once: again, only the alias moves.
"""

import dataclasses
import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanolab import artefacts, files, results
from nanolab.errors import UserError
from nanolab.plan.steps import first_command, read_job, require_finished
from nanolab.report.store_values import rows_of, step_runs
from nanolab.settings.config import SOURCE_STEPS
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.address import shown_uri
from nanolab.tracking.store import client

ALIAS = "best"
EVALUATED = "highest ChatCORE"  # how the reason of a choice by evaluation begins
STAGES = ("rl", "sft", "mid")  # chat models, the last trained first
ABOUT = (
    "The best chat model of the study {}. Tokens as the model writes them: a tool call with its"
    " output stands as <<call=output>> in the text."
)
USAGE = {
    "dataframe_records": [{"prompt": "..."}],
    "params": {"sampler": "power", "alpha": 4.0, "num_steps": 10},
}
REQUIREMENTS = (
    "mlflow", "numpy", "pandas", "psutil", "pyarrow", "PyYAML", "rustbpe", "safetensors", "scipy",
    "tiktoken", "torch", "pydantic", "filelock",
)  # fmt: skip
KINDS = {int: "long", float: "double", str: "string"}  # of a setting, in MLflow's words


@dataclass(frozen=True)
class Choice:
    """The model to register, and why."""

    source: str
    run: run_reader.RunRecord  # that trained it
    folder: Path  # of its files
    step: int | None  # of the checkpoint; None: the finished one
    reason: str
    score: float | None = None  # ChatCORE


def uri_of(study: str) -> str:
    """The address of a study's model for MLflow."""
    return f"models:/{study}@{ALIAS}"


def register(study: str) -> str:
    """Registers a study's best chat model; returns what was done, in one line.

    Executions that evaluated none do not take the alias from a model that was evaluated. Raises
    UserError when the study has no chat model, or its checkpoint is gone.
    """
    if chosen := best_of(newest(study)):
        return _register(study, chosen)
    raise UserError(
        f"study {study!r} has no finished chat model in {shown_uri()} (steps mid_train, sft, rl):"
        f" run {first_command(study, 'sft')}"
    )


def register_at_end(study: str, executions: list[str]) -> str:
    """`register` for the end of a run, whose study is finished whatever comes of it: what to print,
    "" where no chat model was trained. The executions are tagged `registered` with it.
    """
    try:
        chosen = best_of(executions)
        if chosen is None:
            return ""
        line = _register(study, chosen)
    # a full disk, a server away, a checkpoint removed: said, since every step is finished
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        line = f"not registered ({why}); try again with python -m nanolab register {study}"
    for execution in executions:
        run_writer.set_tag(execution, "registered", line)
    return line


def _register(study: str, chosen: Choice) -> str:
    from nanolab.model.checkpoint import WEIGHTS

    def line(version: str, source: str, reason: str, made: str = "registered before") -> str:
        return f"{uri_of(study)} is version {version}: the {source} model, {reason} ({made})"

    model = next(iter(client().search_registered_models(f"name = '{study}'")), None)
    if chosen.score is None and model and ALIAS in model.aliases:
        held = client().get_model_version_by_alias(study, ALIAS)
        if (reason := held.tags["chosen"]).startswith(EVALUATED):
            reason += "; this execution evaluated none"
            return line(held.version, held.tags["source"], reason)
    if not chosen.folder.is_dir():
        raise UserError(
            f"no folder {chosen.folder}: checkpoints stay on the machine that trained them; "
            "register the model there"
        )
    weights = files.read_marker(_checkpoint_of(chosen))["files"][WEIGHTS]
    # a step run anew has the folder of the earlier one
    mark = f"{chosen.folder.name} {chosen.step or 'finished'} {weights['sha256']}"
    if model is None:
        client().create_registered_model(study, description=ABOUT.format(study))
    found = client().search_model_versions(f"name = '{study}' and tags.checkpoint = '{mark}'")
    told = [chosen.source, chosen.reason]
    if found:
        version = max((str(one.version) for one in found), key=int)
    else:
        with tempfile.TemporaryDirectory(prefix="nanolab-model-") as temporary:
            folder, step = _write_folder(chosen, Path(temporary))
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            tags = {"study": study, "source": chosen.source, "step": str(step)}
            tags |= {"checkpoint": mark, "chosen": chosen.reason}
            version = _log_version(study, chosen, folder, tags)
        told.append(f"{size / 2**20:.1f} MiB")
    client().set_registered_model_alias(study, ALIAS, version)
    return line(version, *told)


def newest(study: str) -> list[str]:
    """The newest execution with a chat model, of each seed of the study's, in their order."""
    found: dict[str, str] = {}  # seed -> execution
    seeds = None  # as the newest execution has them
    for run in run_reader.executions(study):
        own, seed = run.params.get("seeds", "[]"), run.params.get("seed", "")
        if seeds in (None, own) and seed not in found and best(run.id):
            found[seed], seeds = run.id, own
            if len(json.loads(seeds)) < 2:
                break
    order = [str(seed) for seed in json.loads(seeds or "[]")]
    return [found[seed] for seed in sorted(found, key=[*order, *found].index)]


def best_of(executions: list[str]) -> Choice | None:
    """The chat model to register of several executions, each of another seed, if any."""
    found = {execution: choice for execution in executions if (choice := best(execution))}
    if len(found) < 2:
        return next(iter(found.values()), None)
    seeds = [str(run_reader.record(execution).params.get("seed")) for execution in found]
    ranks = [float("-inf") if one.score is None else one.score for one in found.values()]
    place = ranks.index(max(ranks))  # the first of equals
    seed, chosen = seeds[place], list(found.values())[place]
    which = "first" if chosen.score is None else "best"
    of = f"of seed {seed}, the {which} of seeds {', '.join(seeds)}"
    return replace(chosen, reason=f"{chosen.reason}, {of}")


def best(execution: str) -> Choice | None:
    """The chat model of an execution to register, if any."""
    runs = step_runs(execution)
    scores = {}
    for source in STAGES:
        run = runs.get(f"chat_eval_{source}")
        if run and (row := results.first(rows_of(run), metric="chat_core")):
            scores[source] = row.value
    if scores:
        source = max(scores, key=scores.get)  # the first of equals: the last trained
        run = runs[f"chat_eval_{source}"]
        number = run.params.get("step", "None")
        step = None if number == "None" else int(number)
        folder = files.MLRUNS / run.tags[f"input.{SOURCE_STEPS[source]}"]
        trained = runs.get(SOURCE_STEPS[source], run)
        reason = f"{EVALUATED} ({scores[source]:.4f}) of {', '.join(reversed(scores))}"
        return Choice(source, trained, folder, step, reason, scores[source])
    for source in STAGES:
        if run := runs.get(SOURCE_STEPS[source]):
            folder = files.MLRUNS / run.tags["work_folder"]
            return Choice(source, run, folder, None, "the last one trained, none evaluated")
    return None


def _log_version(name: str, chosen: Choice, model: Path, tags: dict[str, Any]) -> str:
    """Copies a model folder into the store, as a model that the training run made and a version."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    store, run = client(), chosen.run
    logged = store.create_logged_model(
        run.experiment_id,
        name=f"{name}-{chosen.source}",
        source_run_id=run.id,
        tags=tags,
        model_type="chat",
    )
    store.log_model_artifacts(logged.model_id, str(model))
    store.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    store.log_outputs(run.id, [LoggedModelOutput(logged.model_id, 0)])
    text = (
        f"The {chosen.source} model: {chosen.reason}. Serve it: `mlflow models serve -m"
        f" {uri_of(name)} --env-manager local`, then POST to /invocations:"
        f" `{json.dumps(USAGE)}`."
    )
    # not models:/ID, for which MLflow asks the process's default store instead of this client's
    version = store.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run.id,
        tags=tags,
        description=text,
        model_id=logged.model_id,
    )
    return str(version.version)


# ---- the folder of a model, as MLflow keeps it


def _write_folder(chosen: Choice, folder: Path) -> tuple[Path, int]:
    """Writes MLflow's model folder below `folder`, with the weights but no optimizer state, the
    tokenizer and the package; returns it and the checkpoint's step.
    """
    from mlflow import pyfunc

    from nanolab.model import checkpoint

    bundle, model = folder / "bundle", folder / "model"
    source = _checkpoint_of(chosen)
    facts = files.verify_complete(source)
    weights = checkpoint.step_folder(bundle / "checkpoints", facts["step"])
    weights.mkdir(parents=True)
    shutil.copyfile(source / checkpoint.WEIGHTS, weights / checkpoint.WEIGHTS)
    files.mark_complete(weights, [checkpoint.WEIGHTS], **facts)
    tok_train = read_job(chosen.folder / artefacts.JOB).inputs["tok_train"]
    shutil.copytree(
        artefacts.verified(tok_train, artefacts.TOKENIZER), bundle / artefacts.TOKENIZER
    )
    named = {"source": chosen.source, "run": chosen.run.id, "step": facts["step"]}
    files.write_json(bundle / "model.json", named)
    package = files.ROOT / "nanolab"
    lines = (files.ROOT / "requirements.lock").read_text().splitlines()
    pinned = {line.split("==")[0].lower(): line.strip() for line in lines if "==" in line}
    with warnings.catch_warnings():
        # it would only repeat the signature
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        pyfunc.save_model(
            str(model),
            python_model=str(package / "export" / "served_model.py"),
            artifacts={"model": str(bundle)},
            code_paths=[str(package)],
            signature=_signature(),
            pip_requirements=[pinned[name.lower()] for name in REQUIREMENTS],
        )
    shutil.rmtree(bundle)
    for cache in model.rglob("__pycache__"):
        shutil.rmtree(cache)
    return model, facts["step"]


def _checkpoint_of(chosen: Choice) -> Path:
    from nanolab.model import checkpoint

    require_finished(chosen.folder)
    require_finished(read_job(chosen.folder / artefacts.JOB).inputs["tok_train"])
    step = artefacts.require_checkpoint(chosen.folder, chosen.step)
    return checkpoint.find(chosen.folder / artefacts.CHECKPOINTS, step)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema

    from nanolab.chat.answer import ChatSettings

    message = Object([Property("role", "string"), Property("content", "string")])
    prompt = ColSpec("string", "prompt", required=False)
    messages = ColSpec(Array(message), "messages", required=False)
    settings = [
        ParamSpec(one.name, KINDS[type(one.default)], one.default)
        for one in dataclasses.fields(ChatSettings)
    ]
    return ModelSignature(inputs=Schema([prompt, messages]), params=ParamSchema(settings))
