"""Claims: numbers read as a person writes them, text is escaped, and a curve of anything can be
drawn.
"""

import math
import xml.etree.ElementTree as tree

import pytest

from nanolab.notebook import cards


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_228_800, "1,228,800"),
        (22959.8105, "22,960"),
        (400.0, "400"),
        (8, "8"),
        (0.8377, "0.838"),
        (12.345, "12.35"),
        (404.24, "404.2"),
        (0.0, "0.000"),
        (2.3e-7, "2.3e-07"),
        (None, "–"),
        ("bfloat16", "bfloat16"),
        (True, "True"),
        (math.inf, "infinite"),
    ],
)
def test_a_number_has_the_digits_that_a_reader_uses(value, text):
    assert cards.number(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("gsm8k", 0.585, "58.5%"),
        ("validation_tokens", 11992.0, "11,992"),
        ("best_alpha", 4.0, "4"),
        ("r_hat", math.inf, "infinite"),
    ],
)
def test_a_metric_is_written_as_the_table_of_metrics_says(metric, value, text):
    assert cards.written(metric, value) == text


def test_text_is_escaped_and_markup_is_not():
    html = cards.html().table(["<a>"], [["<b>"], [cards.html().link("<c>", "07_power_eval.ipynb")]])
    assert (
        "&lt;a&gt;" in html
        and "&lt;b&gt;" in html
        and '<a href="07_power_eval.ipynb">&lt;c&gt;</a>' in html
    )
    assert 'target="_blank"' in cards.html().link("run", "http://127.0.0.1:5000/#/experiments/1")


@pytest.mark.parametrize(
    "points",
    [
        [(1, 5.0)],
        [(1, 2.0), (2, 2.0)],
        [(step, 9 / step) for step in range(1, 2000)],
        [(1, 3.0), (2, math.nan)],
        [(1, -1.0), (2, 1.0)],
    ],
)
def test_a_curve_of_anything_is_a_valid_drawing(points):
    drawing = tree.fromstring(cards.curve(points, "loss, <nats>", end=5000))
    line = drawing.find("{http://www.w3.org/2000/svg}polyline").get("points").split()
    assert len(line) <= 701 and all(
        math.isfinite(float(number)) for point in line for number in point.split(",")
    )
    assert cards.number(points[-1][1]) in [
        text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_no_points_are_no_curve_and_shares_span_the_whole():
    assert cards.curve([], "loss") == "" and cards.image("") == ""
    texts = [
        text.text
        for text in tree.fromstring(
            cards.curve([(1, 0.2), (2, 0.5)], "accuracy", shares=True)
        ).iter()
        if text.text
    ]
    assert texts == ["accuracy", "100%", "0%", "50.0%"]
