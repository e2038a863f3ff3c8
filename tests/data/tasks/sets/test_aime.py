"""AIME: two years with rows of one form, answered by a whole number in a box."""

import pytest

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.graders import Limits


@pytest.mark.parametrize(
    ("name", "rows", "answers"),
    [
        ("aime_2024", "HuggingFaceH4/aime_2024/train", ["73", "999"]),
        ("aime_2025", "math-ai/aime25/test", ["70", "0"]),
    ],
)
def test_the_references_of_both_years_are_read_and_right(rows_of, name, rows, answers):
    task, rows = TASKS[name], rows_of(rows)
    texts = [task.messages(row)[1]["content"] for row in rows]
    found = task.form.grader.grade(list(zip(rows, texts)), Limits())
    assert [one["expected"] for one in found] == answers and all(one["passed"] for one in found)
    swapped = task.form.grader.grade(list(zip(rows, texts[::-1])), Limits())
    assert not any(one["passed"] for one in swapped)
    assert task.messages(rows[0])[0]["content"].endswith("within \\boxed{}.")
