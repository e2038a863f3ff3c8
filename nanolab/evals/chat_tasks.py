"""The five chat tasks: choices by log-probability (letters or lines), word problems by generation, programs by running tests.

A chat model is asked in its chat format. A base model, whose chat tokens are untrained, is asked in plain text after a
few solved examples (`Asking.shots`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nanolab import sandbox, seeds
from nanolab.data import chat
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals.base import Done, Record, TaskResult, Tell, run_examples
from nanolab.evals.programs import check_of
from nanolab.model.trees import common_prefix
from nanolab.samplers import baselines

Row = dict[str, Any]
QUESTIONS = {
    "arc_easy": chat.arc_question,
    "arc_challenge": chat.arc_question,
    "mmlu": chat.mmlu_question,
}
CHOICE_TASKS = tuple(QUESTIONS)
PROGRAMS = 32  # completions whose programs are run together


@dataclass(frozen=True)
class Asking:
    """How a model is asked: its engine, sampling settings, and for plain text the rows that shots are drawn from."""

    tokenizer: Tokenizer
    make_language_model: Callable[[int], Any]  # longest row in tokens -> generation.LanguageModel
    scorer: Any  # generation.Scorer
    context: (
        int  # tokens of a row that the model was trained on: longer plain prompts lose their start
    )
    stage: str  # part of the address of every random number
    seed: int
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    answers: int = 1  # drawn for each generated problem
    batch_rows: int = 64
    tool_timeout: float = 5.0  # seconds a test program may run
    plain: bool = False
    num_shots: int = 0
    shots: dict[str, list[Row]] = field(
        default_factory=dict
    )  # task -> rows with answers, never test rows
    workers: int = 2  # test programs run at once
    choice_form: str = (
        "letter"  # what competes: the letters alone, or each choice's "line" (trout=B)
    )
    render: Callable[[Any, list[dict]], list[int]] = (
        chat.render_prompt
    )  # tokenizer, conversation -> ids of a chat prompt
    problem_note: str = (
        ""  # a line below every word problem, for a model that was not trained on its form
    )

    def messages(self, task: str, row: Row) -> list[dict]:
        """A row as the conversation that the model was trained on."""
        if task == "gsm8k":
            return chat.gsm8k_messages(row, self.problem_note)
        return chat.MESSAGES[task](
            row, **({"form": self.choice_form} if task in CHOICE_TASKS else {})
        )


def evaluate(
    world: World,
    folder: Path,
    task: str,
    rows: Sequence[Row],
    asking: Asking,
    say: Callable[[str], None] = lambda line: None,
    progress: Tell = lambda *told: None,
) -> TaskResult:
    """The result of one task on `rows`, over all ranks; records are kept in `folder` and done ones are not repeated."""
    answer = (
        answer_choices
        if task in CHOICE_TASKS
        else solve_problems
        if task == "gsm8k"
        else write_programs
    )
    records = run_examples(
        world,
        folder,
        task,
        len(rows),
        lambda indexes, done: answer(task, rows, indexes, asking, done),
        say,
        progress,
    )
    return TaskResult.of(task, records)


def chat_core(results: Iterable[TaskResult]) -> float:
    """ChatCORE: the mean over tasks of (accuracy - chance) / (1 - chance)."""
    scores = [result.centred for result in results]
    return sum(scores) / len(scores)


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompt_text(task: str, rows: Sequence[Row], index: int, asking: Asking) -> str:
    """The plain-text prompt of a row: solved examples drawn for this row alone, then the row. A program is its own prompt."""
    if task == "humaneval":
        return rows[index]["prompt"].rstrip("\n") + "\n"
    pool = asking.shots.get(task, [])
    drawn = seeds.generator(asking.seed, "shots", task, index).permutation(len(pool))[
        : asking.num_shots
    ]
    return chat.few_shot_prompt(
        [asking.messages(task, pool[int(i)]) for i in drawn], asking.messages(task, rows[index])
    )


def prompt_ids(task: str, rows: Sequence[Row], index: int, asking: Asking) -> list[int]:
    """The token ids of a row's prompt, from <|bos|> to where the answer starts; a plain one leaves room for the answer (`prompts_cut`)."""
    if asking.plain:
        start = asking.tokenizer.start
        return [
            *start,
            *asking.tokenizer.encode(prompt_text(task, rows, index, asking))[
                len(start) - _room(asking) :
            ],
        ]
    return asking.render(asking.tokenizer, asking.messages(task, rows[index])[:-1])


