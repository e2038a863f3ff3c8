"""The number of an answer: read at its exact value as a person would, and never in part."""

import itertools
import re
from fractions import Fraction
from pathlib import Path

import pytest

from nanolab.data.tasks.answers import final_number, written
from nanolab.samplers.baselines import majority
from nanolab.seeds import generator

READ = {  # what stands after the mark -> its number
    # brackets, marks of emphasis, LaTeX, an equals sign, a colon
    "(12)": "12",
    "[12]": "12",
    "\\boxed{12}": "12",
    "$\\boxed{12}$": "12",
    "\\boxed{\\text{12}}": "12",
    "\\(12\\)": "12",
    "= 12": "12",
    "=12": "12",
    ": 12": "12",
    "**12**": "12",
    "`12`": "12",
    "_12_": "12",
    '"12"': "12",
    "\\boxed{12\\text{ km}}": "12",
    "12)": "12",
    # signs of each kind, before and behind a currency sign
    "\u221212": "-12",
    "\u201312": "-12",
    "\u2014 12": "-12",
    "\u201012": "-12",
    "\u201112": "-12",
    "\uff0d12": "-12",
    "\ufe6312": "-12",
    "(-12)": "-12",
    "-(12)": "-12",
    "- 12": "-12",
    "-$12": "-12",
    "$-12": "-12",
    "$ \u2212 12": "-12",
    "\u2212\u20ac1,000.50": "-1000.5",
    "+12": "12",
    "-0": "0",
    # currencies
    "$12": "12",
    "\u20ac12": "12",
    "\u00a312.50": "12.5",
    "\u20b91,000": "1000",
    "\u00a5 12": "12",
    "US$12": "12",
    "12\u20ac": "12",
    "12 \u20ac": "12",
    "50\u00a2": "50",
    "\\$12": "12",
    "($12)": "12",
    # thousands
    "1,000": "1000",
    "12,345,678.25": "12345678.25",
    "1 000": "1000",
    "1\u00a0000": "1000",
    "1\u202f000\u202f000": "1000000",
    "1\u2009000.5": "1000.5",
    "1'000": "1000",
    "1\u2019000": "1000",
    "1{,}000": "1000",
    "1\\,000": "1000",
    "5 million": "5000000",
    "1.5 thousand dollars": "1500",
    # decimals, fractions, powers of ten
    "3.50": "3.5",
    ".5": "0.5",
    "-.5": "-0.5",
    "1.000": "1",
    "007": "7",
    "1/2": "0.5",
    "-1/2": "-0.5",
    "10/2": "5",
    "1 / 3": "1/3",
    "2/6": "1/3",
    "1\u20442": "0.5",
    "3 1/2": "3.5",
    "-3 1/2": "-3.5",
    "3 and 1/2": "3.5",
    "1,000/8": "125",
    "\u00bd": "0.5",
    "3\u00bd": "3.5",
    "3 \u2154": "11/3",
    "\\frac{1}{2}": "0.5",
    "3\\dfrac{1}{2}": "3.5",
    "\\boxed{\\frac{2}{3}}": "2/3",
    "5e3": "5000",
    "1.5E-3": "0.0015",
    "5e+3": "5000",
    "2.5 \u00d7 10^3": "2500",
    "5 \\times 10^{3}": "5000",
    "5*10**3": "5000",
    # what stands behind it
    "12.": "12",
    "12. So it is.": "12",
    "12!": "12",
    "12...": "12",
    "12%": "12",
    "12 %": "12",
    "12\\%": "12",
    "20 percent": "20",
    "12\u00b0": "12",
    "90^\\circ": "90",
    "12 boxes": "12",
    "5km": "5",
    "12 km/h": "12",
    "$12/hour": "12",
    "12 miles per hour": "12",
    "12, since 3 are gone": "12",
    "12 (of 30)": "12",
    "12 - so": "12",
    "12 m": "12",
    "12 boxes, and no more": "12",
    "12 kids": "12",
    "12 = 3*4": "12",
    "12\n5 were left.": "12",
    "12\r\n- 5": "12",
    "12 miles an hour": "12",
    "12 times": "12",
    "1 point": "1",
    "12 or so": "12",
    "12 one-way tickets": "12",
    "12 e-mails": "12",
    "12 pies": "12",
    "12 seconds": "12",
    "USD 12": "12",
    "Rs. 1,000": "1000",
    "12\u00b0C": "12",
    "12hours": "12",
    "12kgs": "12",
    "\\frac12": "0.5",
    "\u200b12\ufeff": "12",
    "2 and 100/200": "2.5",
}
REFUSED = [  # a part of these is a number, and none is read
    "12:30",
    "3,5",
    "1,00",
    "0,5",
    "0,500",
    "1,23,456",
    "1234,567",
    "12,3456",
    "1.000,50",
    "1,000 000",
    "1 00",
    "1  000",
    "1 0000",
    "1.2.3",
    "1..2",
    "12-13",
    "12\u201313",
    "12 - 3",
    "2024-01-02",
    "1/2/2024",
    "1/0",
    "3 5/2",
    "3-1/2",
    "1.5/2",
    "1/2.5",
    "1/2e3",
    "0x10",
    "0b11",
    "1e",
    "1e3e4",
    "5 e3",
    "1e1000",
    "2nd",
    "12th",
    "12pm",
    "10:30 am",
    "1980s",
    "12k",
    "3M",
    "$2M",
    "12x",
    "12a",
    "12-hour",
    "12.com",
    "12,so",
    "12_000",
    "12@3",
    "12#3",
    "12(3)",
    "12/",
    "5'6\"",
    "5h30",
    "10\u00b2",
    "2\u221a3",
    "12\u03c0",
    "12\\pi",
    "12 \\pi",
    "12\\times 3",
    "3*6",
    "3 x 6",
    "5 + 3",
    "2^10",
    "12\u0663",
    "\u0665",
    "12 13",
    "12, 13",
    "12; 13",
    "12 or 13",
    "5 of 8",
    "1 hour 30 minutes",
    "5 feet 6 inches",
    "5 dollars and 25 cents",
    "5 feet, 6 inches",
    "1 hour, 30 minutes",
    "5 dollars, and 25 cents",
    "12, and 13",
    "12 boxes or 13",
    "5 k",
    "$5 M",
    "2 bn dollars",
    "12 and a half",
    "3 and four fifths",
    "--5",
    "+-5",
    "\u00b15",
    "~12",
    "\u224812",
    "#12",
    "9" * 301,
    "12\u00bd\u00bd",
    # thousands that a blank parts, before a slash
    "2 050/100",
    "1 000/3",
    "1 001/2000",
    "12 000/90000",
    "1\u202f000/3",
    # operators of each kind behind a blank
    *(f"3 {sign} 6" for sign in "\u22c5\u2219\u2217\u2715\u2a2f%~\u301c\u2192<>?"),
    "5 ... 6",
    "3. 5",
    "12 . 5",
    # brackets, emphasis or a sign before the second number
    "(1) / (2)",
    "(3) + (4)",
    "(3) (4)",
    "12 (13)",
    "12 or **13**",
    "12, **13**",
    "12 and (13)",
    "12 and -13",
    # a word, an operator, a number
    "3 boxes * 4 = 12",
    "3 apples + 2 oranges",
    "3 x + 2",
    "5 hours - 30 min",
    "5 hours/30 min",
    # numbers in words
    "2 hundred five",
    "5 hundred thousand",
    "2 hundred and twenty-five",
    "12 quadrillion",
    "5 lakh",
    "3 dozen",
    "2 thirds",
    "3 quarters",
    "3 tenths",
    "12 and thirteen",
    "12 dollars and fifty cents",
    "12 plus a half",
    "12 point five",
    "12 half",
    # a factor or a power behind a blank
    "12 \u03c0",
    "12 pi",
    "12 e",
    "12 sqrt(2)",
    "12 \u00b2",
    "12 squared",
]


