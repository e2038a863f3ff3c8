"""`python scripts/bench.py core --against CHECKOUT`: CORE beside nanochat's core_eval, one JSON
line a result.

Choices: the peer's own functions and ours judge with the same model (ours, through an adapter) and
the same tokenizer, example by example. Speed: examples a second of both, each in a process of its
own on the same pinned core, in turn; the peer runs its own GPT of the same size. The model is a d4
(4 layers, width 256, 4 heads, vocabulary 4,096) trained shortly on the folder's text, so that
choices are not all ties; it is kept under mlruns/bench_core. The data is the folder NANOLAB_DATA.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_core_model import (
    CONTEXT,
    DEPTH,
    HEADS,
    LENGTH,
    MODEL,
    ROWS,
    STEPS,
    VOCAB,
    WIDTH,
    Facts,
    data_source,
    load_model,
    train_model,
)
from bench_power import ROOT, Worker

RESULTS = ROOT / "experiments" / "results" / "core"
NEAR = 1e-4  # nats: choices closer than this may differ
# task, context (the last crops its prompts), whether every second answer is replaced by what the
# model itself would say
COMPARED = [
    ("arc_easy", CONTEXT, False),
    ("hellaswag_zeroshot", CONTEXT, False),
    ("winogrande", CONTEXT, False),
    ("lambada_openai", CONTEXT, False),
    ("lambada_openai", CONTEXT, True),
    ("bigbench_qa_wikidata", CONTEXT, False),
    ("bigbench_qa_wikidata", CONTEXT, True),
    ("bigbench_language_identification", 256, False),
]
LONG, LONG_CONTEXT = ("bigbench_language_identification", "boolq", "squad", "agi_eval_lsat_ar"), 256
SOME_EXAMPLES = 30  # of every task, with a tiny model
# task, our dtype, the peer's dtype, examples a repeat, target
TIMED = [
    ("arc_easy", "float32", "float32", 24, 5.0),
    ("lambada_openai", "float32", "float32", 160, 1.5),
    ("lambada_openai", "bfloat16", "float32", 160, 2.5),
    ("lambada_openai", "bfloat16", "bfloat16", 160, None),
]
POSITIONS = 555  # forwarded positions an ARC-Easy example at most
# what is compared, and what its model is besides the trained d4
PARTS = {
    "choices": "",
    "every_task": "; here its tokenizer, with a GPT of 2 layers, width 32 and random weights",
    "speed": "; for the peer its own GPT of that size, random weights",
}


def emit(kept: list[Facts], **facts: Any) -> None:
    print(json.dumps(facts), flush=True)
    kept.append(facts)


def rows_of(task: str, count: int) -> tuple[Any, list[Facts]]:
    """A CORE task and the `count` rows that are asked and shown, in the order of both harnesses."""
    from nanolab.evals import core

    found = next(found for found in data_source().core() if found.name == task)
    return found, core.asked_rows(found.rows, count)


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text -> ids with the document start in front."""
    return lambda text: [tokenizer.bos, *tokenizer.encode(text)]


def meta(task: Any) -> Facts:
    """A task as the peer's harness describes one."""
    return {
        "task_type": task.kind,
        "num_fewshot": task.num_fewshot,
        "continuation_delimiter": task.continuation_delimiter,
    }


class PeerTokenizer:
    """Our tokenizer with the two methods that the peer's harness calls."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
        return [[prepend, *self.tokenizer.encode(text)] for text in texts]

    def get_bos_token_id(self) -> int:
        return self.tokenizer.bos


class PeerModel:
    """Our GPT as the peer's harness calls a model: ids (B, T) -> logits (B, T, V), every position,
    by the plain forward.
    """

    def __init__(self, model: Any, context: int) -> None:
        self.model, self.max_seq_len = model, context

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.logits(self.model.trunk(ids))


def peer_harness(checkout: Path) -> Any:
    """The peer's module nanochat.core_eval."""
    if not (checkout / "nanochat" / "core_eval.py").is_file():
        raise SystemExit(f"{checkout} has no nanochat/core_eval.py; give a checkout of nanochat")
    sys.path.insert(0, str(checkout))
    return importlib.import_module("nanochat.core_eval")


