"""`python scripts/bench.py hf --model FOLDER`: the transformers engine beside transformers' own
`generate`, one JSON line a comparison.

Both answer the same prompts greedily, as many tokens each, in turn in one process on one thread;
ratios are medians over the turns. Peak memory is that of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanolab.inference.hf_engine import HFLanguageModel, HFScorer
from nanolab.inference.hf_loading import load
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import LanguageModel
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("ours", "generate")
Prompts = list[list[int]]
Times = dict[str, list[tuple[float, float]]]


class Bench:
    """A model with both ways to ask it."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self.given = given
        self.model, self.tokenizer = load(f"hf:{given.model}", torch.device("cpu"))
        self.model.to(getattr(torch, given.dtype))
        self.model.generation_config.eos_token_id = None  # all complete their tokens

    def prompts(self, rows: int) -> Prompts:
        """Random prompts of half to one and a half times the asked length."""
        draw = random.Random(rows)
        length, vocab_size = self.given.prompt, self.tokenizer.vocab_size
        lengths = [draw.randint(length // 2, length * 3 // 2) for _ in range(rows)]
        return [[draw.randrange(vocab_size) for _ in range(one)] for one in lengths]

    def ours(self, prompts: Prompts, lm: LanguageModel) -> list[list[int]]:
        batch = Batch(prompts, 0, "bench", rows=len(prompts))
        sampling = Sampling(temperature=0.0, top_k=None, max_new_tokens=self.given.new)
        return [completions[0].tokens for completions in generate(lm, batch, sampling)]

    def language_model(self, prompts: Prompts) -> LanguageModel:
        longest = max(map(len, prompts)) + self.given.new
        lm = HFLanguageModel(self.model, self.tokenizer, rows=len(prompts), max_length=longest)
        lm.end_tokens = frozenset()
        return lm

    @torch.no_grad()
    def generate(self, prompts: Prompts) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        out = self.model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            do_sample=False,
            use_cache=True,
            max_new_tokens=self.given.new,
            pad_token_id=0,
        )
        return out[:, longest:].tolist()

    def decoding(self, rows: int) -> None:
        """Prompts and new tokens of `rows` rows."""
        prompts = self.prompts(rows)
        lm = self.language_model(prompts)
        times, answers = in_turn(
            {"ours": lambda: self.ours(prompts, lm), "generate": lambda: self.generate(prompts)},
            self.given.repeats,
        )
        equal = sum(one == other for one, other in zip(*answers, strict=True))
        emit(
            f"decode {rows} rows, prompts of about {self.given.prompt}, {self.given.new} new",
            times,
            rows_of_equal_tokens=equal,
        )

    def scoring(self, examples: int) -> None:
        """Four continuations of each prompt, against the same rows without a shared beginning."""
        prompts = self.prompts(examples)
        rows = [[*prompt, 7 + choice, 8, 9, 10] for prompt in prompts for choice in range(4)]
        spans = [(len(row) - 4, len(row)) for row in rows]
        scorer = HFScorer(self.model)
        times, _ = in_turn(
            {
                "ours": lambda: scorer.score(rows, spans, [4] * examples),
                "rows alone": lambda: scorer.score(rows, spans),
            },
            self.given.repeats,
        )
        emit(f"score {examples} examples of 4 choices", times)

    def memory(self, rows: int) -> None:
        """Peak memory of a process that loads the model and answers."""
        command = [sys.executable, __file__, "--memory", "--model", self.given.model]
        for name in ("prompt", "new", "dtype"):
            command += [f"--{name}", str(getattr(self.given, name))]
        peaks = {}
        for side in SIDES:
            more = ["--rows", str(rows), "--side", side]
            done = subprocess.run(
                [*command, *more],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            peaks[side] = json.loads(done.stdout)
        ratio = round(peaks["ours"] / peaks["generate"], 3)
        print(json.dumps({"what": f"peak MiB, {rows} rows", **peaks, "ratio": ratio}), flush=True)


def in_turn(sides: dict[str, Callable[[], Any]], repeats: int) -> tuple[Times, list[Any]]:
    """(processor, wall) seconds of each side, by turn, after one turn that is not counted; and what
    each side's last turn returned.
    """
    times: Times = {side: [] for side in sides}
    for turn in range(repeats + 1):
        answers = []
        for side, work in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            answers.append(work())
            seconds = time.process_time() - processor, time.perf_counter() - wall
            times[side] += [seconds] if turn else []
    return times, answers


def emit(what: str, times: Times, **more: object) -> None:
    """A line: how many times faster the first side is, by processor and by wall seconds."""
    ours, other = times.values()
    line: dict[str, object] = {"what": what}
    for column, name in enumerate(("processor", "wall")):
        ratios = [theirs[column] / own[column] for own, theirs in zip(ours, other)]
        line[f"{name}_ratio"] = round(statistics.median(ratios), 3)
        for side, seconds in times.items():
            line[f"{name}_seconds_{side}"] = [round(one[column], 2) for one in seconds]
    print(json.dumps(line | more), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a folder that save_pretrained wrote")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--prompt", type=int, default=100, help="tokens of a prompt, about")
    parser.add_argument("--new", type=int, default=64, help="tokens that each row decodes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


def main(given: argparse.Namespace) -> int:
    bench = Bench(given)
    for rows in given.rows:
        bench.decoding(rows)
    bench.scoring(max(given.rows))
    bench.memory(max(given.rows))
    return 0


def measure_memory() -> None:
    """The process that `Bench.memory` starts: prints the peak in MiB."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=SIDES)
    given = parser.parse_args()
    bench = Bench(given)
    prompts = bench.prompts(given.rows[0])
    if given.side == "ours":
        bench.ours(prompts, bench.language_model(prompts))
    else:
        bench.generate(prompts)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


if __name__ == "__main__":
    measure_memory()
