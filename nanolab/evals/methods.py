"""Ways of drawing an answer to a word problem, compared on the same problems: single samples, n samples, power sampling.

Every method keeps one record a problem, so each can be resumed by itself and any two can be paired. A graded completion is
{passed, answer, expected, text, tokens, log_p (nats), positions (token positions forwarded for it)}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanolab import scheduler
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals.base import Done, Record, mcnemar, run_examples, wilson
from nanolab.evals.chat_tasks import grade_problem
from nanolab.samplers import baselines, power_mh

STRETCH = 16  # batches of samples between two writes of records: little is lost to a kill, little to half-empty batches


@dataclass(frozen=True)
class Problems:
    """The word problems of a comparison and the model that is asked; `stage` and `seed` address every random number."""

    world: World
    folder: Path
    tokenizer: Tokenizer
    language_model: Any  # generation.LanguageModel
    rows: Sequence[dict[str, Any]]
    prompts: Sequence[list[int]]
    stage: str
    seed: int
    max_new_tokens: int
    batch_rows: int
    say: Callable[[str], None]

    def grade(self, index: int, completion: Any) -> Record:
        """A graded completion of problem `index`."""
        return grade_problem(self.tokenizer, self.rows[index], completion) | {"positions": completion.positions}

    def run(self, method: str, evaluate: Callable[[list[int], Done], None]) -> list[Record]:
        """The records of a method on every problem, those on disk included."""
        return run_examples(self.world, self.folder, method, len(self.rows), evaluate, self.say)

    def generate(self, indexes: Sequence[int], temperature: float, top_k: int | None, samples: int = 1, **more: Any) -> Any:
        """Completions of the problems `indexes` from the engine."""
        return scheduler.generate(
            self.language_model, [self.prompts[i] for i in indexes], temperature=temperature, top_k=top_k, seed=self.seed,
            max_new_tokens=self.max_new_tokens, stage=self.stage, samples_per_prompt=samples, batch_rows=self.batch_rows,
            examples=list(indexes), **more)


def single(problems: Problems, method: str, temperature: float, top_k: int | None) -> list[Record]:
    """One completion a problem (temperature 0: greedy); a record is the graded completion."""
    def evaluate(indexes: list[int], done: Done) -> None:
        problems.generate(indexes, temperature, top_k, on_done=lambda place, completion: done(
            {"index": indexes[place]} | problems.grade(indexes[place], completion)))

    return problems.run(method, evaluate)


def several(problems: Problems, method: str, temperature: float, top_k: int | None, count: int) -> list[Record]:
    """`count` samples a problem; a record is the first one graded, with all of them in drawing order under "samples".

    Sample 0 is the first state of the power-sampling chain with the same temperature and top_k: results are paired.
    """
    def evaluate(indexes: list[int], done: Done) -> None:
        stretch = math.ceil(STRETCH * problems.batch_rows / count)
        for first in range(0, len(indexes), stretch):
            chosen = indexes[first:first + stretch]
            for index, completions in zip(chosen, problems.generate(chosen, temperature, top_k, count)):
                samples = [problems.grade(index, completion) for completion in completions]
                done({"index": index} | samples[0] | {"samples": samples})

    return problems.run(method, evaluate)


def best_of(records: Sequence[Record], n: int) -> list[Record]:
    """Of the first n samples of each problem, the one with the highest log p; it costs what all n cost."""
    chosen = []
    for record in records:
        samples = record["samples"][:n]
        best = max(samples, key=lambda sample: sample["log_p"])  # the first of equals
        chosen.append({"index": record["index"]} | best | {"positions": sum(sample["positions"] for sample in samples)})
    return chosen


def majority(records: Sequence[Record], n: int) -> list[Record]:
    """The most frequent answer of the first n samples of each problem (completions without an answer do not vote)."""
    chosen = []
    for record in records:
        samples = record["samples"][:n]
        answer = baselines.majority([sample["answer"] for sample in samples])
        chosen.append({"index": record["index"], "answer": answer, "expected": record["expected"],
                       "passed": answer is not None and answer == record["expected"],
                       "positions": sum(sample["positions"] for sample in samples)})
    return chosen


def power(problems: Problems, method: str, settings: power_mh.PowerSettings, read: Sequence[int] = ()) -> list[Record]:
    """One Metropolis-Hastings chain a problem; a record is its graded last state, "accepted" (bool a step), and the states
    after each number of steps in `read` under "states" (text key: JSON has no other), each with the positions spent by then.
    """
    def evaluate(indexes: list[int], done: Done) -> None:
        def finished(place: int, result: power_mh.ChainResult) -> None:
            index = indexes[place]
            states = {str(steps): problems.grade(index, result.states[steps]) | {"positions": result.positions_by_step[steps]}
                      for steps in read}
            done({"index": index} | problems.grade(index, result.final)
                 | {"positions": result.positions, "accepted": [bool(info.accepted) for info in result.infos], "states": states})

        power_mh.sample(problems.language_model, [problems.prompts[i] for i in indexes], settings, problems.seed, problems.stage,
                        batch_rows=problems.batch_rows, examples=indexes, on_done=finished)

    return problems.run(method, evaluate)


def state_records(records: Sequence[Record], steps: int) -> list[Record]:
    """The records of `power` as they stood after `steps` steps."""
    return [{"index": record["index"], "accepted": record["accepted"][:steps]} | record["states"][str(steps)] for record in records]


def acceptance(records: Sequence[Record]) -> float | None:
    """Share of proposals accepted; None when none was made."""
    decisions = [accepted for record in records for accepted in record["accepted"]]
    return sum(decisions) / len(decisions) if decisions else None


def summary(records: Sequence[Record], against: Sequence[Record] | None = None) -> dict[str, float]:
    """accuracy, passed, total, low, high (95% Wilson), positions_per_problem; p_value (exact McNemar) against another method."""
    passed, total = sum(record["passed"] for record in records), len(records)
    low, high = wilson(passed, total)
    values = {"accuracy": passed / max(1, total), "passed": passed, "total": total, "low": low, "high": high,
              "positions_per_problem": sum(record["positions"] for record in records) / max(1, total)}
    if against is not None:
        values["p_value"] = mcnemar([record["passed"] for record in records], [record["passed"] for record in against])
    return values


def no_tool_share(records: Sequence[Record]) -> float | None:
    """Share of the answers that were written without a tool call; None for a method that has no text of its own (majority)."""
    texts = [record["text"] for record in records if "text" in record]
    return sum("<<" not in text for text in texts) / len(texts) if texts else None