@pytest.mark.parametrize("text", READ)
def test_a_form_that_a_person_accepts_is_read(text):
    assert final_number(f"Of 99 it is\n#### {text}") == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_part_of_a_number_is_never_read(text):
    assert final_number(f"Of 99 it is\n#### {text}") is None


def test_the_page_says_what_is_read():
    """Every row of the tables of docs/answers.md."""
    page = Path(__file__).parents[3].joinpath("docs", "answers.md").read_text()
    read = re.findall(r"^\| `([^`]+)` \| (-?[0-9.]+) \|", page, re.MULTILINE)
    refused = re.findall(r"^\| `([^`]+)` \| [^|]*\|$", page, re.MULTILINE)
    assert len(read) >= 20 and len(refused) >= 20
    for text, number in read + [(text, None) for text in refused]:
        assert final_number(f"#### {text}") == number, text


@pytest.mark.parametrize(
    "text, answer",
    [
        ("#### 5\n#### 12", "12"),
        ("#### 5 #### 12 #### x", "12"),
        ("#### 5\n#### 12:30", None),
        ("##### 12", "12"),
        ("### 12", None),
    ],
)
def test_the_last_mark_that_a_digit_follows_decides(text, answer):
    assert final_number(text) == answer


def forms(value):
    """Ways of writing a number: with thousands marks and without, decimals and fractions."""
    size, sign = abs(value), "-" if value < 0 else ""
    whole, rest = divmod(size.numerator, size.denominator)
    yield f"{sign}{size.numerator}/{size.denominator}"
    yield f"{sign}{size.numerator:,}/{size.denominator:,}"
    if rest:
        may_be_group = len(str(whole)) <= 3 == len(str(rest))  # 1 234/1000
        yield f"{sign}{whole}{' and' * may_be_group} {rest}/{size.denominator}"
    if (
        set(re.findall("[^25]", str(size.denominator))) <= set("01")
        and 10**6 % size.denominator == 0
    ):
        decimals = f".{rest * 10**6 // size.denominator:06d}"
        yield f"{sign}{size.numerator * 10**6 // size.denominator}e-6"
        for mark in (",", " ", "\u00a0", "'", ""):
            yield f"{sign}{whole:,}".replace(",", mark) + decimals


