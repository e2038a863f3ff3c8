"""The calculator against exact fractions: 110,000 expressions, none of them wrong, refused without
reason, raising or slow.
"""

import ast
import random
import time
from dataclasses import dataclass
from fractions import Fraction

from nanolab.sandbox.calculator import calculate

LIMIT, ULP = 10**18, 2.0**-52


@dataclass
class Value:
    """An expression and its exact value; `error` bounds what doubles lose on the way, `whole` says
    that it is an int to Python.
    """

    text: str
    exact: Fraction
    error: float = 0.0
    whole: bool = False
    refused: bool = False  # a bound was passed on the way, or a zero divided by


def rounded(value):
    """`value` with its own rounding to a double added to the error, where it needs one."""
    held = value.whole or (
        value.error == 0
        and abs(value.exact) < LIMIT
        and Fraction(float(value.exact)) == value.exact
    )
    return (
        value
        if value.refused or held
        else Value(value.text, value.exact, value.error + ULP * abs(float(value.exact)))
    )


def leaf(draw):
    kind = draw.random()
    if kind < 0.6:
        number = draw.choice([draw.randrange(10), draw.randrange(1000), draw.randrange(10**7)])
        text = f"{number:,}" if draw.random() < 0.3 else str(number)
        return Value(f"${text}" if draw.random() < 0.1 else text, Fraction(number), whole=True)
    if kind < 0.9:
        whole = draw.choice(["", draw.randrange(100)])
        text = f"{whole}.{draw.choice(['5', '25', '75', '125', '1', '37', '999'])}"
        return rounded(Value(text, Fraction("0" + text)))
    number = draw.randrange(1, 201)
    return rounded(Value(f"{number}%", Fraction(number, 100), whole=number % 100 == 0))


def made(draw, depth):
    """A random expression of at most `depth` operations below each other, in parentheses where it
    has any.
    """
    if depth == 0 or draw.random() < 0.15:
        return leaf(draw)
    a = made(draw, depth - 1)
    if draw.random() < 0.1:
        return Value(f"(-{a.text})", -a.exact, a.error, a.whole, a.refused)
    op = draw.choice(["+", "-", "*", "/", "+", "-", "*", "/", "//", "%", "**"])
    power = draw.choice([0, 1, 2, 3, 5, 64, 65, -1])
    b = Value(str(power), Fraction(power), whole=True) if op == "**" else made(draw, depth - 1)
    if (
        (b.error and op == "/")
        or ((a.error or b.error) and op in ("//", "%"))
        or (a.error and op == "**" and power < 0)
    ):
        op = "-"  # a jump or a pole: beside it, a rounding makes any difference
    space = draw.choice(["", " "])
    return rounded(combined(f"({a.text}{space}{op}{space}{b.text})", op, a, b))


