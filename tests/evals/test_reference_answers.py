"""The graders give full marks to the references themselves: on rows of our own with the odd cases,
and on the public test sets.
"""

import os
import time
from decimal import Decimal
from pathlib import Path

import pandas
import pytest

from nanolab.data.tasks.answers import final_number
from nanolab.data.tasks.programs import check_of
from nanolab.sandbox.programs import run_many

REAL = os.environ.get("NANOLAB_DATA")
real = pytest.mark.skipif(REAL is None, reason="NANOLAB_DATA names no folder with the public sets")

PROBLEMS = {  # a reference answer's end -> its number
    "#### 18": "18",
    "#### 1,080": "1080",
    "#### 12,345,678": "12345678",
    "#### -7": "-7",
    "#### $25": "25",
    "#### $1,250.50": "1250.5",
    "#### -$3": "-3",
    "#### 40%": "40",
    "#### 6 boxes": "6",
    "#### 0.25": "0.25",
    "#### 3.0": "3",
    "#### 72.": "72",
    "####   5  ": "5",
    "####9": "9",
    "#### 1,000 dollars.": "1000",
    "#### .75": "0.75",
    "We had #### 3 once.\n#### 4": "4",
    "#### 0": "0",
    "#### 10\n": "10",
}

PROGRAMS = [  # each with a trait that a real row has
    {
        "entry_point": "last",
        "prompt": (
            "from typing import List\n\n\ndef last(xs: List[float]) -> float:\n    ''' The last"
            " one. '''\n"
        ),
        "canonical_solution": "    return xs[-1]\n",
        "test": (
            "\n\nMETADATA = {'author': 'us'}\n\n\ndef check(candidate):\n    assert candidate([1.0,"
            " 2.5]) == 2.5\n    assert candidate([float('inf')]) > 1e300\n"
        ),
    },
    {
        "entry_point": "decode",
        "prompt": (
            "def encode(s: str):\n    return s[1:] + s[:1]\n\n\n"
            'def decode(s: str):\n    """Undo encode."""\n'
        ),
        "canonical_solution": "    return s[-1:] + s[:-1]\n",
        "test": (
            "\ndef check(candidate):\n    from random import choice\n    import string\n    for _"
            " in range(50):\n        s = ''.join(choice(string.ascii_letters) for _ in range(7))\n "
            "       assert candidate(encode(s)) == s\n"
        ),
    },
    {
        "entry_point": "third",
        "prompt": 'def third(l: list):\n    """Every third."""\n',
        "canonical_solution": "    \n    kept = l[::3]\n    return kept\n",
        "test": (
            "def check(candidate):\n    assert tuple(candidate([1, 2, 3, 4])) == tuple(third([1, 2,"
            " 3, 4]))\n    assert candidate([]) == []\n"
        ),
    },
    {
        "entry_point": "root",
        "prompt": (
            "import math\n\n\ndef value(cs: list, x: float):\n    return sum(c * math.pow(x, i) for"
            ' i, c in enumerate(cs))\n\n\ndef root(cs: list):\n    """Where the line is zero."""\n'
        ),
        "canonical_solution": "    return -cs[0] / cs[1]\n",
        "test": (
            "def check(candidate):\n    import math\n    import copy\n    cs = [3, -2]\n    x ="
            " candidate(copy.deepcopy(cs))\n    assert math.fabs(value(cs, x)) < 1e-4\n"
        ),
    },
    {
        "entry_point": "kinds",
        "prompt": 'def kinds(x):\n    """All sorts.\n    """\n',
        "canonical_solution": (
            "    import hashlib\n    return (None, True, {'a': [1, (2,)]}, {3},"
            " hashlib.md5(x.encode()).hexdigest()[:4])\n"
        ),
        "test": (
            "def check(candidate):\n    assert candidate('x') == (None, True, {'a': [1, (2,)]},"
            " {3}, '9dd4')\n    assert candidate('x')[1] is True\n"
        ),
    },
    {
        "entry_point": "pour",
        "prompt": 'def pour(a, b):\n    """Empties a into b."""\n',
        "canonical_solution": "    b += a\n    a.clear()\n",
        "test": (
            "def check(candidate):\n    a, b = [1], [2]\n    assert candidate(a, b) is None\n   "
            " assert (a, b) == ([], [2, 1])\n"
        ),
    },
    {
        "entry_point": "refuse",
        "prompt": 'def refuse(x):\n    """Raises for what is negative."""\n',
        "canonical_solution": "    if x < 0:\n        raise ValueError('negative')\n    return x\n",
        "test": (
            "def check(candidate):\n    assert candidate(1) == 1\n    try:\n        candidate(-1)\n"
            "    except ValueError:\n        return\n    assert False\n"
        ),
    },
]


@pytest.mark.parametrize("answer", PROBLEMS)
def test_a_reference_answer_of_ours_is_read(answer):
    assert final_number(f"Some <<1+1=2>>2 steps, 99 of them.\n{answer}") == PROBLEMS[answer]


def test_reference_programs_of_ours_pass_and_empty_ones_fail():
    rows = [{"task_id": f"own/{i}", **row} for i, row in enumerate(PROGRAMS)]
    right = run_many([check_of(row, row["canonical_solution"]) for row in rows], 20)
    assert [result.error for result in right] == [None] * len(rows)
    assert not any(
        result.passed for result in run_many([check_of(row, "    return 'no'") for row in rows], 20)
    )


@real
def test_every_public_reference_is_right_within_a_minute():
    """1,319 of 1,319 answers of GSM8K's test split, 164 of 164 solutions of HumanEval."""
    start = time.monotonic()
    answers = pandas.read_parquet(Path(REAL, "openai/gsm8k/main/test.parquet"))["answer"]
    assert len(answers) == 1319
    for answer in answers:
        read = final_number(answer)
        assert read is not None and Decimal(read) == Decimal(
            answer.rpartition("####")[2].replace(",", "").strip()
        ), answer
    rows = pandas.read_parquet(
        Path(REAL, "openai/openai_humaneval/openai_humaneval/test.parquet")
    ).to_dict("records")
    results = run_many([check_of(row, row["canonical_solution"]) for row in rows], 20, workers=2)
    assert [
        row["task_id"] for row, result in zip(rows, results, strict=True) if not result.passed
    ] == []
    assert len(results) == 164 and time.monotonic() - start < 60


@real
def test_public_programs_pass_in_every_form_that_a_chat_model_gives_them():
    """The whole function in a fence with prose around it, the prompt again, a stripped body: every
    eighth problem, all right.
    """
    rows = pandas.read_parquet(
        Path(REAL, "openai/openai_humaneval/openai_humaneval/test.parquet")
    ).to_dict("records")[::8]
    checks = []
    for row in rows:
        whole = row["prompt"].rstrip() + "\n" + row["canonical_solution"]
        checks += [
            check_of(row, f"Here you are:\n\n```python\n{whole}```\n\nIt works."),
            check_of(row, whole),
            check_of(row, f"Sure!\n\n{whole}\n\nThis function does it."),
            check_of(row, row["canonical_solution"].strip()),
        ]
    results = run_many(checks, 20, workers=2)
    assert [
        (i // 4, i % 4, result.error) for i, result in enumerate(results) if not result.passed
    ] == []
