"""Equality of mathematical expressions: what is written otherwise, what only looks alike, and what
would never end.
"""

import pytest

from nanolab.sandbox.expressions import Worker, equal_many

EQUAL = [
    (r"\frac{14}{3}", r"\dfrac{14}{3}"),
    (r"\frac{14}{3}", "14/3"),
    (r"\frac{14}{3}", r"\frac{28}{6}"),
    (r"1\frac{4}{5}", "1.8"),
    ("0.15", r"\frac{3}{20}"),
    (".0000672", r"6.72\times 10^{-5}"),
    (r"10,\!080", "10080"),
    ("10080", r"10\,080"),
    ("10080", "10 080"),
    ("10080", "10{,}080"),
    (r"\$32,\!348", "32348"),
    (r"\$36", r"36 \text{ dollars}"),
    (r"90^\circ", "90"),
    ("90", r"90 \text{ degrees}"),
    (r"15\mbox{ cm}^2", "15"),
    ("9", r"9\%"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("y = 2x + 3", "y=3+2x"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("(3,4]", r"\left(3,4\right]"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("3, 5, 7", "7,5,3"),
    ("3, 5, 7", r"\{3,5,7\}"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19},1+\sqrt{19}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(C)}", "C"),
    (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ 2 \end{bmatrix}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("6 - 5i", "-5i+6"),
    (r"(3, \frac{\pi}{2})", r"\left(3, \frac12\pi\right)"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),  # the problem has named the base
    ("27", "27."),
    ("27", r"27\text{.}"),
    ("27", "{27}"),
    ("720", "6!"),
]
UNEQUAL = [
    ("3", "4"),
    (r"\frac13", "0.33"),
    (r"\pi", "3.14"),
    (r"\pi", r"\frac{22}{7}"),
    ("(3,4]", "(3,4)"),
    ("(2,4)", "(4,2)"),
    ("(2,4)", "4,2"),
    ("3, 5, 7", "3, 5"),
    ("3, 5, 7", "3, 5, 7, 9"),
    ("52_8", "52_9"),
    ("52_8", "42"),
    ("x=5", "y=5"),
    (r"\text{even}", r"\text{odd}"),
    (r"\text{even}", r"\text{not even}"),
    (r"\text{east}", r"\text{seat}"),
    (r"\text{(C)}", r"\text{(D)}"),
    (r"1 \pm \sqrt{19}", r"1 + \sqrt{19}"),
    ("6 - 5i", "6+5i"),
    ("5", "5x"),
    ("58,500", "58.5"),
    ("90", r"10\,080"),
    ("27", "27,28"),
    ("27", "2.7"),
    ("7", r"10^{3} \bmod 7"),  # the last number of what is not understood is no answer
    ("7", r"\foo 7"),
    ("7", "The answer is 7"),
    ("2k", "2n"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    ("7", ""),
    ("", ""),
    ("7", r"\frac{7"),
    ("7", "}7{"),
]
# What math-verify says and a person may not: kept as it is, for figures that can be compared.
LENIENT = [
    (r"\frac13", "0.333333"),  # decimals are compared to six places
    (r"9\%", "0.09"),
    ("(2,4)", "2,4"),
    ("3R^2", "3r^2"),
]
ENDLESS = ["10^{10^{10}}", "{" * 1000]


def test_what_is_equal_is_equal_however_it_is_written():
    assert [pair for pair, same in zip(EQUAL, equal_many(EQUAL)) if not same] == []


def test_what_looks_alike_is_not_equal():
    assert [pair for pair, same in zip(UNEQUAL, equal_many(UNEQUAL)) if same] == []


def test_the_leniency_of_math_verify_is_the_one_that_is_known():
    assert equal_many(LENIENT) == [True] * len(LENIENT)


def test_what_would_not_end_is_not_equal_and_the_next_pair_is_compared():
    worker = Worker(seconds=0.2)
    try:
        assert [worker.equal("7", text) for text in ENDLESS] == [False] * len(ENDLESS)
        worker.seconds = 60.0  # of the process that takes over
        assert worker.equal("1/2", "0.5")
    finally:
        worker.end()


def test_a_worker_that_fails_is_an_error_and_no_verdict(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr("nanolab.sandbox.expressions.expression_worker.__file__", str(broken))
    with pytest.raises(RuntimeError, match="exit status 3"):
        Worker().equal("1", "2")


def test_its_process_ends_with_its_input_and_a_new_one_takes_over_from_a_dead_one():
    worker = Worker()
    assert worker.equal("2", "4/2")
    worker.process.kill()
    worker.process.wait()
    assert worker.equal("2", "4/2")
    process = worker.process
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
