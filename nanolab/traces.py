"""Traces of a few generations of a finished step, for the Traces tab of MLflow: how an answer came about, with its tool calls.

Made from the records that power_eval and chat_eval steps leave in their work folders, when the courier has delivered everything else:
the stage itself does nothing for them. The problems of a step are drawn together in one batch, so a span has no wall time of its own;
its length is its cost instead, one millisecond for each token position forwarded (power sampling) or token drawn (other answers).
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

from nanolab import tracking
from nanolab.calculator import CALL
from nanolab.journal import artifact_file

PROBLEMS = 3  # the first ones of a step
MARKDOWN = re.compile(r"[*_#<>`~|\[\]\\$\n]|^\s|^[-+] |^\d+[.)]")  # what it might read as markup


@dataclass
class Span:
    """A part of a generation; `length` in milliseconds, which stand for its cost; the parts of `inside` follow each other."""

    name: str
    kind: str  # CHAIN, LLM or TOOL
    length: int
    inputs: Any
    outputs: Any
    inside: list[Span] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generation:
    """How one problem was answered; `passed` and `expected` None where nothing was graded."""

    root: Span
    passed: bool | None = None
    expected: str | None = None


def deliver(folder: Path, run_id: str) -> int:
    """Logs the first generations of a finished step's work folder as traces of its run; returns how many there are."""
    found = power_generations(folder) or sampled_generations(folder)
    if found:
        _log(run_id, found)
    return len(found)


def power_generations(folder: Path) -> list[Generation]:
    """The first chain of each of the first problems of a power_eval step (chains.jsonl): the first draw, then each of its steps."""
    path = folder / "chains.jsonl"
    return (
        [_chain(chain) for chain in _lines(path, PROBLEMS, lambda chain: chain["chain"] == 0)]
        if path.is_file()
        else []
    )


def _chain(chain: dict[str, Any]) -> Generation:
    """With several blocks, the steps of the earlier ones stand inside of the first span, whose text the last block began with."""
    drawing = chain["positions"] - sum(
        step["positions"] for step in chain["steps"]
    )  # with several blocks, drawing on after each too
    steps = [_step(number, step) for number, step in enumerate(chain["steps"], 1)]
    before = len(steps) - (
        len(chain["log_p_by_step"]) - 1
    )  # log_p_by_step, as first, is of the last block
    earlier, cost = steps[:before], drawing + sum(span.length for span in steps[:before])
    spans = [
        Span(
            "earlier blocks" if earlier else "first draw",
            "CHAIN" if earlier else "LLM",
            cost,
            chain["question"],
            chain["first"],
            [*earlier, *tool_spans(chain["first"], drawing)],
            {"log_p": chain["log_p_by_step"][0], "positions": cost},
        ),
        *steps[before:],
    ]
    accepted = sum(step["accepted"] for step in chain["steps"])
    facts = {
        "answer": chain["answer"],
        "log_p": chain["log_p"],
        "positions": chain["positions"],
        "steps": len(chain["steps"]),
        "accepted": accepted,
    }
    root = Span(
        f"power sampling, problem {chain['index']}",
        "CHAIN",
        chain["positions"],
        chain["question"],
        chain["text"],
        spans,
        facts,
    )
    return Generation(root, chain["passed"], chain["expected"])


def _step(number: int, step: dict[str, Any]) -> Span:
    decided = (
        "accepted"
        if step["moved"]
        else "accepted, the same text"
        if step["accepted"]
        else "rejected"
    )
    if step["early_rejected"]:
        decided = "rejected before its end"
    facts = {
        key: step[key]
        for key in (
            "accepted",
            "moved",
            "early_rejected",
            "log_ratio",
            "log_u",
            "log_p",
            "positions",
        )
    }
    return Span(
        f"step {number}: {decided}",
        "LLM",
        step["positions"],
        {"cut_at_token": step["cut"], "of_tokens": step["of"]},
        {
            "proposal": step["proposal"],
            "accepted": step["accepted"],
            "log_ratio": step["log_ratio"],
        },
        tool_spans(step["proposal"], step["positions"]),
        facts,
    )


