"""The number that an answer to a word problem gives: what may stand after "####", and its worth.

Numbers are exact (Fraction) and each is written in one way, so that two answers are equal where
their numbers are: 12, 12.0 and 1.2e1 are "12", 1/2 and .5 are "0.5". A number is read whole or not
at all: 12:30, 3,5 or 2nd give none. docs/answers.md states the grammar, with the reasons.
"""

import itertools
import re
import unicodedata
from fractions import Fraction

LONGEST = 300  # characters of a number; a longer one is a model that repeats itself
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}

# For character classes: hyphens, dashes and minus signs of each kind, and the signs of currencies.
MINUS = "\\-\u2010-\u2015\u2212\u207b\u2796\ufe58\ufe63\uff0d"
CURRENCY = "$\u00a2-\u00a5\u058f\u060b\u20a0-\u20c0\ufdfc\ufe69\uff04\uffe0\uffe1\uffe5\uffe6"

BLANK = r"[^\S\r\n]"
# US$ too, and USD before a number
CODES = r"(?:USD|EUR|GBP|INR|JPY|CNY|CAD|AUD|CHF|Rs\.?)"
CURRENCY_SIGN = rf"(?:[A-Z]{{1,2}}(?=\$)|[{CURRENCY}]|{CODES}(?={BLANK}?[0-9]))"
OPEN = rf"[\s*_`\"'\u2018\u201c(\[{{]|{CURRENCY_SIGN}"
# Possessive, like all repeats that have nothing to give back: a run of marks costs its length.
CLOSING = rf"[*_`\"'\u2019\u201d)\]}}%\u2030\u00b0{CURRENCY}]*+"

GROUP = r"[1-9][0-9]{0,2}"  # the digits before the first separator
PLAIN_WHOLE = rf"(?:{GROUP}(?:,[0-9]{{3}})+|[0-9]+)"  # in a fraction, where a blank is no mark
WHOLE = rf"(?:{GROUP}(?:{BLANK}[0-9]{{3}})+|{GROUP}(?:['\u2019][0-9]{{3}})+|{PLAIN_WHOLE})"
NUMBER = re.compile(
    rf"""
    (?:[=:]|{OPEN})*+ (?P<sign>[+{MINUS}])? (?:{OPEN})*+
    (?: (?: (?P<units>{PLAIN_WHOLE}) (?P<joined>{BLANK}+and)? {BLANK}+ )?
        (?P<top>{PLAIN_WHOLE}) {BLANK}? [/\u2044\u2215] {BLANK}? (?P<bottom>{PLAIN_WHOLE})
      | (?P<decimal>{WHOLE}(?:\.[0-9]+)?|\.[0-9]+)
        (?: (?:[eE]|{BLANK}?[x*\u00d7]{BLANK}?10(?:\^|\*\*)[({{]?)
            (?P<exponent>[+{MINUS}]?[0-9]{{1,3}}) )?
    )""",
    re.VERBOSE,
)
ATTEMPT = re.compile(rf"(?:[\W_]|{CURRENCY_SIGN})*+[0-9]")  # what follows a mark that counts

# Units that may touch the number. Not m, k, M or B, which are millions and thousands as well.
UNITS = (
    "km/h km cm mm kg kgs mg g lb lbs oz ml mL l L ft in mph kWh h hr hrs hours min mins minutes "
    "cents dollars \u00b0C \u00b0F"
)
UNIT = re.compile(rf"(?:{UNITS.replace(' ', '|')})(?!\w)")
SCALE = re.compile(rf"{CLOSING}{BLANK}++({'|'.join(SCALES)})s?\b", re.IGNORECASE)
# What may touch the number: closing marks and the end of a sentence, then a blank, an equality,
# or a dash with a blank behind it; or "/day".
FREE = re.compile(
    rf"{CLOSING}(?:/[^\W\d_]{{2,}}(?!\w)"
    rf"|[.,:;!?\u2026]*+{CLOSING}(?:\s|$|[=<|]|[{MINUS}](?=\s|$)|\\(?![A-Za-z])))"
)
# What makes it a part of something: another number behind an operator, a blank or a word
# (1 hour, 30 minutes), a scale in short (5 k), a number in words, or more of a formula.
ONES = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    "sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    "hundred|thousand|half|halves"
)
PARTS = (  # of a whole, and scales that are not read
    "thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|"
    "hundredths?|thousandths?|dozens?|lakhs?|crores?|quadrillions?|quintillions?"
)
OPERATOR = (
    rf"[.+{MINUS}*/%^,;:&|<>~?\u2026\u00b1\u00b7\u00d7\u00f7\u2190-\u21ff\u2200-\u22ff\u2715\u2716"
    r"\u2a2f\u301c]"
)
ANOTHER = rf"(?:{OPEN}|[+{MINUS}]|\.(?=[0-9]))*+[0-9]"
SMALL = rf"(?i:{ONES})(?!\w|-(?!(?:{ONES})\b))"  # but 12 one-way tickets
CONTINUED = re.compile(
    rf"{CLOSING}{BLANK}*+(?:(?:{OPERATOR}{BLANK}*+)*+{ANOTHER}"
    rf"|[\\^\u221a\u00d7\u00f7+*]++{BLANK}*+\w|[eE][+{MINUS}]?[0-9]"
    rf"|[^\W\d_]++{BLANK}*+{OPERATOR}++{BLANK}*+(?:(?:and|or|&){BLANK}++)?{ANOTHER}"
    rf"|[^\W\d_]++[.,;]?{BLANK}++(?:(?:and|or|&){BLANK}++)?{ANOTHER}"
    rf"|[,;]{BLANK}*+(?:and|or|&){BLANK}++{ANOTHER}|(?:[kKMB]|bn|mn|mln|mio)(?!\w)"
    rf"|(?:[^\W\d_]++{BLANK}++)?(?:and|or|plus|minus|times|point|over){BLANK}++{SMALL}"
    rf"|(?:and|plus|minus|times){BLANK}++(?:an?|[^\W\d_]*hal(?:f|ves))\b|{SMALL}"
    rf"|(?i:{PARTS}|squared|cubed|pi|e|sqrt|log|ln|sin|cos|tan)(?![\w-])"
    r"|[\u03c0\u221a\u221b\u00b2\u00b3\u2070-\u2079])"
)