def _room(asking: Asking) -> int:
    """Tokens that a plain prompt may have before its generated answer."""
    return max(asking.context - asking.max_new_tokens, asking.context // 2)


def prompts_cut(task: str, rows: Sequence[Row], asking: Asking) -> int:
    """How many rows have a plain prompt that loses its start (the first solved examples, where there are any) to fit into the context."""
    if not asking.plain:
        return 0
    encode, start, cut = asking.tokenizer.encode, len(asking.tokenizer.start), 0
    for index in range(len(rows)):
        text = prompt_text(task, rows, index, asking)
        if task in CHOICE_TASKS:
            question = QUESTIONS[task](rows[index])
            answers = chat.choice_answers(question.choices, question.letters, asking.choice_form)
            cut += (
                start + max(len(encode(f"{text} {answer}")) for answer in answers) > asking.context
            )
        else:
            cut += start + len(encode(text)) > _room(asking)
    return cut


# --- choices ---------------------------------------------------------------------------------------------------------


def answer_choices(
    task: str, rows: Sequence[Row], indexes: Sequence[int], asking: Asking, done: Done
) -> None:
    """Records of multiple-choice rows: the letter (or line) with the highest log-probability, among those of the question only."""
    for first in range(0, len(indexes), asking.batch_rows):
        chosen = list(indexes[first : first + asking.batch_rows])
        questions = [QUESTIONS[task](rows[index]) for index in chosen]
        candidates = []
        for index, question in zip(chosen, questions):
            answers = chat.choice_answers(question.choices, question.letters, asking.choice_form)
            candidates.append(candidate_ids(task, rows, index, answers, asking))
        for index, question, scores in zip(
            chosen, questions, score_candidates(asking.scorer, candidates)
        ):
            answer = question.letters[scores.index(max(scores))]
            done(
                {
                    "index": index,
                    "passed": answer == question.answer,
                    "answer": answer,
                    "expected": question.answer,
                    "chance": 1 / len(question.letters),
                }
                | ({"subject": rows[index]["subject"]} if rows[index].get("subject") else {})
            )


def candidate_ids(
    task: str, rows: Sequence[Row], index: int, answers: Sequence[str], asking: Asking
) -> list[list[int]]:
    """The prompt of a row followed by each answer; a plain prompt loses its start when it is longer than the context."""
    encode, start = asking.tokenizer.encode, asking.tokenizer.start
    if not asking.plain:
        prompt = prompt_ids(task, rows, index, asking)
        return [[*prompt, *encode(answer)] for answer in answers]
    text = prompt_text(task, rows, index, asking)
    encoded = [
        encode(f"{text} {answer}") for answer in answers
    ]  # encoded whole: the blank belongs to the answer's first token
    excess = max(0, max(map(len, encoded)) + len(start) - asking.context)
    return [[*start, *ids[excess:]] for ids in encoded]


def score_candidates(scorer: Any, candidates: list[list[list[int]]]) -> list[list[float]]:
    """For each example, the log-probability of each candidate beyond the tokens that its candidates share, up to a constant.

    When every candidate is the shared prefix and one more token, as letters normally are, the prefix is forwarded once.
    """
    starts = [common_prefix(rows) for rows in candidates]
    single = [all(len(row) == start + 1 for row in rows) for rows, start in zip(candidates, starts)]
    scores: list[list[float]] = [[] for _ in candidates]
    short = [i for i, one in enumerate(single) if one]
    if short:
        logits = scorer.next_logits([candidates[i][0][: starts[i]] for i in short])
        for place, i in enumerate(short):
            letters = torch.tensor([row[-1] for row in candidates[i]], device=logits.device)
            scores[i] = logits[place, letters].tolist()
    for i in (i for i, one in enumerate(single) if not one):
        spans = [(starts[i], len(row)) for row in candidates[i]]
        scores[i] = [score.log_p for score in scorer.score(candidates[i], spans)]
    return scores


# --- generation ------------------------------------------------------------------------------------------------------


def complete(
    task: str,
    rows: Sequence[Row],
    indexes: Sequence[int],
    asking: Asking,
    finished: Callable[[int, list[Any]], None],
) -> None:
    """Calls `finished(index, completions)` for each row as soon as its completions are there; all rows share one batch."""
    prompts = [prompt_ids(task, rows, index, asking) for index in indexes]
    language_model = asking.make_language_model(max(map(len, prompts)) + asking.max_new_tokens)
    baselines.generate(
        language_model,
        prompts,
        temperature=asking.temperature,
        top_k=asking.top_k,
        max_new_tokens=asking.max_new_tokens,
        seed=asking.seed,
        stage=f"{asking.stage}/{task}",
        examples=list(indexes),
        batch_rows=asking.batch_rows,
        samples_per_prompt=asking.answers,
        on_done=lambda place, completions: finished(indexes[place], completions),
    )


def solve_problems(
    task: str, rows: Sequence[Row], indexes: Sequence[int], asking: Asking, done: Done
) -> None:
    """Records of word problems: right when the final number equals the reference's; no number is never right."""

    def finished(index: int, completions: list[Any]) -> None:
        done(
            {"index": index}
            | of_several(
                [
                    grade_problem(asking.tokenizer, rows[index], one, asking.plain)
                    for one in completions
                ]
            )
        )

    complete(task, rows, indexes, asking, finished)


def of_several(graded: list[Record]) -> Record:
    """The record of a problem's first answer; where more were drawn, with how many ("answers") and how many of them are right ("right")."""
    more = (
        {"answers": len(graded), "right": sum(record["passed"] for record in graded)}
        if len(graded) > 1
        else {}
    )
    return graded[0] | more


def grade_problem(tokenizer: Tokenizer, row: Row, completion: Any, plain: bool = False) -> Record:
    """A completion of a word problem graded: passed, answer (or None), expected, text, tokens, log_p (nats)."""
    text = chat.completion_text(tokenizer, completion.tokens)
    answer = chat.extract_gsm8k_answer(text.split("\n\n")[0] if plain else text)
    expected = chat.extract_gsm8k_answer(row["answer"])
    return {
        "passed": answer is not None and answer == expected,
        "answer": answer,
        "expected": expected,
        "text": text,
        "tokens": len(completion.tokens),
        "log_p": completion.sum_log_p,
    }


def write_programs(
    task: str, rows: Sequence[Row], indexes: Sequence[int], asking: Asking, done: Done
) -> None:
    """Records of Python functions: right when the task's own tests pass within the time limit."""
    waiting: list[tuple[int, list[Any]]] = []  # a problem and its completions

    def grade() -> None:
        lot = [
            (index, chat.completion_text(asking.tokenizer, one.tokens), len(one.tokens))
            for index, drawn in waiting
            for one in drawn
        ]
        checks = [check_of(rows[index], text) for index, text, _ in lot]
        results = sandbox.run_many(checks, asking.tool_timeout, workers=asking.workers)
        graded = iter(
            [
                {
                    "passed": result.passed,
                    "error": result.error,
                    "text": text,
                    "tokens": tokens,
                    "sandbox": sandbox.sandbox_level(),
                }
                for (_, text, tokens), result in zip(lot, results, strict=True)
            ]
        )
        for index, drawn in waiting:
            done({"index": index} | of_several([next(graded) for _ in drawn]))
        waiting.clear()

    def finished(index: int, completions: list[Any]) -> None:
        waiting.append((index, completions))
        if (
            sum(len(drawn) for _, drawn in waiting) >= PROGRAMS
        ):  # a run that is cut off loses no more than these
            grade()

    complete(task, rows, indexes, asking, finished)
    grade()
