"""MATH-500: asked for a box, graded by equality, its rows in any of the forms that copies have."""

import os
from pathlib import Path

import pytest

from nanolab.data.sources.source import open_source
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.graders import Limits
from nanolab.settings.config import DataConfig

MATH = TASKS["math500"]
REAL = Path(os.environ.get("NANOLAB_DATA", ""), MATH.published.local_folder)
LIMITS = Limits()


def test_a_problem_is_asked_for_a_box_and_answered_by_one(rows_of):
    row = rows_of("HuggingFaceH4/MATH-500/test")[0]
    user, assistant = MATH.messages(row)
    assert user["content"].startswith("A cake is cut into $8$")
    assert user["content"].endswith("put your final answer within \\boxed{}.")
    assert assistant["content"] == "\\boxed{\\frac{1}{4}}"
    assert MATH.messages(row, noted=True) == MATH.messages(row)  # it says its form to everybody


def test_the_references_are_right_and_no_other_row_s_reference_is(rows_of):
    rows = rows_of("HuggingFaceH4/MATH-500/test")
    texts = [MATH.messages(row)[1]["content"] for row in rows]
    grade = MATH.form.grader.grade
    assert [one["passed"] for one in grade(list(zip(rows, texts)), LIMITS)] == [True] * 4
    others = list(zip(rows, texts[1:] + texts[:1]))
    assert [one["passed"] for one in grade(others, LIMITS)] == [False] * 4


def test_a_plain_answer_ends_where_the_model_asks_the_next_question_itself(rows_of):
    text = " It is\n\n\\boxed{1/4}.\n\nQuestion: What is 1+1?\nAnswer: \\boxed{2}"
    (verdict,) = MATH.form.grader.grade(
        [(rows_of("HuggingFaceH4/MATH-500/test")[0], MATH.form.answer(text))], LIMITS
    )
    assert verdict == {"passed": True, "answer": "1/4", "expected": "\\frac{1}{4}"}


@pytest.mark.skipif(
    not REAL.is_dir() or "NANOLAB_DATA" not in os.environ,
    reason="NANOLAB_DATA names no folder with MATH-500",
)
def test_every_public_reference_is_right_by_the_library_s_verdict_too():
    """500 of 500: as answers, and by math-verify, which the grader does not ask where reference and
    answer are the same text.
    """
    from math_verify import verify

    from nanolab.sandbox.expression_worker import parsed

    source = open_source(DataConfig(source="local", root=os.environ["NANOLAB_DATA"]))
    rows = source.task("math500", "test")
    texts = [f"So the answer is $\\boxed{{{row['answer']}}}$." for row in rows]
    found = MATH.form.grader.grade(list(zip(rows, texts)), LIMITS)
    assert [one["answer"] for one in found if not one["passed"]] == [] and len(found) == 500
    answers = {row["answer"] for row in rows}
    assert [
        answer
        for answer in answers
        if not parsed(answer) or not verify(parsed(answer), parsed(answer), timeout_seconds=None)
    ] == []
