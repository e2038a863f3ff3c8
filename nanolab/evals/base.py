"""Accuracy with its uncertainty, paired tests, pass@k, and records that resume one by one."""

import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanolab.dist import World, barrier, gather_objects, shard
from nanolab.files import write_atomic
from nanolab.results import Score
from nanolab.statistics import mcnemar_exact, wilson

MANY = 0.1  # a share of answers cut, or of none, above which it is said
# the share of one letter among the answers, and among the right ones, that is a collapse
COLLAPSED, EXPECTED = 0.6, 0.4
# of a folder of records: how long each part took (part, seconds, the indexes of its new records)
SECONDS = "seconds.jsonl"
# one example: "index" (its number in the task), "passed", and what the task wants to keep
Record = dict[str, Any]
Done = Callable[[Record], None]


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Exact two-sided McNemar p-value of two methods on the same problems."""
    assert len(first) == len(second), f"paired results have {len(first)} and {len(second)} problems"
    gained = sum(b and not a for a, b in zip(first, second))
    lost = sum(a and not b for a, b in zip(first, second))
    return mcnemar_exact(gained, lost)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from n samples with c right ones, of the chance that at least one of k
    samples is right: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. 2021, "Evaluating large language models trained on code" (arXiv 2107.03374).
    """
    assert 0 <= c <= n and 1 <= k <= n, f"{c} of {n} samples are right, k = {k}"
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def accuracy(records: Sequence[Record], **fields: Any) -> Score:
    """The accuracy of records with its 95% Wilson interval; `fields` of `Score` say of what."""
    n, passed = len(records), sum(bool(record["passed"]) for record in records)
    low, high = wilson(passed, n)
    of = {"n": n, "passed": passed, "low": low, "high": high}
    return Score("accuracy", passed / max(1, n), **of, **fields)


def warning_shares(records: Sequence[Record]) -> dict[str, float]:
    """Shares of records, as far as they apply: cut_share (answers that the limit cut),
    no_answer_share (texts without an answer), commonest_choice_share (of choices, the letter that
    is answered most often).
    """
    cut = [record["cut"] for record in records if "cut" in record]
    written = [record for record in records if "text" in record]
    shares = {"cut_share": _share(cut)} if cut else {}
    if written:
        shares["no_answer_share"] = _share(not record["answer"] for record in written)
    if records and all("answer" in record and record.get("chance") for record in records):
        shares["commonest_choice_share"] = _commonest(records)[1]
    return shares


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / max(1, len(found))


def _commonest(records: Sequence[Record]) -> tuple[str, float]:
    """The most frequent answer, with its share of all records."""
    counts = Counter(record["answer"] for record in records if record.get("answer") is not None)
    value, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return value, count / max(1, len(records))


@dataclass(frozen=True)
class TaskResult:
    """The records of a task, with "passed" and, where guessing can be right, its "chance"."""

    task: str
    records: list[Record] = field(repr=False)

    @functools.cached_property
    def score(self) -> Score:
        """Accuracy, interval and the accuracy of guessing."""
        chances = math.fsum(record.get("chance", 0.0) for record in self.records)
        return accuracy(self.records, task=self.task, chance=chances / max(1, len(self.records)))

    @property
    def centred(self) -> float:
        """0 at chance, 1 when everything is right: (accuracy - chance) / (1 - chance)."""
        chance = self.score.chance
        assert 0 <= chance < 1, f"chance is {chance}"
        return (self.score.value - chance) / (1 - chance)

    def scores(self, suite: str = "") -> list[Score]:
        """Rows: the accuracy, and those by other rules; where records have a "subject", the
        accuracy on each and their unweighted mean (macro) beside the accuracy over all examples
        (micro); where several answers were drawn, pass@k, and the accuracy is that of the first
        answers.
        """
        rows = [replace(self.score, suite=suite)]
        for rule in ("sum", "norm"):
            judged = [
                {"passed": r[f"passed_{rule}"]} for r in self.records if f"passed_{rule}" in r
            ]
            if judged:
                of = {"task": self.task, "suite": suite, "chance": self.score.chance}
                rows.append(replace(accuracy(judged, **of), metric=f"accuracy_{rule}"))
        each = self._accuracies("subject")
        if each:
            macro = math.fsum(each.values()) / len(each)
            rows += [Score("macro", macro, self.task), Score("micro", rows[0].value, self.task)]
        each |= {f"level {level}": one for level, one in self._accuracies("level").items()}
        rows += [Score("accuracy", one, self.task, part=of) for of, one in each.items()]
        drawn = min((record.get("answers", 1) for record in self.records), default=1)
        for k in doublings(drawn) if drawn > 1 else ():
            estimates = [pass_at_k(r["answers"], r["right"], k) for r in self.records]
            mean = math.fsum(estimates) / len(estimates)
            rows.append(Score("pass_at_k", mean, self.task, k=k))
        if not suite:
            rows += [
                Score(metric, value, self.task)
                for metric, value in warning_shares(self.records).items()
            ]
        return rows

    def _accuracies(self, part: str) -> dict[Any, float]:
        """The accuracy of the records of each subject, or level."""
        values = sorted({record[part] for record in self.records if part in record})
        return {
            value: accuracy([one for one in self.records if one.get(part) == value]).value
            for value in values
        }

    def warnings(self) -> list[str]:
        """A line for each share that says that the accuracy measures something else."""
        found, lines = warning_shares(self.records), []
        if found.get("cut_share", 0) > MANY:
            lines.append(
                f"{found['cut_share']:.0%} of its answers were cut at the limit before they ended:"
                " a larger max_new_tokens may give another accuracy"
            )
        if found.get("no_answer_share", 0) > MANY:
            lines.append(
                f"{found['no_answer_share']:.0%} of its texts have no answer in the form that was"
                " asked for"
            )
        letter, share = _commonest(self.records)
        truth = _share(record.get("expected") == letter for record in self.records)
        if "commonest_choice_share" in found and share > COLLAPSED and truth < EXPECTED:
            lines.append(
                f"{share:.0%} of its answers are {letter}, which is right for {truth:.0%}: the"
                " model answers with a letter, not with a choice"
            )
        return [f"{self.task}: {line}" for line in lines]


