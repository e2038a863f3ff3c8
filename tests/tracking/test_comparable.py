"""Claims: a row is called comparable only when every number in it is of the same problems, and the
line says which are not.
"""

from nanolab.tracking import comparable

TASKS = {"GSM8K": "gsm8k", "MMLU": "mmlu"}


def step(n, digest="d1", **more):
    return {"gsm8k": 0.5, "gsm8k/n": float(n), "problems.gsm8k.test": digest, **more}


def test_columns_of_the_same_problems_share_one_line():
    power = {"gsm8k": 0.6, "total": 400.0, "problems.gsm8k.test": "d1"}
    mmlu = {"mmlu": 0.25, "mmlu/n": "200", "problems.mmlu.test": "m"}
    columns = {"SFT": step(400, **mmlu), "POWER": power}
    assert comparable.notes(columns, TASKS) == [
        "Problems, the same in every column of a row: GSM8K 400, MMLU 200."
    ]


def test_columns_of_other_problems_are_named():
    columns = {
        "MID": step(200, "d2"),
        "SFT": step(200, "d2"),
        "POWER": {"gsm8k": 0.6, "total": 400, "problems.gsm8k.test": "d1"},
    }
    assert comparable.notes(columns, TASKS) == [
        "GSM8K: MID and SFT of 200, POWER of 400, not the same problems: compare only within these"
        " groups"
    ]


def test_as_many_problems_are_not_the_same_problems():
    assert (
        "not the same problems"
        in comparable.notes({"A": step(200, "d1"), "B": step(200, "d2")}, TASKS)[0]
    )
    assert (
        "not known to be the same"
        in comparable.notes({"A": step(200, ""), "B": step(200, "")}, TASKS)[0]
    )
    assert comparable.notes({"A": step(200, "")}, TASKS) == [
        "Problems, the same in every column of a row: GSM8K 200."
    ]


def test_a_row_without_counts_says_nothing():
    assert comparable.notes({"A": {"gsm8k": 0.5}, "B": step(200)}, TASKS) == []
    assert comparable.notes({"A": {}}, TASKS) == []
