"""Accuracy with its uncertainty, paired tests, pass@k, and the runner: examples over ranks, resumable one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab.dist import World, barrier, gather_objects, shard
from nanolab.intervals import mcnemar_exact, wilson

Record = dict[
    str, Any
]  # one example: "index" (its number in the task), "passed", and what the task wants to keep
Done = Callable[[Record], None]
Tell = Callable[
    [str, int, int, str, float], None
]  # journal.Run.progress: part, done, total, unit, accuracy so far


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Exact two-sided McNemar p-value of two methods on the same problems; 1 when they never differ."""
    assert len(first) == len(second), f"paired results have {len(first)} and {len(second)} problems"
    gained = sum(b and not a for a, b in zip(first, second))
    lost = sum(a and not b for a, b in zip(first, second))
    return mcnemar_exact(gained, lost)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from n samples with c right ones, of the chance that at least one of k samples is right.

    1 - C(n-c, k) / C(n, k): the share of the subsets of k samples that hold a right one. In whole numbers, so only the last
    division rounds. Source: Chen et al. 2021, "Evaluating large language models trained on code" (arXiv 2107.03374).
    """
    assert 0 <= c <= n and 1 <= k <= n, f"{c} of {n} samples are right, k = {k}"
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


@dataclass(frozen=True)
class TaskResult:
    """A task's accuracy with its 95% Wilson interval; `chance` is the accuracy of guessing."""

    task: str
    n: int
    passed: int
    accuracy: float
    interval_low: float
    interval_high: float
    chance: float
    records: list[Record] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, task: str, records: list[Record]) -> TaskResult:
        """The result of records with "passed" (bool) and "chance" (0 when missing)."""
        n, passed = len(records), sum(bool(record["passed"]) for record in records)
        low, high = wilson(passed, n)
        chance = math.fsum(record.get("chance", 0.0) for record in records) / max(1, n)
        return cls(task, n, passed, passed / max(1, n), low, high, chance, records)

    @property
    def centred(self) -> float:
        """0 at chance, 1 when everything is right: (accuracy - chance) / (1 - chance)."""
        return centred(self.accuracy, self.chance)

    def metrics(self) -> dict[str, float]:
        """Flat keys: the task's own name for the accuracy, then n, passed, low, high and chance under it.

        Where records have a "subject": also subject/NAME, the accuracy on each, and their unweighted mean, macro; the accuracy over
        all examples, called micro where the two are compared, is the task's own. Where several answers were drawn ("answers" of which
        "right" are right): pass_at_k for k = 1, 2, 4, ..., the mean of the unbiased estimates; the accuracy is that of the first answers.
        """
        values = {
            "n": self.n,
            "passed": self.passed,
            "low": self.interval_low,
            "high": self.interval_high,
            "chance": self.chance,
        }
        if subjects := self.by_subject():
            values |= {
                "macro": math.fsum(subjects.values()) / len(subjects),
                "micro": self.accuracy,
            }
            values |= {f"subject/{name}": accuracy for name, accuracy in subjects.items()}
        drawn, k = min((record.get("answers", 1) for record in self.records), default=1), 1
        while drawn > 1 and k <= drawn:
            values[f"pass_at_{k}"] = (
                math.fsum(pass_at_k(r["answers"], r["right"], k) for r in self.records) / self.n
            )
            k *= 2
        return {self.task: self.accuracy} | {
            f"{self.task}/{key}": float(value) for key, value in values.items()
        }

    def by_subject(self) -> dict[str, float]:
        """The accuracy on the records of each "subject", by name; empty where records have none."""
        passed: dict[str, list[bool]] = {}
        for record in self.records:
            if "subject" in record:
                passed.setdefault(record["subject"], []).append(bool(record["passed"]))
        return {name: sum(passed[name]) / len(passed[name]) for name in sorted(passed)}


def centred(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance)."""
    assert 0 <= chance < 1, f"chance is {chance}"
    return (accuracy - chance) / (1 - chance)


def run_examples(
    world: World,
    folder: Path,
    task: str,
    count: int,
    evaluate: Callable[[list[int], Done], None],
    say: Callable[[str], None] = lambda line: None,
    progress: Tell = lambda *told: None,
) -> list[Record]:
    """The records of examples 0 .. count-1 in order, the same on every rank; those already on disk are not done again.

    `evaluate(indexes, done)` calls `done(record)` once for each index, in any order, as soon as it is known. Each rank takes
    its share of what is missing and appends to its own file; when all are done rank 0 merges them into `<task>.jsonl`.
    `say` gets a progress line every 50 examples of this rank, `progress` is told of each (journal.Run.progress), with
    the accuracy so far, those on disk counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _merge(gather_objects(world, _read(folder, task)), count)
    barrier(world)  # nobody writes before everybody has read
    missing = shard(world, [index for index in range(count) if index not in done])
    mine: dict[int, Record] = {}
    if missing:
        with (folder / f"{task}.rank{world.rank}.jsonl").open("a") as file:
            file.write("\n")  # closes a line that a killed process left unfinished
            right = sum(bool(record["passed"]) for record in done.values())

            def keep(record: Record) -> None:
                nonlocal right
                assert record["index"] not in mine, (
                    f"{task}: example {record['index']} got two records"
                )
                mine[record["index"]] = record
                file.write(json.dumps(record) + "\n")
                file.flush()
                right += bool(record["passed"])
                progress(
                    task,
                    min(count, len(done) + len(mine) * world.size),
                    count,
                    "problems",
                    right / (len(done) + len(mine)),
                )
                if len(mine) % 50 == 0:
                    accuracy = sum(bool(r["passed"]) for r in mine.values()) / len(mine)
                    say(
                        f"{task}: {len(mine)} of {len(missing)} done, accuracy so far {accuracy:.3f}"
                    )

            evaluate(missing, keep)
    assert set(mine) == set(missing), (
        f"{task}: examples {sorted(set(missing) - set(mine))[:5]} got no record"
    )
    records = _merge([done, *gather_objects(world, mine)], count)
    if world.rank == 0:
        merged = folder / f"{task}.jsonl"
        partial = merged.with_suffix(".jsonl.partial")
        partial.write_text("".join(json.dumps(records[index]) + "\n" for index in range(count)))
        partial.replace(merged)
    barrier(world)
    (folder / f"{task}.rank{world.rank}.jsonl").unlink(missing_ok=True)
    # through JSON, so that a fresh record and one read back from disk are the same object
    return [json.loads(json.dumps(records[index])) for index in range(count)]


def _read(folder: Path, task: str) -> dict[int, Record]:
    """Every complete record of a task on this machine, whichever rank wrote it; a torn line is an example not done."""
    found = {}
    for path in sorted([folder / f"{task}.jsonl", *folder.glob(f"{task}.rank*.jsonl")]):
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict) and "index" in record:
                found[record["index"]] = record
    return found


def _merge(parts: list[dict[int, Record]], count: int) -> dict[int, Record]:
    merged: dict[int, Record] = {}
    for part in parts:
        merged |= {index: record for index, record in part.items() if index < count}
    return merged