def mean_centred(results: Sequence[TaskResult]) -> float:
    """CORE and ChatCORE: the mean over tasks of centred accuracy."""
    return sum(result.centred for result in results) / len(results)


@dataclass(frozen=True)
class Records:
    """Where records are kept, one line an example, and who is told of them."""

    world: World
    folder: Path
    say: Callable[[str], None] = lambda line: None  # gets a line every 50 examples of this rank
    # journal.Run.progress: part, done, total, unit, accuracy so far
    progress: Callable[[str, int, int, str, float], None] = lambda *told: None

    def run(
        self, task: str, count: int, evaluate: Callable[[list[int], Done], None]
    ) -> list[Record]:
        """The records of examples 0 .. count-1 in order, the same on every rank; those already on
        disk are not done again.

        `evaluate(indexes, done)` calls `done(record)` once for each index, in any order. Each rank
        appends to a file of its own, which rank 0 merges into `<task>.jsonl` in the end.
        """
        world = self.world
        self.folder.mkdir(parents=True, exist_ok=True)
        done = _merge(gather_objects(world, self._read(task)), count)
        barrier(world)  # nobody writes before everybody has read
        new = [index for index in range(count) if index not in done]
        missing, started = shard(world, new), time.monotonic()
        mine = self._evaluate(task, count, missing, done, evaluate) if missing else {}
        lacking = sorted(set(missing) - set(mine))
        assert len(mine) == len(missing) and not lacking, (
            f"{task}: examples {lacking[:5]} got no record"
        )
        records = _merge([done, *gather_objects(world, mine)], count)
        lines = [json.dumps(records[index]) for index in range(count)]
        if world.rank == 0:
            write_atomic(self.folder / f"{task}.jsonl", "".join(f"{line}\n" for line in lines))
            if new:
                self._time(task, time.monotonic() - started, new)
        barrier(world)
        (self.folder / f"{task}.rank{world.rank}.jsonl").unlink(missing_ok=True)
        # through JSON, so that a fresh record and one read back from disk are the same object
        return [json.loads(line) for line in lines]

    def _evaluate(
        self,
        task: str,
        count: int,
        missing: list[int],
        done: dict[int, Record],
        evaluate: Callable[[list[int], Done], None],
    ) -> dict[int, Record]:
        """The records of `missing`, written as they come."""
        mine: dict[int, Record] = {}
        before = sum(bool(record["passed"]) for record in done.values())
        right = 0
        path = self.folder / f"{task}.rank{self.world.rank}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # closes a line that a killed process left unfinished

            def keep(record: Record) -> None:
                nonlocal right
                index = record["index"]
                assert index not in mine, f"{task}: example {index} got two records"
                mine[index] = record
                file.write(json.dumps(record) + "\n")
                file.flush()
                right += bool(record["passed"])
                known = min(count, len(done) + len(mine) * self.world.size)
                share = (before + right) / (len(done) + len(mine))
                self.progress(task, known, count, "problems", share)
                if len(mine) % 50 == 0:
                    progress = f"{len(mine)} of {len(missing)} done"
                    self.say(f"{task}: {progress}, accuracy so far {right / len(mine):.3f}")

            evaluate(missing, keep)
        return mine

    def _time(self, task: str, seconds: float, indexes: list[int]) -> None:
        """Notes how long the examples `indexes` took."""
        path = self.folder / SECONDS
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        took = {"part": task, "seconds": seconds, "indexes": indexes}
        write_atomic(path, f"{before}{json.dumps(took)}\n")

    def _read(self, task: str) -> dict[int, Record]:
        """Every complete record of a task on this machine, whichever rank wrote it; a torn line is
        an example not done.
        """
        found = {}
        merged = self.folder / f"{task}.jsonl"
        for path in sorted([merged, *self.folder.glob(f"{task}.rank*.jsonl")]):
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(record, dict) and "index" in record:
                    found[record["index"]] = record
        return found


def _merge(parts: list[dict[int, Record]], count: int) -> dict[int, Record]:
    return {index: record for part in parts for index, record in part.items() if index < count}
