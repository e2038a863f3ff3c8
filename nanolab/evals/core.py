"""CORE: few-shot tasks in plain text, in three prompt forms, scored by log-probability and centred
on guessing.

Source: Li et al. 2024, "DataComp-LM" (arXiv 2406.11794), appendix on CORE; which examples are
asked, which are shown and how, as in nanochat's core_eval, so that scores compare. A row is a query
with choices (multiple_choice), contexts with one continuation (schema), or right when greedy
decoding gives the continuation exactly (language_modeling).

Of choices the verdicts of EleutherAI's harness stand beside CORE's: by the summed log-probability
of a choice (its acc), and by that sum a character (its acc_norm).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanolab.evals.base import Done
from nanolab.inference.protocol import SpanScore
from nanolab.inference.trees import common_prefix

Row = dict[str, Any]
Span = tuple[int, int]
Encode = Callable[[str], list[int]]

ORDER_SEED = 1337  # the reference's, of the order of a task's rows
SHOTS_SEED = 1234  # the reference's, of an example's shots, plus the example's number
ONE_TOO_HIGH = "rows name a wrong answer (number labels read one too high)"
# faults of the files as they are around, kept because published scores have them: task -> (rows of
# that file, what is wrong)
KNOWN_FAULTS = {
    "hellaswag_zeroshot": (10042, "1 row has an unreadable character"),
    "jeopardy": (2117, "2 rows are repeats"),
    "arc_easy": (2376, f"71 {ONE_TOO_HIGH}, 7 have a choice twice, 4 lost a choice"),
    "arc_challenge": (1172, f"20 {ONE_TOO_HIGH}, 4 have a choice twice, 3 lost a choice"),
    "commonsense_qa": (
        1221,
        "the published baseline of 40.3% stands for guessing, though rows have 4 choices",
    ),
    "lambada_openai": (5153, "2 rows are repeats"),
    "hellaswag": (10042, "1 row has an unreadable character"),
    "squad": (1190, "2 rows are repeats, and the layout of its prompts is an assumption"),
    "bigbench_language_identification": (10000, "5 rows have unreadable characters"),
}


def asked_rows(rows: Sequence[Row], count: int | None) -> list[Row]:
    """The first `count` rows (None: all) in the reference's order."""
    ordered = list(rows)
    random.Random(ORDER_SEED).shuffle(ordered)
    return ordered[:count]


def few_shot_rows(rows: Sequence[Row], index: int, count: int) -> list[Row]:
    """`count` other rows (or as many as there are), drawn for this example alone."""
    others = len(rows) - 1
    drawn = random.Random(SHOTS_SEED + index).sample(range(others), min(count, others))
    return [rows[i + (i >= index)] for i in drawn]


def solved(kind: str, row: Row, delimiter: str) -> str:
    """A row with its right answer: one shot of the prefix."""
    if kind == "multiple_choice":
        return f"{row['query']}{delimiter}{row['choices'][row['gold']]}"
    if kind == "schema":
        return f"{row['context_options'][row['gold']]}{delimiter}{row['continuation']}"
    return f"{row['context'].strip()}{delimiter}{row['continuation']}"


def prompts(kind: str, row: Row, shots: list[Row], delimiter: str) -> list[str]:
    """The texts to score for a row: one per choice or context; for language modelling one without
    and one with the continuation.
    """
    prefix = "".join(solved(kind, shot, delimiter) + "\n\n" for shot in shots)
    if kind == "multiple_choice":
        return [f"{prefix}{row['query']}{delimiter}{choice}" for choice in row["choices"]]
    if kind == "schema":
        return [
            f"{prefix}{context}{delimiter}{row['continuation']}"
            for context in row["context_options"]
        ]
    assert kind == "language_modeling", f"unknown kind of CORE task {kind!r}"
    whole = f"{prefix}{row['context'].strip()}{delimiter}"
    # the delimiter's blank belongs to the first token of the continuation
    return [whole.strip(), whole + row["continuation"]]


def spans(kind: str, ids: list[list[int]]) -> tuple[list[list[int]], list[Span]]:
    """The token rows to score and the half-open span of the continuation in each: behind the rows'
    common prefix, or their common suffix (schema). Of language_modeling one row is scored.
    """
    if kind == "multiple_choice":
        start = common_prefix(ids)
        return ids, [(start, len(row)) for row in ids]
    if kind == "schema":
        length = common_prefix([row[::-1] for row in ids])
        return ids, [(len(row) - length, len(row)) for row in ids]
    without, whole = ids
    return [whole], [(common_prefix([without, whole]), len(whole))]


def crop(ids: list[int], span: Span, limit: int) -> tuple[list[int], Span]:
    """The last `limit` tokens and where the span lies in them; position 0 is never scored."""
    cut = max(0, len(ids) - limit)
    return ids[cut:], (max(1, span[0] - cut), max(1, span[1] - cut))