# LaTeX that says the same in another way -> plain text; what stood in braces keeps them.
COMMANDS = r"\\(?:boxed|fbox|text\w{0,2}|math[a-z]{2,6}|left|right|displaystyle)(?![A-Za-z])"
LATEX = {
    r"\\[dtc]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}": r" \1/\2",
    r"\\[dtc]?frac\s*([0-9])\s*([0-9])": r" \1/\2",
    "[\u200b\u2060\ufeff]": "",  # blanks of no width
    COMMANDS: " ",
    r"\\!": "",
    r"\{,\}": ",",
    r"\\(?:[,;: ]|q?quad(?![A-Za-z]))": " ",
    r"\^?\{?\\(?:circ|degree)(?![A-Za-z])\}?": "\u00b0",
    r"\\times(?![A-Za-z])": "\u00d7",
    r"\\([$%()\[\]{}])": r"\1",
}
PLAIN = [(re.compile(pattern), plain) for pattern, plain in LATEX.items()]
VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")  # one half, one third, ... as one character


def final_number(text: str) -> str | None:
    """The number after the last "####" that a digit follows, as `written`.

    None where there is no such mark, or where the number is not read whole.
    """
    for part in reversed(re.split("#{4,}", text)[1:]):
        part = _plain(part)
        if ATTEMPT.match(part):
            value = _value(part)
            return None if value is None else written(value)
    return None


def written(value: Fraction) -> str:
    """A number in its one form: "-1234.5" where its decimals end, else in lowest terms, "-1/3"."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    places = next(n for n in itertools.count() if 10**n % value.denominator == 0)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _plain(text: str) -> str:
    for pattern, replacement in PLAIN:
        text = pattern.sub(replacement, text)
    return VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0])}", text)


def _value(text: str) -> Fraction | None:
    """The number that a text starts with, where nothing continues it on its line."""
    found = NUMBER.match(text)
    if found is None or sum(map(len, filter(None, found.groups()))) > LONGEST:
        return None
    rest = re.split(r"[\r\n]", text[found.end() :], maxsplit=1)[0]
    value = _magnitude(found)
    if (unit := UNIT.match(rest)) is not None:
        rest = rest[unit.end() :]
    if value is not None and (scale := SCALE.match(rest)) is not None:
        value, rest = value * SCALES[scale[1].lower()], rest[scale.end() :]
    if value is None or not FREE.match(rest) or CONTINUED.match(rest):
        return None
    return value if found["sign"] in (None, "+") else -value


def _magnitude(found: re.Match[str]) -> Fraction | None:
    """What a number is worth without its sign.

    None for a division by 0, for 1 or more behind a whole number (3 5/2), and where that may be the
    thousands of the fraction.
    """
    if found["decimal"] is not None:
        exponent = re.sub(f"[{MINUS}]", "-", found["exponent"] or "0")
        return Fraction(re.sub(r"[^0-9.]", "", found["decimal"])) * Fraction(10) ** int(exponent)
    units, top, bottom = (
        int((found[name] or "0").replace(",", "")) for name in ("units", "top", "bottom")
    )
    if bottom == 0 or (found["units"] is not None and top >= bottom):
        return None
    if found["units"] and not found["joined"] and len(found["units"]) <= 3 == len(found["top"]):
        return None  # 2 050/100 may be 2050/100
    return units + Fraction(top, bottom)
