"""What counts as the answer of a text (a box, a letter, a whole number); what equal ones vote."""

import pytest

from nanolab.data.tasks.graders import Limits, boxed, equal_votes, integer_verdict, letter_verdict

BOXES = {
    r"So \boxed{5}.": "5",
    r"\boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed {5}": "5",
    r"\fbox{5}": "5",
    r"\boxed{1} or rather \boxed{2}": "2",
    r"\boxed{\boxed{3}}": "3",
    r"$$\boxed{\left\{1, 2\right\}}$$": r"\left\{1, 2\right\}",
    r"\boxed{a \} b}": r"a \} b",
    "\\boxed{\n  7\n}": "7",
    r"\boxed{}": None,
    r"\boxed{  }": None,
    r"\boxed{1} and \boxed{2": None,  # cut while it was written
    r"\boxed{\frac{1}{2}": None,
    "The answer is 5.": None,
    "": None,
    r"\boxed 5": None,
    "\\boxed{" + "1" * 2000 + "}": None,
    "\\boxed{" * 100_000: None,
    "{" * 1_000_000 + r"\boxed{5}": "5",
    r"\boxed{5}" + "}" * 1_000_000: "5",
    "x" * 10_000_000: None,
}
LETTERS = {
    "Answer: (B)": "B",
    "Answer: B": "B",
    "**Answer: (B)**": "B",
    "**Answer:** B": "B",
    "answer is (B), since": "B",
    "The answer is B.": "B",
    "Answer: B) 3 metres": "B",
    r"Answer: $\boxed{B}$": "B",
    r"The answer is \(\boxed{\text{(B)}}\)": "B",
    r"So \boxed{B}": "B",
    "Answer: (A)\nOn reflection:\nAnswer: (B)\n": "B",
    "Answer:\n(B)": "B",
    "The answer is A good one": None,
    "Answer: Both": None,
    "Answer: (E)": None,  # there are four choices
    "Answer: (b)": None,
    "B": None,
    "": None,
    "answer " * 200_000: None,
}
INTEGERS = {
    r"\boxed{73}": "73",
    r"\boxed{073}": "73",
    r"\boxed{73.}": "73",
    r"\boxed{$73$}": "73",
    r"\boxed{0}": "0",
    r"\boxed{000}": "0",
    r"\boxed{999}": "999",
    r"\boxed{1000}": None,
    r"\boxed{-73}": None,
    r"\boxed{73.5}": None,
    r"\boxed{7 3}": None,
    "73": None,
}


@pytest.mark.parametrize("text", BOXES, ids=lambda text: text[:30])
def test_the_last_box_that_is_closed_at_the_end_counts(text):
    assert boxed(text) == BOXES[text]


@pytest.mark.parametrize("text", LETTERS, ids=lambda text: text[:30])
def test_the_letter_that_is_named_as_the_answer_counts(text):
    verdict = letter_verdict("B", 4, text)
    assert verdict["answer"] == LETTERS[text] and verdict["passed"] == (LETTERS[text] == "B")


@pytest.mark.parametrize("text", INTEGERS)
def test_a_whole_number_of_three_digits_counts(text):
    assert integer_verdict({"answer": "073"}, text) == {
        "passed": INTEGERS[text] == "73",
        "answer": INTEGERS[text],
        "expected": "73",
    }


def test_equal_expressions_vote_for_the_first_of_them():
    answers = [r"\frac{1}{2}", "2", "0.5", "1/2", "2.0", r"\frac{1}{2}", "x"]
    votes = equal_votes(answers, Limits())
    assert votes == [answers[0], "2", answers[0], answers[0], "2", answers[0], "x"]