def combined(text, op, a, b):
    x, y, size_x, size_y = a.exact, b.exact, abs(float(a.exact)), abs(float(b.exact))
    if (
        a.refused
        or b.refused
        or (op in ("/", "//", "%") and y == 0)
        or (op == "**" and (abs(y) > 64 or (x == 0 and y < 0)))
    ):
        return Value(text, Fraction(0), refused=True)
    exact = {
        "+": lambda: x + y,
        "-": lambda: x - y,
        "*": lambda: x * y,
        "/": lambda: x / y,
        "//": lambda: Fraction(x // y),
        "%": lambda: x % y,
        "**": lambda: x ** int(y),
    }[op]()
    if abs(exact) >= LIMIT:
        return Value(text, Fraction(0), refused=True)
    whole = (
        a.whole and b.whole and (op != "/" or exact.denominator == 1) and not (op == "**" and y < 0)
    )
    error = a.error + b.error
    if op == "*":
        error = size_x * b.error + size_y * a.error + a.error * b.error
    elif op == "/":
        error = a.error / size_y
    elif op == "**" and a.error:
        error = 2 * ((size_x + a.error) ** int(y) - size_x ** int(y) + ULP * size_x ** int(y))
    if not whole:  # a large int becomes a double first
        error += sum(
            ULP * abs(float(one.exact)) * size
            for one, size in ((a, 1), (b, 1))
            if one.whole and abs(one.exact) > 2**53
        )
    return Value(text, exact, error, whole)


def decimals_of(exact):
    return max(0, min(10, 15 - len(str(abs(exact.numerator) // exact.denominator))))


def test_every_generated_expression_has_its_exact_value_or_is_refused_for_a_reason():
    draw, counts = random.Random(4), {"exact": 0, "near": 0, "refused": 0}
    start = time.monotonic()
    while sum(counts.values()) < 50_000:
        value = made(draw, draw.randrange(1, 5))
        if len(value.text) > 200:
            continue
        result = calculate(value.text)
        if value.refused:
            assert result is None, (value, result)
            counts["refused"] += 1
        elif value.error == 0:
            decimals = decimals_of(value.exact) if value.exact.denominator > 1 else 0
            text = f"{float(value.exact):.{decimals}f}" if decimals else str(round(value.exact))
            text = text.rstrip("0").rstrip(".") if decimals else text
            assert result == ("0" if text == "-0" else text), (value, result)
            counts["exact"] += 1
        else:
            assert result is not None, value
            most = value.error + 0.51 * 10.0 ** -decimals_of(value.exact)
            assert abs(Fraction(result) - value.exact) <= most, (value, result, float(value.exact))
            counts["near"] += 1
    assert min(counts.values()) > 2000, counts
    assert time.monotonic() - start < 60


def plain(text):
    """Percentages, thousands and dollars as Python reads them, by looking at one character after
    another.
    """
    if "'" in text or '"' in text:
        return text
    text, kept = text.replace("$", "").replace(",", ""), []
    for i, c in enumerate(text):
        after = text[i + 1 :].lstrip()
        if (
            c == "%"
            and i
            and (text[i - 1].isdigit() or (text[i - 1] == "." and text[: i - 1][-1:].isdigit()))
            and (not after or after[0] not in "0123456789.(")
        ):
            start = i
            while start and text[start - 1] in "0123456789.":
                start -= 1
            if text[start:i].count(".") > 1:
                return None  # no number: whatever is made of it must not be a value
            kept[len(kept) - (i - start) :] = ["(", text[start:i], "/100)"]
            kept = list("".join(kept))
        else:
            kept.append(c)
    return "".join(kept)


def reference(node):
    """The value of a syntax tree in fractions, in doubles where a power has no exact value."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return (
            -reference(node.operand) if isinstance(node.op, ast.USub) else reference(node.operand)
        )
    if isinstance(node, ast.Call):
        return Fraction(node.func.value.value.count(node.args[0].value))
    a, b = reference(node.left), reference(node.right)
    if isinstance(node.op, ast.Pow):
        return a ** int(b) if b.denominator == 1 else Fraction(float(a) ** float(b))
    return {
        ast.Add: lambda: a + b,
        ast.Sub: lambda: a - b,
        ast.Mult: lambda: a * b,
        ast.Div: lambda: a / b,
        ast.FloorDiv: lambda: Fraction(a // b),
        ast.Mod: lambda: a % b,
    }[type(node.op)]()


def test_random_strings_never_raise_are_quick_and_have_a_value_only_if_it_is_the_right_one():
    draw, valued, slowest = random.Random(3), 0, 0.0
    pieces = [
        "9",
        "3",
        "12",
        "**",
        "(",
        ")",
        "-",
        "+",
        "*",
        "/",
        ".",
        "1e9",
        '"a"',
        "'",
        ".count(",
        "%",
        "$",
        ",",
        ",000",
        " ",
        "//",
        "é",
        "\\",
        "e",
        "\t",
        "_",
        "0x",
        "j",
    ]
    for _ in range(60_000):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, draw.choice([5, 9, 60]))))
        start = time.perf_counter()
        result = calculate(text)
        slowest = max(slowest, time.perf_counter() - start)
        if result is not None:
            valued += 1
            exact = reference(ast.parse(plain(text).strip(), mode="eval").body)
            assert abs(Fraction(result) - exact) <= Fraction(1, 10**9) * max(1, abs(exact)), (
                text,
                result,
                exact,
            )
    assert valued > 1000 and slowest < 1.0, (valued, slowest)
