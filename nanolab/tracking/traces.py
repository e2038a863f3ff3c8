"""Traces of a few generations of a finished step, for the Traces tab of MLflow.

Made from the records in the step's work folder; the stage itself does nothing for them. Problems
are drawn together in one batch, so a span has no wall time: its length is its cost, a millisecond
for each token position forwarded (power sampling) or token drawn (other answers).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab.sandbox.calculator import CALL
from nanolab.tracking import run_reader
from nanolab.tracking.address import store_uri
from nanolab.tracking.faults import GuardedClient
from nanolab.tracking.journal import artifact_file

PROBLEMS = 3  # the first ones of a step
STEP_FACTS = (
    "accepted", "moved", "early_rejected", "log_ratio", "log_u", "log_p", "positions",
)  # fmt: skip
MARKDOWN = re.compile(r"[*_#<>`~|\[\]\\$\n]|^\s|^[-+] |^\d+[.)]")  # what it might read as markup


@dataclass
class Span:
    """A part of a generation; the parts of `inside` follow each other."""

    name: str
    kind: str  # CHAIN, LLM or TOOL
    length: int  # in milliseconds, which stand for its cost
    inputs: Any
    outputs: Any
    inside: list[Span] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    passed: bool | None = None  # of a whole generation that was graded
    expected: str | None = None


def deliver(folder: Path, run_id: str) -> None:
    """Logs the first generations of a finished step as traces of its run."""
    if found := power_generations(folder) or sampled_generations(folder):
        _log(run_id, found)


def power_generations(folder: Path) -> list[Span]:
    """The first chain of each of the first problems of a power_eval step (chains.jsonl)."""
    path = folder / "chains.jsonl"
    if not path.is_file():
        return []
    return [_chain(chain) for chain in _lines(path, lambda chain: chain["chain"] == 0)]


def _chain(chain: dict[str, Any]) -> Span:
    """With several blocks the steps of the earlier ones stand inside of the first span, whose text
    the last block began with.
    """
    steps = [_step(number, step) for number, step in enumerate(chain["steps"], 1)]
    drawing = chain["positions"] - sum(span.length for span in steps)
    before = len(steps) - (len(chain["log_p_by_step"]) - 1)  # log_p_by_step is of the last block
    earlier = steps[:before]
    cost = drawing + sum(span.length for span in earlier)
    asked, text = chain["question"], chain["first"]
    first = Span(
        "earlier blocks" if earlier else "first draw",
        "CHAIN" if earlier else "LLM",
        cost,
        asked,
        text,
        [*earlier, *tool_spans(text, drawing)],
        {"log_p": chain["log_p_by_step"][0], "positions": cost},
    )
    facts = {key: chain[key] for key in ("answer", "log_p", "positions")}
    facts |= {"steps": len(steps), "accepted": sum(one["accepted"] for one in chain["steps"])}
    return Span(
        f"power sampling, problem {chain['index']}",
        "CHAIN",
        chain["positions"],
        asked,
        chain["text"],
        [first, *steps[before:]],
        facts,
        chain["passed"],
        chain["expected"],
    )


def _step(number: int, step: dict[str, Any]) -> Span:
    if step["early_rejected"]:
        decided = "rejected before its end"
    elif step["moved"]:
        decided = "accepted"
    else:
        decided = "accepted, the same text" if step["accepted"] else "rejected"
    text, length = step["proposal"], step["positions"]
    asked = {"cut_at_token": step["cut"], "of_tokens": step["of"]}
    made = {"proposal": text, "accepted": step["accepted"], "log_ratio": step["log_ratio"]}
    facts = {key: step[key] for key in STEP_FACTS}
    name = f"step {number}: {decided}"
    return Span(name, "LLM", length, asked, made, tool_spans(text, length), facts)


def sampled_generations(folder: Path) -> list[Span]:
    """The first word problems among the shown samples of an evaluation (samples.json)."""
    path = artifact_file(folder, "samples.json")
    records = folder / "records" / "gsm8k.jsonl"
    if not (path.is_file() and records.is_file()):
        return []
    rows = run_reader.table_rows(path)
    graded = {one["index"]: one for one in _lines(records)}
    asked = [row for row in rows if row["task"] == "gsm8k" and row["index"] in graded]
    return [_sample(row, graded[row["index"]]) for row in asked[:PROBLEMS]]


def _sample(row: dict[str, Any], record: dict[str, Any]) -> Span:
    facts = {key: record[key] for key in ("answer", "log_p", "tokens") if key in record}
    asked, text, tokens = row["prompt"], row["completion"], record["tokens"]
    draw = Span("answer", "LLM", tokens, asked, text, tool_spans(text, tokens), facts)
    grade = {"passed": record["passed"], "expected": record.get("expected")}
    name = f"answer, problem {row['index']}"
    return Span(name, "CHAIN", tokens, asked, text, [draw], facts, **grade)


def tool_spans(text: str, length: int) -> list[Span]:
    """The tool calls of a text, each with its output (None: the text ends first)."""
    calls = CALL.findall(text)
    spans = []
    for call in calls:
        asked, mark, output = call.rpartition("=")
        given, result = (asked, output) if mark else (call, None)
        spans.append(Span("calculator", "TOOL", max(1, length // (2 * len(calls))), given, result))
    return spans


def fenced(value: Any) -> Any:
    """`value` with the texts that Markdown, as which the UI reads it, would change as blocks of
    plain text. Others stay, since a block's lines never break.
    """
    if isinstance(value, dict):
        return {key: fenced(one) for key, one in value.items()}
    if not isinstance(value, str) or not MARKDOWN.search(value):
        return value
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", value)), default=0))
    return f"{fence}text\n{value}\n{fence}"


def _lines(
    path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda record: True
) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return list(itertools.islice(filter(wanted, map(json.loads, file)), PROBLEMS))


# ---- MLflow's form


def _log(run_id: str, generations: list[Span]) -> None:
    from mlflow import entities
    from mlflow.tracing.client import TracingClient

    run = run_reader.record(run_id)
    step = run.tags.get("step", run.name)
    tracer = GuardedClient(TracingClient(store_uri()), store_uri())
    for number, root in enumerate(generations):
        mark = hashlib.sha256(f"{run_id} {number}".encode()).hexdigest()
        trace_id = f"tr-{mark[:32]}"
        grade = entities.Feedback(
            name="passed",
            value=root.passed,
            source=entities.AssessmentSource("CODE", "nanolab"),
            trace_id=trace_id,
            rationale=f"expected {root.expected}",
        )
        trace = entities.TraceInfo(
            trace_id,
            entities.TraceLocation.from_experiment_id(run.experiment_id),
            run.start,
            entities.TraceState.OK,
            json.dumps(root.inputs),
            json.dumps(root.outputs),
            execution_duration=root.length,
            trace_metadata={"mlflow.sourceRun": run.id, "mlflow.trace_schema.version": "3"},
            tags={
                "mlflow.traceName": f"{step}: {root.name}",
                "step": step,
                "time": "1 ms is one token position or token",
            },
            assessments=[] if root.passed is None else [grade],
        )
        tracer.start_trace(trace)
        spans = _spans(root, trace_id, mark, run.start * 1_000_000)
        tracer.log_spans(run.experiment_id, spans)


def _spans(root: Span, trace_id: str, mark: str, start: int) -> list[Any]:
    """MLflow's spans of a trace, the root first; `start` in nanoseconds."""
    from mlflow.entities import Span as MlflowSpan

    made: list[Any] = []

    def add(span: Span, parent: str, begin: int) -> None:
        own = hashlib.sha256(f"{mark} {len(made)}".encode()).hexdigest()[:16]
        attributes = {
            "mlflow.traceRequestId": trace_id,
            "mlflow.spanType": span.kind,
            "mlflow.spanInputs": fenced(span.inputs),
            "mlflow.spanOutputs": fenced(span.outputs),
            **span.facts,
        }
        written = {key: json.dumps(one, ensure_ascii=False) for key, one in attributes.items()}
        values = {
            "trace_id": trace_id,
            "span_id": own,
            "parent_span_id": parent,
            "name": span.name,
            "start_time_unix_nano": begin,
            "end_time_unix_nano": begin + span.length * 1_000_000,
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": written,
        }
        made.append(MlflowSpan.from_dict(values))
        for inner in span.inside:
            add(inner, own, begin)
            begin += inner.length * 1_000_000

    add(root, "", start)
    return made
