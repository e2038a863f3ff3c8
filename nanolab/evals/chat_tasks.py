"""The chat tasks (nanolab/data/tasks/catalogue.py): choices by log-probability, of letters, lines
or continuations; word problems and programs by what the model writes.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from nanolab.evals.asking import Questions
from nanolab.evals.base import Done, Record, TaskResult
from nanolab.evals.problems import Problems
from nanolab.inference.trees import common_prefix


def evaluate(problems: Problems) -> TaskResult:
    """The result of one task, over all ranks; records that are there are not made again."""
    asking, task = problems.asking, problems.task
    if problems.about.generates:
        records = problems.draw(task, asking.temperature, asking.top_k, asking.answers)
    else:
        choose = functools.partial(answer_choices, problems)
        records = problems.records.run(task, len(problems.rows), choose)
    return TaskResult(task, records)


def answer_choices(questions: Questions, indexes: Sequence[int], done: Done) -> None:
    """Records of multiple-choice rows: the likeliest letter (or line) of the question."""
    size = questions.asking.batch_rows
    for first in range(0, len(indexes), size):
        chosen = indexes[first : first + size]
        if questions.continues:
            found = score_continuations(questions, chosen)
        else:
            candidates = [questions.candidates(index) for index in chosen]
            found = score_candidates(questions.asking.scorer, candidates)
        for index, scores in zip(chosen, found, strict=True):
            done(choice_record(questions, index, scores))


def choice_record(questions: Questions, index: int, scores: list[float]) -> Record:
    """The record of a multiple-choice row from the log-probabilities (nats) of its choices.

    Of continuations also the verdict by log-probability a character, which the harness calls
    acc_norm: a long choice is not punished for its length.
    """
    row = questions.rows[index]
    question = questions.about.form.read(row)
    answer = question.letters[scores.index(max(scores))]
    record = {
        "index": index,
        "passed": answer == question.answer,
        "answer": answer,
        "expected": question.answer,
        "chance": 1 / len(question.letters),
    }
    if questions.continues:
        normed = [score / len(choice) for score, choice in zip(scores, question.choices)]
        best = question.letters[normed.index(max(normed))]
        record |= {"log_p": scores, "passed_norm": best == question.answer, "answer_norm": best}
    return record | ({"subject": row["subject"]} if row.get("subject") else {})


def score_continuations(questions: Questions, indexes: Sequence[int]) -> list[list[float]]:
    """For each example, the log-probability of each choice's text behind the question."""
    rows, spans, sizes = [], [], []
    for index in indexes:
        own, where = questions.continuations(index)
        rows += own
        spans += where
        sizes.append(len(own))
    scores = iter(questions.asking.scorer.score(rows, spans, sizes))
    return [[next(scores).log_p for _ in range(size)] for size in sizes]


def score_candidates(scorer: Any, candidates: list[list[list[int]]]) -> list[list[float]]:
    """For each example, the log-probability of each candidate beyond the tokens that its candidates
    share, up to a constant. Of candidates that differ in their last token alone, as letters
    normally do, the shared prefix is forwarded once.
    """
    starts = [common_prefix(rows) for rows in candidates]
    short = [all(len(row) == start + 1 for row in rows) for rows, start in zip(candidates, starts)]
    prefixes = [rows[0][:start] for rows, start, one in zip(candidates, starts, short) if one]
    logits = iter(scorer.next_logits(prefixes) if prefixes else ())
    others = [(rows, start) for rows, start, one in zip(candidates, starts, short) if not one]
    asked = [row for rows, _ in others for row in rows]
    spans = [(start, len(row)) for rows, start in others for row in rows]
    sizes = [len(rows) for rows, _ in others]
    found = iter(scorer.score(asked, spans, sizes) if asked else ())
    scores = []
    for rows, one in zip(candidates, short):
        if one:
            each = next(logits)
            scores.append(each[torch.tensor([row[-1] for row in rows]).to(each.device)].tolist())
        else:
            scores.append([next(found).log_p for _ in rows])
    return scores
