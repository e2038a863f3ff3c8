"""GPQA Diamond: choices in an order of each row's own, answered in writing by a letter."""

import csv
from collections import Counter
from pathlib import Path

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.graders import Limits
from nanolab.data.tasks.sets.gpqa_diamond import shuffled

GPQA = TASKS["gpqa_diamond"]
FILE = Path(__file__).parents[2] / "rows/Idavidrein/gpqa/gpqa_diamond/train.csv"


def rows():
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_question_has_its_choices_by_letter_and_asks_for_reasoning():
    first, _ = rows()
    user, assistant = GPQA.messages(first)
    lines = user["content"].split("\n")
    assert lines[0] == "Which of these holds ink?" and lines[1] == ""
    assert sorted(line[4:] for line in lines[2:6]) == ["1.50", "NA", 'a "spoon", bent', "a pen"]
    assert [line[:4] for line in lines[2:6]] == ["(A) ", "(B) ", "(C) ", "(D) "]
    assert lines[-1].startswith("Think step by step") and "A, B, C, D" in lines[-1]
    letter = next(line[1] for line in lines if line.endswith("a pen"))
    assert assistant["content"] == f"Answer: ({letter})"


def test_the_order_is_the_same_each_time_and_each_letter_is_right_as_often():
    first, second = rows()
    assert shuffled(first) == shuffled(dict(first)) and shuffled(second).choices != []
    made = [first | {"Question": f"Question {i}?"} for i in range(400)]
    counts = Counter(shuffled(row).answer for row in made)
    assert set(counts) == set("ABCD") and min(counts.values()) > 70  # of 100 expected


def test_the_letter_named_last_is_graded_with_its_chance():
    first, _ = rows()
    right = shuffled(first).answer
    wrong = next(letter for letter in "ABCD" if letter != right)
    texts = [f"Answer: ({right})", f"Answer: ({right})\nNo. Answer: ({wrong})", "I do not know."]
    found = GPQA.form.grader.grade([(first, text) for text in texts], Limits())
    assert [(one["passed"], one["answer"]) for one in found] == [
        (True, right),
        (False, wrong),
        (False, None),
    ]
    assert {one["chance"] for one in found} == {0.25}
