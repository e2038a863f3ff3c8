"""Verdicts of this lab beside those of EleutherAI's harness: the same model, the same examples.

ARC-Easy (a local folder's allenai/ai2_arc), HellaSwag and LAMBADA (its CORE bundle). Their side is
the harness's own model class and its own tasks' prompts; every verdict that differs is listed with
how far apart the log-probabilities (nats) are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

ARC = {
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "doc_to_choice": "{{choices.text}}",
    "output_type": "multiple_choice",
}
HELLASWAG = {
    "doc_to_text": "{{query}}",
    "doc_to_target": "{{gold}}",
    "doc_to_choice": "choices",
    "output_type": "multiple_choice",
}
LAMBADA = {
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' ' + continuation}}",
    "output_type": "loglikelihood",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py lm_eval`."""
    parser.add_argument("--model", required=True, help="hf:FOLDER, wheel:NAME or gguf:FILE")
    parser.add_argument("--data", required=True, help="a local data folder")
    parser.add_argument("--examples", type=int, default=200, help="of each task")


def main(given: argparse.Namespace) -> int:
    """Prints a line a task."""
    import torch

    from nanolab.data.sources.source import open_source
    from nanolab.evals.subject import outside_subject
    from nanolab.settings.config import DataConfig

    source = open_source(DataConfig(source="local", root=given.data))
    subject = outside_subject(given.model, torch.device("cpu"))
    core = {task.name: task for task in source.core()}
    arc = source.task("arc_easy", "test")[: given.examples]
    tasks = [
        ("arc_easy", arc, ARC, lambda rows: own_choices(subject, rows)),
        *(
            (name, core[name].rows[: given.examples], form, own_core(subject, core[name]))
            for name, form in (("hellaswag_zeroshot", HELLASWAG), ("lambada_openai", LAMBADA))
        ),
    ]
    for name, rows, form, own in tasks:
        theirs = harness_verdicts(given.model, name, rows, form)
        print(json.dumps({"task": name} | compared(own(rows), theirs)), flush=True)
    return 0


def compared(own: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many verdicts agree, and the largest difference of a log-probability."""
    assert len(own) == len(theirs), f"{len(own)} and {len(theirs)} examples"
    found: dict[str, Any] = {"examples": len(own)}
    for rule in theirs[0]["verdicts"]:
        pairs = [(a["verdicts"][rule], b["verdicts"][rule]) for a, b in zip(own, theirs)]
        found[rule] = {
            "ours": sum(a for a, _ in pairs),
            "theirs": sum(b for _, b in pairs),
            "different": [i for i, (a, b) in enumerate(pairs) if a != b],
        }
    apart = [abs(x - y) for a, b in zip(own, theirs) for x, y in zip(a["log_p"], b["log_p"])]
    return found | {"largest_difference_nats": max(apart)}


def own_choices(subject: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours, on a chat task's rows in the continuation form."""
    from nanolab.dist import World
    from nanolab.evals import chat_tasks
    from nanolab.evals.asking import Asking
    from nanolab.evals.base import Records
    from nanolab.evals.problems import Problems

    asking = Asking(
        subject.tokenizer,
        None,
        subject.scorer,
        subject.context,
        "bench",
        0,
        1,
        choice_form="continuation",
    )
    with tempfile.TemporaryDirectory() as folder:
        device = subject.model.device
        world = World(0, 1, device, subject.model.dtype)
        problems = Problems("arc_easy", rows, asking, Records(world, Path(folder)))
        records = chat_tasks.evaluate(problems).records
    return [
        {
            "verdicts": {"acc": record["passed"], "acc_norm": record["passed_norm"]},
            "log_p": record["log_p"],
        }
        for record in records
    ]


def own_core(subject: Any, task: Any) -> Any:
    """Ours, on the rows of a CORE task: a function of them."""
    from nanolab.evals import core

    def encode(text: str) -> list[int]:
        return [*subject.tokenizer.start, *subject.tokenizer.encode(text)]

    reader = core.Reader(subject.scorer, encode, subject.context)

    def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        core.evaluate_task(reader, task, rows, range(len(rows)), records.append)
        ordered = sorted(records, key=lambda record: record["index"])
        if task.kind == "language_modeling":
            return [{"verdicts": {"acc": r["passed"]}, "log_p": r["log_p"]} for r in ordered]
        return [
            {
                "verdicts": {"acc": r["passed_sum"], "acc_norm": r["passed_norm"]},
                "log_p": r["whole_log_p"],
            }
            for r in ordered
        ]

    return verdicts


def harness_verdicts(
    model: str, name: str, rows: list[dict[str, Any]], form: dict[str, Any]
) -> list[dict[str, Any]]:
    """The harness's, on the same rows, zero shots."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from nanolab.inference.hf_loading import folder_of

    rules = ["acc"] if form["output_type"] == "loglikelihood" else ["acc", "acc_norm"]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "rows.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = {
            "task": f"{name}_local",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "num_fewshot": 0,
            "metric_list": [{"metric": rule} for rule in rules],
            **form,
        }
        loaded = HFLM(
            pretrained=str(folder_of(model)), dtype="float32", device="cpu", batch_size=16
        )
        found = lm_eval.simple_evaluate(
            model=loaded, tasks=[task], log_samples=True, bootstrap_iters=0
        )
    samples = sorted(found["samples"][f"{name}_local"], key=lambda sample: sample["doc_id"])
    return [
        {
            "verdicts": {rule: bool(sample[rule]) for rule in rules},
            "log_p": [float(answer[0]) for answer in sample["filtered_resps"]],
        }
        for sample in samples
    ]
