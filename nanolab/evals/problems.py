"""Problems whose answers are generated: draws, their grading, and the records of a method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanolab.data.tasks.answers import final_number
from nanolab.data.tasks.catalogue import Row
from nanolab.data.tokens import chat
from nanolab.evals.asking import Questions
from nanolab.evals.base import Done, Record, Records
from nanolab.evals.programs import check_of
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Draws, LanguageModel
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch, Sampler, sample
from nanolab.sandbox import programs

# completions whose programs are run together; a run that is cut off loses no more than these
PROGRAMS = 64


def number_verdict(row: Row, text: str, plain: bool = False) -> Record:
    """An answer to a word problem: right when its final number equals the reference's, never
    without one. A plain one ends at the first empty line.
    """
    answer = final_number(text.split("\n\n")[0] if plain else text)
    expected = final_number(row["answer"])
    passed = answer is not None and answer == expected
    return {"passed": passed, "answer": answer, "expected": expected}


def of_several(graded: list[Record]) -> Record:
    """The record of a problem's first answer; where more were drawn, with how many ("answers") and
    how many of them are right ("right").
    """
    if len(graded) == 1:
        return graded[0]
    right = sum(record["passed"] for record in graded)
    return graded[0] | {"answers": len(graded), "right": right}


@dataclass(frozen=True)
class Problems(Questions):
    """The problems of a comparison, and where its records are kept."""

    records: Records
    # of programs already run, by problem and text
    verdicts: dict[tuple[int, str], Record] = field(default_factory=dict)

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The model, with room for the longest prompt and its answer."""
        longest = max(map(len, self.prompts), default=1)
        return self.asking.make_language_model(longest + self.asking.max_new_tokens)

    def grade(self, pairs: Sequence[tuple[int, Draws]]) -> list[Record]:
        """Graded completions of (problem number, completion) pairs, in order: {passed, answer (or
        None), expected, text, tokens, log_p (nats), positions (token positions forwarded)}.
        """
        asking = self.asking
        keys = [(i, chat.completion_text(asking.tokenizer, one.tokens)) for i, one in pairs]
        if self.about.form.grader == "number":
            found = [number_verdict(self.rows[i], text, asking.plain) for i, text in keys]
        else:
            found = self._run_programs(keys)
        return [
            verdict
            | {
                "text": text,
                "tokens": len(one.tokens),
                "log_p": one.sum_log_p,
                "positions": one.positions,
            }
            for verdict, (_, text), (_, one) in zip(found, keys, pairs, strict=True)
        ]

    def _run_programs(self, keys: Sequence[tuple[int, str]]) -> list[Record]:
        """Verdicts of programs, right when the task's own tests pass within the time limit."""
        new = [key for key in dict.fromkeys(keys) if key not in self.verdicts]
        checks = [check_of(self.rows[index], text) for index, text in new]
        results = programs.run_many(checks, self.asking.tool_timeout, workers=self.asking.workers)
        for key, result in zip(new, results, strict=True):
            self.verdicts[key] = {
                "passed": result.passed,
                "answer": key[1].strip(),
                "expected": None,
                "error": result.error,
                "sandbox": str(programs.strongest_level()),
            }
        return [self.verdicts[key] for key in keys]

    def batch(self, indexes: Sequence[int], copies: int = 1) -> Batch:
        """The problems `indexes`, each answered `copies` times."""
        asking, prompts = self.asking, [self.prompts[i] for i in indexes]
        rows, examples = asking.batch_rows, list(indexes)
        return Batch(prompts, asking.seed, asking.stage, copies, rows, examples)

    def sampling(self, temperature: float, top_k: int | None) -> Sampling:
        """The proposal of these answers; temperature 0 is greedy."""
        most = self.asking.max_new_tokens
        return Sampling(temperature=temperature, top_k=top_k, max_new_tokens=most)

    def run(self, method: str, evaluate: Callable[[list[int], GradingQueue], None]) -> list[Record]:
        """The records of a method on every problem, those on disk included; `evaluate` adds each
        problem's completions to the queue.
        """

        def graded(indexes: list[int], done: Done) -> None:
            queue = GradingQueue(self, done)
            evaluate(indexes, queue)
            queue.grade()

        return self.records.run(method, len(self.rows), graded)

    def draw(
        self, method: str, temperature: float, top_k: int | None, copies: int = 1
    ) -> list[Record]:
        """`copies` completions of each problem, all in one batch; a record is `of_several`."""

        def evaluate(indexes: list[int], queue: GradingQueue) -> None:
            def finished(place: int, completions: list[Draws]) -> None:
                queue.add(indexes[place], completions, of_several)

            sampling = self.sampling(temperature, top_k)
            baselines.generate(self.language_model, self.batch(indexes, copies), sampling, finished)

        return self.run(method, evaluate)

    def sample(
        self,
        method: str,
        settings: Sampler,
        record: Callable[[list[Any], list[Record]], Record],
        completions: Callable[[list[Any]], list[Draws]] = lambda results: [results[0].final],
        copies: int = 1,
    ) -> list[Record]:
        """The records of a power sampler: `completions` takes those to be graded from a problem's
        `copies` results, `record` makes the record of the results and the graded completions.
        """

        def evaluate(indexes: list[int], queue: GradingQueue) -> None:
            found: dict[int, list[Any]] = {}

            def finished(place: int, result: Any) -> None:
                results = found.setdefault(place, [])
                results.append(result)
                if len(results) == copies:
                    del found[place]
                    made = functools.partial(record, results)
                    queue.add(indexes[place], completions(results), made)

            sample(self.language_model, self.batch(indexes, copies), settings, finished)

        return self.run(method, evaluate)


class GradingQueue:
    """Completions that wait for one another where programs are run, else not at all."""

    def __init__(self, problems: Problems, done: Done) -> None:
        self.problems, self.done = problems, done
        self.waiting: list[tuple[int, Sequence[Draws], Callable[[list[Record]], Record]]] = []

    def add(
        self, index: int, completions: Sequence[Draws], record: Callable[[list[Record]], Record]
    ) -> None:
        """`record` makes the record of problem `index` of the graded completions."""
        self.waiting.append((index, completions, record))
        count = sum(len(completions) for _, completions, _ in self.waiting)
        if self.problems.about.form.grader == "number" or count >= PROGRAMS:
            self.grade()

    def grade(self) -> None:
        """Grade what waits."""
        waiting, self.waiting = self.waiting, []
        pairs = [(index, one) for index, completions, _ in waiting for one in completions]
        graded = iter(self.problems.grade(pairs))
        for index, completions, record in waiting:
            self.done({"index": index} | record([next(graded) for _ in completions]))
