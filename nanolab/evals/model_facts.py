"""What is recorded of a model from outside: which one it is, how it was asked, and its speed.

A model trained here needs none of it: its steps say it.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from nanolab.data.tasks.catalogue import TASKS
from nanolab.evals.asking import Asking
from nanolab.evals.base import SECONDS, Record
from nanolab.evals.evaluation import Evaluation
from nanolab.files import ROOT, read_json_lines
from nanolab.results import Score, StepResult, scalars
from nanolab.settings.model_source import identity, is_outside, title

SPEED = "speed.json"  # artifact of a step's run: how long each part of its work took
WEIGHTS = (".safetensors", ".bin", ".gguf")
SHOWN = 300  # characters of a system prompt that stand in the facts; the settings have all
PACKAGES = {"nanolab": "transformers", "vllm": "vllm"}  # engine -> what it runs the model with
Row = dict[str, Any]


def of_outside(evaluation: Evaluation, asking: Asking) -> StepResult:
    """What a step adds to its result when its model is from outside, else nothing: the fact
    "model" (`described`) and rows of its speed, whose parts are recorded as the table SPEED.
    """
    subject = evaluation.subject
    if not is_outside(subject.source):
        return StepResult()
    parts = speed(evaluation.job.folder / "records")
    if parts:
        evaluation.run.table(parts, SPEED)
    facts = described(subject, asking, evaluation.job.config)
    evaluation.run.params({f"model.{key}": value for key, value in facts.items()})
    return StepResult(rates(parts), {"model": facts})


def described(subject: Any, asking: Asking, config: Any) -> Row:
    """Which model it is (`name`, `source`, `files`, `architecture`, `parameters`, `vocabulary`,
    `context` in tokens) and how it was asked (`engine`, `runs_on`, `dtype`, `prompt`,
    `system_prompt`, `stop_tokens`, `note`, `num_shots`, `choice_form`, `max_new_tokens`,
    `has_tools`).
    """
    tokenizer = subject.tokenizer
    tasks = getattr(config, "tasks", None) or [config.task]
    notes = [TASKS[task].form.note for task in tasks if TASKS[task].form.note]
    package = PACKAGES[config.engine]
    prompt = config.system_prompt or ""
    return {
        "name": title(subject.source),
        "source": subject.source,
        "files": files_of(subject.source, subject.folder),
        "architecture": subject.architecture,
        "parameters": subject.parameters,
        "vocabulary": tokenizer.vocab_size,
        "context": subject.context,
        "engine": config.engine,
        "runs_on": f"{package} {importlib.metadata.version(package)}",
        "dtype": subject.dtype,
        "prompt": "plain text" if asking.plain else "its chat template",
        "system_prompt": prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}...",
        "stop_tokens": [tokenizer.decode([token]) for token in sorted(tokenizer.end_tokens)],
        "note": "; ".join(dict.fromkeys(notes)) if asking.noted else "",
        "num_shots": asking.num_shots,
        "choice_form": asking.choice_form,
        "max_new_tokens": asking.max_new_tokens,
        "has_tools": bool(tokenizer.has_tools),
    }


def files_of(source: str, folder: Path) -> str:
    """What tells the weights from others of the same name: the hub's revision and commit, or the
    weight files with the start of their SHA-256 (of those of 1 GiB and more their size).
    """
    kind, *facts = json.loads(identity(source, ROOT))
    if kind == "hub":
        commit = folder.name
        return f"revision {facts[1]}" + (f", commit {commit}" if len(commit) == 40 else "")
    if kind == "wheel":
        version, digest, file, *_ = facts
        return f"{Path(file).name} of version {version}, SHA-256 of the wheel {digest[:12]}"
    found = [facts[0]] if kind == "gguf" else facts[0]
    return ", ".join(
        f"{name} {f'SHA-256 {digest[:12]}' if digest else f'{size:,} bytes'}"
        for name, size, digest in found
        if name.endswith(WEIGHTS)
    )


# ---- speed


def speed(folder: Path) -> list[Row]:
    """Of a folder of records a row for each part of the work: part, problems, seconds (grading
    included), positions forwarded, and tokens of its answers; None where records do not say.

    Problems whose attempt was killed have records and no time: they count on neither side.
    """
    path = folder / SECONDS
    found: dict[str, Row] = {}
    for line in read_json_lines(path) if path.is_file() else []:
        part = line["part"]
        records = read_json_lines(folder / f"{part}.jsonl")
        own = [records[index] for index in line["indexes"] if index < len(records)]
        sums = [work_of(record) for record in own]
        row = {"part": part, "problems": len(own), "seconds": line["seconds"]}
        for place, name in enumerate(("tokens", "positions")):
            each = [one[place] for one in sums]
            row[name] = None if None in each else sum(each)
        before = found.get(part)
        found[part] = row if before is None else _joined(before, row)
    return list(found.values())


def _joined(first: Row, second: Row) -> Row:
    joined = {"part": first["part"]}
    for key in ("problems", "seconds", "tokens", "positions"):
        each = first[key], second[key]
        joined[key] = None if None in each else sum(each)
    return joined


def work_of(record: Record) -> tuple[int | None, int | None]:
    """Tokens of all answers that a record is of, and token positions forwarded for them; None where
    the record does not have all: of chains and particles the tokens that were thrown away.
    """
    if record.get("answers", 1) > 1:  # the first of several is kept alone
        return None, None
    if "samples" in record:
        drawn = record["samples"]
        return sum(one["tokens"] for one in drawn), sum(one["positions"] for one in drawn)
    if "chains" in record:
        return None, sum(chain["positions"] for chain in record["chains"])
    if "least_share" in record or "weighed" in record:  # of particles, of rollouts
        return None, record["positions"]
    tokens = record.get("tokens")
    if isinstance(tokens, list):  # of continuations that were scored, not written
        return None, None
    return tokens, record.get("positions")


def rates(parts: list[Row]) -> list[Score]:
    """Tokens of answers and positions a second, over the parts that know theirs."""
    found = {}
    for key in ("tokens", "positions"):
        known = [part for part in parts if part[key] is not None]
        seconds = sum(part["seconds"] for part in known)
        if seconds > 0:
            found[f"{key}_per_second"] = sum(part[key] for part in known) / seconds
    return scalars(**found)
