"""Best of n and majority vote."""

from nanolab.inference.protocol import Draws
from nanolab.samplers.baselines import best_of, majority


def completion(*log_p):
    return Draws([5] * len(log_p), [False] * len(log_p), list(log_p), ended=True)


def test_best_of_takes_the_highest_total():
    short, long = completion(-1.0), completion(-0.4, -0.4)
    assert best_of([short, long, completion(-3.0)]) is long
    assert best_of([short, completion(-1.0)]) is short


def test_majority_ignores_missing_answers_and_prefers_the_first_of_equals():
    assert majority(["7", None, None, None, "7", "8"]) == "7"
    assert majority(["8", "7", "7", "8"]) == "8"
    assert majority([None, None]) is None and majority([]) is None
