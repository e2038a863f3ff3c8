"""Problems whose answers are generated: draws, their grading, and the records of a method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanolab.data.tasks.graders import Limits
from nanolab.data.tokens import chat
from nanolab.evals.asking import Questions
from nanolab.evals.base import Done, Record, Records
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Draws, LanguageModel
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch, Sampler, sample

# completions that are graded together, in processes of their own; a run that is cut off loses no
# more than these
TOGETHER = 64
PARTS = ("subject", "level")  # of a row: what results are also given by


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
    # of texts that waited for a process, by problem and text
    verdicts: dict[tuple[int, str], Record] = field(default_factory=dict)

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The model, with room for the longest prompt and its answer."""
        longest = max(map(len, self.prompts), default=1)
        return self.asking.make_language_model(longest + self.asking.max_new_tokens)

    def grade(self, pairs: Sequence[tuple[int, Draws]]) -> list[Record]:
        """Graded completions of (problem number, completion) pairs, in order: {passed, answer (or
        None), expected, text, tokens, log_p (nats), positions (token positions forwarded)}, "cut"
        (by the limit) where that is known, "subject" and "level" where the row has them.

        Where equal answers may be written in several ways, also "vote": the first of the answers of
        this call to the same problem that is equal to this one.
        """
        tokenizer = self.asking.tokenizer
        keys = [(i, chat.completion_text(tokenizer, one.tokens)) for i, one in pairs]
        found = self._voting(keys, self._verdicts(keys))
        return [
            verdict
            | {
                "text": text,
                "tokens": len(one.tokens),
                "log_p": one.sum_log_p,
                "positions": one.positions,
            }
            | self._cut(one, text)
            | {name: self.rows[i][name] for name in PARTS if self.rows[i].get(name)}
            for verdict, (i, text), (_, one) in zip(found, keys, pairs, strict=True)
        ]

    def _cut(self, completion: Draws, text: str) -> Record:
        """Whether the limit cut an answer; not known of a plain one that no stop of its form ends,
        after which a base model writes on.
        """
        if self.asking.plain and not self.about.form.stops:
            return {}
        return {"cut": not completion.ended and self._counted(text) == text}

    def _counted(self, text: str) -> str:
        """What counts of a text: of a plain answer no more than its form's stops allow, of one that
        a note asked for no repeat.
        """
        form, asking = self.about.form, self.asking
        text = form.noted_answer(text) if asking.noted else text
        return form.answer(text) if asking.plain else text

    def _verdicts(self, keys: Sequence[tuple[int, str]]) -> list[Record]:
        """The graders' verdicts on the texts of problems; no text waits for a process twice."""
        grader, asking = self.about.form.grader, self.asking
        limits = Limits(asking.tool_timeout, asking.workers)
        known = self.verdicts if grader.waits else {}
        new = [key for key in dict.fromkeys(keys) if key not in known]
        answers = [(self.rows[index], self._counted(text)) for index, text in new]
        known |= zip(new, grader.grade(answers, limits), strict=True)
        return [known[key] for key in keys]

    def _voting(self, keys: Sequence[tuple[int, str]], found: list[Record]) -> list[Record]:
        """The verdicts with what each answer votes for, where equal answers may look different."""
        votes = self.about.form.grader.votes
        if votes is None:
            return found
        limits = Limits(self.asking.tool_timeout, self.asking.workers)
        first: dict[tuple[int, str], str] = {}
        for problem in dict.fromkeys(index for index, _ in keys):
            of = [one["answer"] for (i, _), one in zip(keys, found) if i == problem]
            answers = [answer for answer in of if answer is not None]
            first |= zip([(problem, answer) for answer in answers], votes(answers, limits))
        return [one | {"vote": first.get((i, one["answer"]))} for (i, _), one in zip(keys, found)]

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
    """Completions that wait for one another where grading them takes processes, else not at all."""

    def __init__(self, problems: Problems, done: Done) -> None:
        self.problems, self.done = problems, done
        self.waiting: list[tuple[int, Sequence[Draws], Callable[[list[Record]], Record]]] = []

    def add(
        self, index: int, completions: Sequence[Draws], record: Callable[[list[Record]], Record]
    ) -> None:
        """`record` makes the record of problem `index` of the graded completions."""
        self.waiting.append((index, completions, record))
        count = sum(len(completions) for _, completions, _ in self.waiting)
        if not self.problems.about.form.grader.waits or count >= TOGETHER:
            self.grade()

    def grade(self) -> None:
        """Grade what waits."""
        waiting, self.waiting = self.waiting, []
        pairs = [(index, one) for index, completions, _ in waiting for one in completions]
        graded = iter(self.problems.grade(pairs))
        for index, completions, record in waiting:
            self.done({"index": index} | record([next(graded) for _ in completions]))