def sampled_generations(folder: Path) -> list[Generation]:
    """The first word problems among the shown samples of an evaluation (samples.json), each answered in one draw."""
    path = artifact_file(folder, "samples.json")
    records = folder / "records" / "gsm8k.jsonl"
    if not (path.is_file() and records.is_file()):
        return []
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row)) for row in table["data"]]
    graded = {one["index"]: one for one in _lines(records, PROBLEMS)}
    found = []
    for row in [row for row in rows if row["task"] == "gsm8k" and row["index"] in graded][
        :PROBLEMS
    ]:
        record = graded[row["index"]]
        facts = {key: record[key] for key in ("answer", "log_p", "tokens") if key in record}
        asked, text, tokens = row["prompt"], row["completion"], record["tokens"]
        draw = Span("answer", "LLM", tokens, asked, text, tool_spans(text, tokens), facts)
        root = Span(f"answer, problem {row['index']}", "CHAIN", tokens, asked, text, [draw], facts)
        found.append(Generation(root, record["passed"], record.get("expected")))
    return found


def tool_spans(text: str, length: int) -> list[Span]:
    """The tool calls of a text, each with its output (None: the text ends first)."""
    calls = []
    for call in CALL.findall(text):
        asked, mark, output = call.rpartition("=")
        calls.append((asked, output) if mark else (call, None))
    return [
        Span("calculator", "TOOL", max(1, length // (2 * len(calls))), call, output)
        for call, output in calls
    ]


def fenced(value: Any) -> Any:
    """`value` with those of its texts that Markdown would change as blocks of plain text: the UI reads inputs and outputs as Markdown,
    which eats the stars of a product. Others stay as they are, since the UI breaks the lines of a block nowhere.
    """
    if isinstance(value, dict):
        return {key: fenced(one) for key, one in value.items()}
    if not isinstance(value, str) or not MARKDOWN.search(value):
        return value
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", value)), default=0))
    return f"{fence}text\n{value}\n{fence}"


def _lines(
    path: Path, count: int, wanted: Callable[[dict[str, Any]], bool] = lambda record: True
) -> list[dict[str, Any]]:
    """The first `count` wanted records of a file."""
    with open(path, encoding="utf-8") as file:
        return list(itertools.islice(filter(wanted, map(json.loads, file)), count))


# ---- MLflow's form


def _log(run_id: str, generations: list[Generation]) -> None:
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.entities.trace_info import TraceInfo
    from mlflow.entities.trace_location import TraceLocation
    from mlflow.entities.trace_state import TraceState
    from mlflow.tracing.client import TracingClient

    run = tracking.client().get_run(run_id)
    experiment, step = run.info.experiment_id, run.data.tags.get("step", run.info.run_name)
    client = TracingClient(tracking.store_uri())
    source = AssessmentSource("CODE", "nanolab")
    for number, generation in enumerate(generations):
        mark = hashlib.sha256(f"{run_id} {number}".encode()).hexdigest()
        root, trace_id = generation.root, f"tr-{mark[:32]}"
        graded = (
            []
            if generation.passed is None
            else [
                Feedback(
                    name="passed",
                    value=generation.passed,
                    source=source,
                    trace_id=trace_id,
                    rationale=f"expected {generation.expected}",
                )
            ]
        )
        client.start_trace(
            TraceInfo(
                trace_id,
                TraceLocation.from_experiment_id(experiment),
                run.info.start_time,
                TraceState.OK,
                json.dumps(root.inputs),
                json.dumps(root.outputs),
                None,
                root.length,
                {"mlflow.sourceRun": run_id, "mlflow.trace_schema.version": "3"},
                {
                    "mlflow.traceName": f"{step}: {root.name}",
                    "step": step,
                    "time": "1 ms is one token position or token",
                },
                graded,
            )
        )
        client.log_spans(experiment, _spans(root, trace_id, mark, run.info.start_time * 1_000_000))


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
        made.append(
            MlflowSpan.from_dict(
                {
                    "trace_id": trace_id,
                    "span_id": own,
                    "parent_span_id": parent,
                    "name": span.name,
                    "start_time_unix_nano": begin,
                    "end_time_unix_nano": begin + span.length * 1_000_000,
                    "status": {"code": "STATUS_CODE_OK", "message": ""},
                    "attributes": {
                        key: json.dumps(value, ensure_ascii=False)
                        for key, value in attributes.items()
                    },
                }
            )
        )
        for inner in span.inside:
            add(inner, own, begin)
            begin += inner.length * 1_000_000

    add(root, "", start)
    return made
