"""MBPP: a function by its description and tests, run in the sandbox."""

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.graders import Limits
from nanolab.data.tasks.sets.mbpp import entry_point

MBPP = TASKS["mbpp"]
PLACE = "google-research-datasets/mbpp/sanitized/test"


def test_the_tests_name_the_function(rows_of):
    shared, diagonal = rows_of(PLACE)
    assert (entry_point(shared), entry_point(diagonal)) == ("shared", "diagonal")
    user, assistant = MBPP.messages(shared)
    assert user["content"].endswith("assert set(shared([], [1])) == set()")
    assert assistant["content"] == shared["code"]


def test_references_pass_and_what_is_wrong_does_not(rows_of):
    shared, diagonal = rows_of(PLACE)
    fenced = "Here it is:\n\n```python\n{}\n```\nDone."
    texts = [
        (shared, shared["code"]),
        (shared, fenced.format(shared["code"])),
        (diagonal, fenced.format(diagonal["code"])),
        (shared, "def shared(a, b):\n    return ()"),
        (shared, "def other(a, b):\n    return tuple(set(a) & set(b))"),
        (diagonal, "def diagonal(side):\n    return 2 * side"),
        (diagonal, ""),
    ]
    found = MBPP.form.grader.grade(texts, Limits(20.0, 2))
    assert [one["passed"] for one in found] == [True] * 3 + [False] * 4
