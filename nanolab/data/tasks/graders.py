"""Graders: from a row and what a model wrote to a verdict {passed, answer (None: none found),
expected, ...}.

Settings read the tasks, and those name their graders: what takes time is imported inside.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from nanolab.sandbox.programs import Check

Row = dict[str, Any]
Verdict = dict[str, Any]
LETTERS = "ABCDEFGHIJ"  # what a prompt can call the choices of a question
Answers = Sequence[tuple[Row, str]]  # rows with what was written, in order
LONGEST = 1000  # characters of a boxed answer; a longer one is a model that repeats itself
BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
BRACE = re.compile(r"\\[{}\\]|[{}]")  # escaped ones are passed over
# "Answer: (B)", "the answer is B." and \boxed{B}; of a bare letter the word must end with it
LETTER = re.compile(
    r"\b(?i:answer(?:\s+is)?)(?:[\s:*_$]|\\[(\[]){0,8}"
    r"(?:\(([A-J])\)|([A-J])(?=[).:,*_$]|[^\S\n]*(?:\n|\Z)))"
    r"|\\boxed\{\s*(?:\\(?:text|mathrm|mathbf)\{\s*)?\(?([A-J])\)?\s*\}"
)


class Limits(NamedTuple):
    """Of what graders run: seconds of a test program, and how many run at once."""

    seconds: float = 5.0
    workers: int = 2


@dataclass(frozen=True)
class Grader:
    """How a task is answered and graded; `kind` "choice" for the likeliest choice, for which
    nothing is written, else a written answer to a "problem" or a "program".
    """

    kind: Literal["choice", "problem", "program"]
    grade: Callable[[Answers, Limits], list[Verdict]] | None = None
    # whether answers are graded together, in processes of their own, and each text once
    waits: bool = False
    # of the answers to one problem: the first one equal to each, which is what it votes for; None
    # where equal answers are written alike
    votes: Callable[[Sequence[str], Limits], list[str]] | None = None


def one_by_one(verdict: Callable[[Row, str], Verdict]) -> Grader:
    """The grader of a problem by a function of its row and what was written."""
    return Grader("problem", lambda answers, limits: [verdict(*answer) for answer in answers])


def _verdict(answer: str | None, expected: str | None) -> Verdict:
    passed = answer is not None and answer == expected
    return {"passed": passed, "answer": answer, "expected": expected}


# ---- numbers, integers, letters


def number_verdict(row: Row, text: str) -> Verdict:
    """An answer to a word problem: right when its final number equals the reference's, never
    without one.
    """
    from nanolab.data.tasks.answers import final_number  # its patterns take time to compile

    return _verdict(final_number(text), final_number(row["answer"]))


def integer_verdict(row: Row, text: str) -> Verdict:
    """The whole number from 0 to 999 in the last box, which may have leading zeros."""
    return _verdict(_integer(boxed(text) or ""), _integer(str(row["answer"])))


def _integer(text: str) -> str | None:
    found = re.fullmatch(r"\$?\s*0*([0-9]{1,3})(?:\.0*)?\s*\$?", text.strip())
    return found and found[1]


def letter_verdict(letter: str, choices: int, text: str) -> Verdict:
    """The last letter that is named as the answer, of a question of so many `choices`."""
    named = [next(filter(None, found.groups())) for found in LETTER.finditer(text)]
    answer = next((one for one in reversed(named) if one in LETTERS[:choices]), None)
    return _verdict(answer, letter) | {"chance": 1 / choices}


# ---- expressions


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}; None without one, where it is empty, not closed or
    longer than LONGEST.
    """
    start = max((found.end() for found in BOX.finditer(text)), default=None)
    if start is None:
        return None
    depth = 1
    for brace in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if brace.start() - start > LONGEST:
            return None
        if depth == 0:
            return text[start : brace.start()].strip() or None
    return None


def grade_expressions(answers: Answers, limits: Limits) -> list[Verdict]:
    """Boxed answers, right where they are mathematically equal to row["answer"]."""
    from nanolab.sandbox.expressions import equal_many

    found = [boxed(text) for _, text in answers]
    pairs = [(row["answer"], answer or "") for (row, _), answer in zip(answers, found)]
    equal = equal_many(pairs, limits.workers)
    return [
        {"passed": same and answer is not None, "answer": answer, "expected": expected}
        for same, answer, (expected, _) in zip(equal, found, pairs, strict=True)
    ]


def equal_votes(answers: Sequence[str], limits: Limits) -> list[str]:
    """Of each expression the first one that is equal to it."""
    from nanolab.sandbox.expressions import equal_many

    votes: dict[str, str] = {}
    for answer in dict.fromkeys(answers):
        known = list(dict.fromkeys(votes.values()))
        equal = equal_many([(one, answer) for one in known], limits.workers)
        votes[answer] = next((one for one, same in zip(known, equal) if same), answer)
    return [votes[answer] for answer in answers]


# ---- programs


def programs(check: Callable[[Row, str], "Check"]) -> Grader:
    """The grader by the row's own tests, within the time limit; `check` makes a program with its
    tests of a row and what was written.
    """
    return Grader("program", partial(_run, check), waits=True)


def _run(check: Callable[[Row, str], "Check"], answers: Answers, limits: Limits) -> list[Verdict]:
    from nanolab.sandbox import programs

    checks = [check(row, text) for row, text in answers]
    results = programs.run_many(checks, limits.seconds, workers=limits.workers)
    return [
        {
            "passed": result.passed,
            "answer": text.strip(),
            "expected": None,
            "error": result.error,
            "sandbox": str(programs.strongest_level()),
        }
        for (_, text), result in zip(answers, results, strict=True)
    ]


CHOICE = Grader("choice")
NUMBER = one_by_one(number_verdict)
INTEGER = one_by_one(integer_verdict)
EXPRESSION = Grader("problem", grade_expressions, waits=True, votes=equal_votes)