def peer_examples(
    harness: Any, model: PeerModel, tokenizer: PeerTokenizer, task: Any, rows: list[Facts]
) -> list[Facts]:
    """What the peer's harness makes of each example: its token rows, the mean loss of each choice,
    its choice, whether it is right.

    Its functions run as they are; what passes between them is looked at on the way.
    """
    seen: Facts = {}
    makers = {
        name: getattr(harness, name)
        for name in ("batch_sequences_mc", "batch_sequences_schema", "batch_sequences_lm")
    }
    forward = harness.forward_model

    def looked_at(make: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            seen["batch"] = make(*arguments)
            return seen["batch"]

        return wrapped

    def forward_model(*arguments: Any) -> Any:
        seen["losses"], predictions = forward(*arguments)
        return seen["losses"], predictions

    for name, make in makers.items():
        setattr(harness, name, looked_at(make))
    harness.forward_model = forward_model
    found = []
    for index, row in enumerate(rows):
        passed = bool(
            harness.evaluate_example(index, model, tokenizer, rows, torch.device("cpu"), meta(task))
        )
        example: Facts = {"passed": passed, "ids": [], "means": []}
        for place, (ids, start, end) in enumerate(zip(*seen["batch"])):
            cut = max(0, len(ids) - model.max_seq_len)
            example["ids"].append(ids[cut:])
            example["means"].append(
                seen["losses"][place, start - cut - 1 : end - cut - 1].mean().item()
            )
        if task.kind != "language_modeling":
            example["choice"] = example["means"].index(min(example["means"]))
            assert (example["choice"] == row["gold"]) == passed
        found.append(example)
    for name, make in makers.items():
        setattr(harness, name, make)
    harness.forward_model = forward
    return found


def with_own_answers(model: Any, tokenizer: Any, task: Any, rows: list[Facts]) -> list[Facts]:
    """The rows with the model's own next word for every second continuation: a weak model, never
    right, would test half of the rule.
    """
    from nanolab.evals import core
    from nanolab.inference.gpt_engine import GPTScorer

    answered = list(rows)
    for index in range(0, len(rows), 2):
        text = core.prompts(
            task.kind,
            rows[index],
            core.few_shot_rows(rows, index, task.num_fewshot),
            task.continuation_delimiter,
        )[0]
        logits = GPTScorer(model).next_logits([encoder(tokenizer)(text)])[0]
        words = (tokenizer.decode([token]) for token in logits.argsort(descending=True).tolist())
        answered[index] = rows[index] | {
            "continuation": next(
                word.strip() for word in words if word[0] == " " and word[1:].isalpha()
            )
        }
    return answered


def our_examples(
    model: Any, tokenizer: Any, task: Any, rows: list[Facts], context: int
) -> tuple[list[Facts], float]:
    """The same of our harness, and the positions that it forwarded for each example."""
    from nanolab.evals import core
    from nanolab.inference.gpt_engine import GPTScorer

    records: list[Facts] = []
    scorer, shown = GPTScorer(model), []
    score = scorer.score

    def looked_at(ids: list[list[int]], spans: Any, sizes: list[int]) -> Any:
        first = 0
        for size in sizes:
            shown.append(ids[first : first + size])
            first += size
        return score(ids, spans, sizes)

    scorer.score = looked_at
    reader = core.Reader(scorer, encoder(tokenizer), context)
    core.evaluate_task(reader, task, rows, range(len(rows)), records.append)
    return [
        {
            "passed": record["passed"],
            "choice": record["choice"],
            "ids": ids,
            "cropped": record["cropped"],
            "means": [
                -log_p / tokens if tokens else math.nan
                for log_p, tokens in zip(record["log_p"], record["tokens"])
            ],
        }
        for record, ids in zip(records, shown, strict=True)
    ], scorer.positions / len(rows)


def compare_every_task(harness: Any, kept: list[Facts]) -> None:
    """Some examples of each task of the bundle that has data, judged by both with a tiny model of
    random weights.
    """
    from nanolab.model.gpt import GPT
    from nanolab.model.scaling import GPTConfig

    torch.manual_seed(0)
    model = GPT(GPTConfig(VOCAB, CONTEXT, 2, 32, 1, 1)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    tasks = [
        (task.name, LONG_CONTEXT if task.name in LONG else CONTEXT, False)
        for task in data_source().core()
        if task.rows
    ]
    compare_choices(harness, model, load_model()[1], tasks, SOME_EXAMPLES, kept)


def compare_choices(
    harness: Any,
    model: Any,
    tokenizer: Any,
    compared: list[tuple[str, int, bool]],
    examples: int,
    kept: list[Facts],
) -> None:
    """Every example of every compared task, judged by both."""
    for name, context, own_answers in compared:
        task, rows = rows_of(name, examples)
        rows = with_own_answers(model, tokenizer, task, rows) if own_answers else rows
        own, positions = our_examples(model, tokenizer, task, rows, context)
        peer = peer_examples(
            harness, PeerModel(model, context), PeerTokenizer(tokenizer), task, rows
        )
        differing = []
        for index, (ours, theirs) in enumerate(zip(own, peer, strict=True)):
            if (ours["passed"], ours["choice"]) != (theirs["passed"], theirs.get("choice")):
                means = theirs["means"]
                gap = (
                    abs(means[ours["choice"]] - means[theirs["choice"]])
                    if ours["choice"] is not None
                    else None
                )
                differing.append(
                    {
                        "index": index,
                        "ours": ours["choice"],
                        "theirs": theirs.get("choice"),
                        "gap_nats": gap,
                    }
                )
        gaps = [
            abs(a - b)
            for ours, theirs in zip(own, peer)
            for a, b in zip(ours["means"], theirs["means"])
            if a == a and b == b
        ]
        emit(
            kept,
            what="choices",
            task=name,
            kind=task.kind,
            num_fewshot=task.num_fewshot,
            context=context,
            own_answers=own_answers,
            examples=len(rows),
            same_prompts=sum(ours["ids"] == theirs["ids"] for ours, theirs in zip(own, peer)),
            same_choices=len(rows) - len(differing),
            differing=differing,
            largest_difference_of_a_mean_loss_nats=float(f"{max(gaps):.2g}"),
            examples_cropped=sum(ours["cropped"] > 0 for ours in own),
            accuracy=sum(ours["passed"] for ours in own) / len(rows),
            target=f"all the same, but where the choices lie within {NEAR} nats",
            met=all(
                found["gap_nats"] is not None and found["gap_nats"] < NEAR for found in differing
            ),
        )
        padded = sum(len(theirs["ids"]) * max(map(len, theirs["ids"])) for theirs in peer) / len(
            rows
        )
        limit = (
            {"target": f"at most {POSITIONS}", "met": positions <= POSITIONS}
            if name == "arc_easy"
            else {"target": None, "met": None}
        )
        emit(
            kept,
            what="forwarded positions an example",
            task=name,
            own_answers=own_answers,
            ours=round(positions, 1),
            peer=round(padded, 1),
            ratio=round(padded / positions, 2),
            **limit,
        )


def timing_worker(peer: str, dtype: str) -> dict[str, Callable[[Facts], Facts]]:
    """A worker of bench_workers.py that evaluates examples: ours, or with a checkout the peer's
    harness over the peer's own GPT.
    """
    if not peer:
        from nanolab.evals import core
        from nanolab.inference.gpt_engine import GPTScorer

        model, tokenizer, _ = load_model()
        scorer = GPTScorer(model.to(getattr(torch, dtype)))

        def evaluate(task: Any, rows: list[Facts], count: int) -> float:
            scorer.positions = 0
            reader = core.Reader(scorer, encoder(tokenizer), CONTEXT)
            core.evaluate_task(reader, task, rows, range(count), [].append)
            return scorer.positions

    else:
        os.environ["NANOCHAT_DTYPE"] = dtype
        harness = peer_harness(Path(peer))
        from nanochat.gpt import GPT, GPTConfig

        model = GPT(
            GPTConfig(
                sequence_len=CONTEXT,
                vocab_size=VOCAB,
                n_layer=DEPTH,
                n_head=HEADS,
                n_kv_head=HEADS,
                n_embd=WIDTH,
                window_pattern="L",
            )
        ).eval()
        model.init_weights()
        tokenizer, forward, positions = PeerTokenizer(load_model()[1]), model.forward, [0]

        def counting(ids: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            positions[0] += ids.numel()
            return forward(ids, *arguments, **options)

        model.forward = counting

        def evaluate(task: Any, rows: list[Facts], count: int) -> float:
            positions[0] = 0
            for index in range(count):
                harness.evaluate_example(
                    index, model, tokenizer, rows, torch.device("cpu"), meta(task)
                )
            return positions[0]

    known: dict[str, Any] = {}

    def timed(ask: Facts) -> Facts:
        if ask["task"] not in known:
            known[ask["task"]] = rows_of(ask["task"], 200)
        started = time.process_time()
        positions = evaluate(*known[ask["task"]], ask["examples"])
        return {
            "examples_per_second": ask["examples"] / (time.process_time() - started),
            "positions": positions / ask["examples"],
        }

    return {"evaluate": timed}


def compare_speed(checkout: Path, repeats: int, kept: list[Facts]) -> None:
    """Examples a second (CPU seconds of one pinned core), rendering and tokenizing included; the
    median of the ratios of turns.
    """
    for task, dtype, peer_dtype, count, target in TIMED:
        with Worker(f"core-{dtype}", 1) as ours, Worker(f"core-{peer_dtype}", 1, checkout) as peer:
            own, other = [], []
            for repeat in range(repeats + 1):
                for worker, found in ((ours, own), (peer, other)):
                    facts = worker.ask(work="evaluate", task=task, examples=count if repeat else 4)
                    found += [facts] if repeat else []
        ratios = [a["examples_per_second"] / b["examples_per_second"] for a, b in zip(own, other)]
        ratio = statistics.median(ratios)
        emit(
            kept,
            what="examples a second",
            task=task,
            ours_dtype=dtype,
            peer_dtype=peer_dtype,
            examples=count,
            ours=round(statistics.median(a["examples_per_second"] for a in own), 2),
            peer=round(statistics.median(b["examples_per_second"] for b in other), 2),
            ratio=round(ratio, 2),
            ratios=[round(one, 2) for one in ratios],
            ours_positions=own[0]["positions"],
            peer_positions=other[0]["positions"],
            target=target and f"at least {target}",
            met=target and ratio >= target,
        )


def processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    )
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def commit_of(folder: Path) -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", type=Path, required=True, metavar="CHECKOUT", help="of nanochat"
    )
    parser.add_argument("--only", choices=tuple(PARTS), help="one of the comparisons")
    parser.add_argument(
        "--examples", type=int, default=200, help="examples a task whose choices are compared"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed turns")


def main(arguments: argparse.Namespace) -> int:
    if "NANOLAB_DATA" not in os.environ:
        raise SystemExit("set NANOLAB_DATA to a folder with text/, chat/ and core/")
    checkout, commit = arguments.against.resolve(), commit_of(ROOT)
    harness = peer_harness(checkout)
    if not (MODEL / "checkpoints").is_dir():
        train_model()
    results: dict[str, list[Facts]] = {part: [] for part in PARTS}
    if arguments.only in (None, "choices"):
        compare_choices(
            harness, *load_model()[:2], COMPARED, arguments.examples, results["choices"]
        )
    if arguments.only in (None, "every_task"):
        compare_every_task(harness, results["every_task"])
    if arguments.only in (None, "speed"):
        compare_speed(checkout, arguments.repeats, results["speed"])
    RESULTS.mkdir(parents=True, exist_ok=True)
    facts = load_model()[2]
    for part, lines in results.items():
        if lines:
            record = {
                "command": f"python scripts/bench.py core --against CHECKOUT --only {part}",
                "date": time.strftime("%Y-%m-%d"),
                "commit": commit,
                "peer": f"nanochat {commit_of(checkout)}",
                "processor": processor(),
                "torch": torch.__version__,
                "model": (
                    f"d{DEPTH}, width {WIDTH}, {HEADS} heads, vocabulary {VOCAB}; {STEPS} steps of"
                    f" {ROWS * LENGTH} tokens of the folder's text, last loss {facts['loss']:.2f}"
                    + PARTS[part]
                ),
                "results": lines,
            }
            (RESULTS / f"{part}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(line["met"] is not False for lines in results.values() for line in lines) else 1
