"""CORE: few-shot tasks in plain text, in three prompt forms, scored by log-probability and centred on guessing.

Source: Li et al. 2024, "DataComp-LM" (arXiv 2406.11794), appendix on CORE. A row holds

    multiple_choice      query, choices, gold           the continuation is a choice
    schema               context_options, continuation, gold   the context is a choice, its continuation is scored
    language_modeling    context, continuation          right when greedy decoding gives the continuation exactly
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanolab import seeds
from nanolab.evals.base import Done, TaskResult

Row = dict[str, Any]
Span = tuple[int, int]


def few_shot_rows(task: str, rows: Sequence[Row], index: int, count: int, seed: int) -> list[Row]:
    """`count` other rows (fewer when there are not enough), drawn for this example alone: no order of evaluation matters."""
    others = len(rows) - 1
    drawn = seeds.generator(seed, "core", task, index).permutation(others)[:count]
    return [rows[i + (i >= index)] for i in map(int, drawn)]


def solved(kind: str, row: Row, delimiter: str) -> str:
    """A row with its right answer: one shot of the prefix."""
    if kind == "multiple_choice":
        return f"{row['query']}{delimiter}{row['choices'][row['gold']]}"
    if kind == "schema":
        return f"{row['context_options'][row['gold']]}{delimiter}{row['continuation']}"
    return f"{row['context'].strip()}{delimiter}{row['continuation']}"


def prompts(kind: str, row: Row, shots: list[Row], delimiter: str) -> list[str]:
    """The texts to score for a row: one per choice or context; for language modelling (without, with) the continuation."""
    prefix = "".join(solved(kind, shot, delimiter) + "\n\n" for shot in shots)
    if kind == "multiple_choice":
        return [f"{prefix}{row['query']}{delimiter}{choice}" for choice in row["choices"]]
    if kind == "schema":
        return [f"{prefix}{context}{delimiter}{row['continuation']}" for context in row["context_options"]]
    assert kind == "language_modeling", f"unknown kind of CORE task {kind!r}"
    whole = f"{prefix}{row['context'].strip()}{delimiter}"
    # the delimiter's blank belongs to the first token of the continuation
    return [whole.strip(), whole + row["continuation"]]


def spans(kind: str, ids: list[list[int]]) -> tuple[list[list[int]], list[Span]]:
    """The token rows to score and the half-open span of the continuation in each.

    multiple_choice: from the end of the rows' common prefix; schema: their common suffix; language_modeling: what the row
    with the continuation has beyond the row without (one row is scored).
    """
    if kind == "multiple_choice":
        start = min(common_prefix(ids), min(map(len, ids)) - 1)  # a choice that begins another one still has a token to score
        return ids, [(start, len(row)) for row in ids]
    if kind == "schema":
        length = common_prefix([row[::-1] for row in ids])
        return ids, [(len(row) - length, len(row)) for row in ids]
    without, whole = ids
    return [whole], [(common_prefix([without, whole]), len(whole))]


def common_prefix(rows: list[list[int]]) -> int:
    """Number of leading tokens that all rows share."""
    for position, tokens in enumerate(zip(*rows)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, rows))


def crop(ids: list[int], span: Span, limit: int) -> tuple[list[int], Span]:
    """The last `limit` tokens and where the span lies in them; position 0 can never be scored."""
    cut = max(0, len(ids) - limit)
    return ids[cut:], (max(1, span[0] - cut), max(1, span[1] - cut))


def judge(kind: str, row: Row, scores: list[Any]) -> bool:
    """Right or wrong from the span scores: highest mean log-probability a token, or greedy equality."""
    if kind == "language_modeling":
        return bool(scores[0].greedy)
    means = [score.log_p / max(1, len(score.per_token)) for score in scores]
    return means.index(max(means)) == int(row["gold"])


def evaluate_task(scorer: Any, encode: Callable[[str], list[int]], task: Any, rows: Sequence[Row], indexes: Sequence[int],
                  done: Done, *, limit: int, seed: int, batch: int = 16) -> None:
    """Calls `done` with a record for each of `indexes`.

    `encode` gives ids with the document start in front; `limit` is the model's context in tokens; `rows` are all the rows
    shots are drawn from, `batch` examples are scored at once.
    """
    for first in range(0, len(indexes), batch):
        texts, places, sizes = [], [], []
        chosen = list(indexes[first:first + batch])
        for index in chosen:
            shots = few_shot_rows(task.name, rows, index, task.num_fewshot, seed)
            ids = [encode(text) for text in prompts(task.kind, rows[index], shots, task.continuation_delimiter)]
            cropped = [crop(row, span, limit) for row, span in zip(*spans(task.kind, ids))]
            texts += [row for row, _ in cropped]
            places += [span for _, span in cropped]
            sizes.append(len(cropped))
        scores = iter(scorer.score(texts, places))
        for index, size in zip(chosen, sizes):
            own = [next(scores) for _ in range(size)]
            done({"index": index, "passed": judge(task.kind, rows[index], own), "chance": task.random_baseline,
                  "log_p": [score.log_p for score in own]})


def core_metric(results: Sequence[TaskResult]) -> float:
    """CORE: the mean over tasks of centred accuracy."""
    return sum(result.centred for result in results) / len(results)