def test_a_number_in_every_form_and_dress_has_its_exact_value():
    random = generator("numbers")
    dresses = [
        "{}",
        "({})",
        "\\boxed{{{}}}",
        "= {}",
        "${}",
        "**{}**",
        "{} apples",
        "{}.",
        "{}%",
        "{} \u20ac",
        ": {}\nNext 7",
    ]
    denominators = (1, 1, 1, 2, 3, 7, 8, 10, 25, 100, 1000)
    seen = 0
    for _ in range(300):
        top, bottom = (
            int(random.integers(-(10 ** random.integers(1, 9)), 10**9)),
            int(random.choice(denominators)),
        )
        value = Fraction(top, bottom)
        for form, dress in itertools.product(forms(value), random.choice(dresses, 3)):
            read = final_number("#### " + dress.format(form))
            assert read == written(value) and Fraction(read) == value, (form, dress)
            seen += 1
    assert seen > 3000


GROUPED = re.compile(r"[0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+")


def plainly_read(text):
    """A slow reading of a text without blanks; None unless all of it is one number."""
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    if "/" in text:
        top, _, bottom = text.partition("/")
        if (
            not GROUPED.fullmatch(top)
            or not GROUPED.fullmatch(bottom)
            or not int(bottom.replace(",", ""))
        ):
            return None
        return sign * Fraction(int(top.replace(",", "")), int(bottom.replace(",", "")))
    number, e, exponent = text.partition("e")
    whole, point, decimals = number.partition(".")
    fits = (GROUPED.fullmatch(whole) or (point and not whole)) and re.fullmatch(
        "[0-9]+" if point else "", decimals
    )
    if not fits or (e and not re.fullmatch("-?[0-9]{1,3}", exponent)):
        return None
    return (
        sign
        * Fraction(f"{whole.replace(',', '') or 0}.{decimals or 0}")
        * Fraction(10) ** int(exponent or 0)
    )


def test_a_text_is_read_whole_or_not_at_all():
    """20,000 random texts of digits and the marks that join them, against the slow reading."""
    random, read = generator("texts"), 0
    letters = list("0123456789" * 2 + ".,,:/-e_x")
    for size in random.integers(1, 10, 20_000):
        text = "".join(random.choice(letters, size)) + str(random.integers(10))
        value = plainly_read(re.sub("^[:_]*(-?)_*", r"\1", text))
        found = final_number(f"#### {text}")
        assert found == (None if value is None else written(value)), text
        read += found is not None
    assert 2000 < read < 18_000


def test_long_runs_of_marks_are_read_in_time():
    """Each takes milliseconds, or hours where a pattern retraces its steps."""
    for run in (
        " ",
        "*",
        "$",
        "=",
        "1 000",
        " 000",
        "1,",
        "a",
        "####",
        "US",
        "-",
        "(",
        "5 x ",
        "\\",
    ):
        assert final_number(f"#### 5{run * 5000}x") in (None, "5")
        assert final_number(f"#### {run * 5000}x") is None


def test_equal_numbers_are_one_answer():
    votes = [final_number(f"#### {text}") for text in ("13", "12", "12.0", "$12", "13", "24/2")]
    assert majority(votes) == "12" and votes.count("12") == 4
    assert final_number("#### 1/3") != final_number("#### 0.3333333333333333")
    assert final_number("#### 0.1") == final_number("#### 1/10") == "0.1"
    assert (
        final_number("#### 9007199254740993")
        == "9007199254740993"
        != final_number("#### 9007199254740992")
    )
