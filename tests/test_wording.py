"""Claims: what was measured reads as a person says it."""

import pytest

from nanolab import wording


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.26, "4.3 s"), (43.4, "43.4 s"), (185, "3:05"), (7800, "2:10:00")]
)
def test_a_measured_time_is_said_as_a_person_says_it(seconds, text):
    assert wording.clock(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "-"), (999, "999"), (1234, "1.23k"), (999_499, "999k"), (999_999, "1M"), (2.5e12, "2.5T")],
)
def test_a_large_number_is_short(number, text):
    assert wording.short(number) == text
