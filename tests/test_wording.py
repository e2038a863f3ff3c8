"""Claims: what was measured reads as a person says it."""

import pytest

from nanolab import wording


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.26, "4.3 s"), (43.4, "43.4 s"), (185, "3:05"), (7800, "2:10:00")]
)
def test_a_measured_time_is_said_as_a_person_says_it(seconds, text):
    assert wording.clock(seconds) == text