def judge(kind: str, row: Row, scores: list[Any]) -> tuple[bool, int | None]:
    """Right or wrong from the span scores, and the choice: highest mean log-probability a token,
    the first of equals; for language modelling greedy equality, without a choice.

    A choice with which all others begin has no token of its own, and a mean that is not a number:
    as in the reference it is chosen where it comes first and nowhere else.
    """
    if kind == "language_modeling":
        return bool(scores[0].greedy), None
    means = [
        score.log_p / len(score.per_token) if score.per_token else math.nan for score in scores
    ]
    # `max` keeps a first value that is not a number, and never takes a later one
    choice = means.index(max(means))
    return choice == int(row["gold"]), choice


def judge_choices(row: Row, log_p: Sequence[float]) -> dict[str, bool]:
    """Right or wrong by the log-probabilities (nats) of whole choices, and by those a character."""
    normed = [one / max(1, len(choice)) for one, choice in zip(log_p, row["choices"])]
    best = {"passed_sum": log_p.index(max(log_p)), "passed_norm": normed.index(max(normed))}
    return {rule: choice == int(row["gold"]) for rule, choice in best.items()}


class Example(NamedTuple):
    """What is scored of a row: token rows, the spans of the continuations, and with how many tokens
    behind its query all choices begin, which CORE's own verdict leaves out.
    """

    ids: list[list[int]]
    spans: list[Span]
    shared: int = 0


@dataclass(frozen=True)
class Reader:
    """A model that reads CORE's prompts."""

    scorer: Any  # protocol.Scorer: what an example's rows share is forwarded once
    encode: Encode  # ids with the document start in front
    limit: int  # the model's context in tokens, to which prompts are cropped from the left
    batch: int = 32  # examples scored at a time

    def example(self, task: Any, rows: Sequence[Row], index: int) -> Example:
        """A row with its shots, not cropped."""
        shots, delimiter = few_shot_rows(rows, index, task.num_fewshot), task.continuation_delimiter
        texts = prompts(task.kind, rows[index], shots, delimiter)
        ids, where = spans(task.kind, [self.encode(text) for text in texts])
        if task.kind != "multiple_choice":
            return Example(ids, where)
        behind = len(f"{delimiter}{rows[index]['choices'][0]}")
        asked = len(self.encode(texts[0][: len(texts[0]) - behind]))
        shared = max(0, where[0][0] - asked)
        return Example(ids, [(start - shared, end) for start, end in where], shared)


def evaluate_task(
    reader: Reader, task: Any, rows: Sequence[Row], indexes: Sequence[int], done: Done
) -> None:
    """Calls `done` with a record for each of `indexes`; shots are drawn from all of `rows`, which
    are in the order of `asked_rows`.

    A record has the log-probability (nats) and the number of tokens of each continuation, of whole
    choices that begin alike too; `cropped` is how many tokens its longest row lost.
    """
    limit = reader.limit
    for first in range(0, len(indexes), reader.batch):
        chosen = indexes[first : first + reader.batch]
        examples = [reader.example(task, rows, index) for index in chosen]
        cropped = [
            [crop(ids, span, limit) for ids, span in zip(one.ids, one.spans)] for one in examples
        ]
        scores = iter(
            reader.scorer.score(
                [row for example in cropped for row, _ in example],
                [span for example in cropped for _, span in example],
                [len(example) for example in cropped],
            )
        )
        for index, example in zip(chosen, examples):
            whole = [next(scores) for _ in example.ids]
            own = [_behind(score, example.shared) for score in whole]
            passed, choice = judge(task.kind, rows[index], own)
            record = {
                "index": index,
                "passed": passed,
                "choice": choice,
                "chance": task.random_baseline,
                "log_p": [score.log_p for score in own],
                "tokens": [len(score.per_token) for score in own],
                "cropped": max(max(0, len(row) - limit) for row in example.ids),
            }
            if task.kind == "multiple_choice":
                record |= judge_choices(rows[index], [score.log_p for score in whole])
                record["whole_log_p"] = [score.log_p for score in whole]
            done(record)


def _behind(score: SpanScore, count: int) -> SpanScore:
    """The score of a span without its first `count` tokens."""
    if not count:
        return score
    rest = score.per_token[count:]
    return SpanScore(float(sum(rest)), rest, score.greedy)


def coverage(tasks: Sequence[Any], examples: int | None = None) -> str:
    """How many of the bundle's tasks a mean stands for, and what is absent, partial or converted;
    `examples` (None: all) a task are asked.
    """
    asked = sum(bool(task.rows) for task in tasks)
    cut = examples is not None and any(len(task.rows) > examples for task in tasks)
    notes = [f"at most {examples} examples a task"] if cut else []
    if absent := [task.name for task in tasks if not task.rows]:
        notes.append(f"no data for {', '.join(absent)}")
    for task in tasks:
        if task.rows and task.published_rows not in (None, len(task.rows)):
            notes.append(f"{task.name} has {len(task.rows):,} of {task.published_rows:,} rows")
        if task.rows and "converted" in task.status:
            notes.append(f"{task.name} is converted from another publication")
    return "; ".join([f"{asked} of {len(tasks)} tasks", *notes])


def known_faults(tasks: Sequence[Any]) -> str:
    """What is wrong in the published files that `tasks` have, as one text."""
    return "; ".join(
        f"{task.name}: {KNOWN_FAULTS[task.name][1]}"
        for task in tasks
        if task.name in KNOWN_FAULTS and len(task.rows) == KNOWN_FAULTS[task.name][0]
    )
