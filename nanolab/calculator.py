"""The calculator tool: arithmetic and string counts out of text that a model wrote, with bounds on time and size.

A walk over the syntax tree of a short expression: nothing is ever evaluated by Python itself, so no process and no sandbox is needed.
"""

from __future__ import annotations

import ast
import operator
import re

MAX_LENGTH = 200  # characters
MAX_EXPONENT = 64
MAX_VALUE = 10**18  # every intermediate result stays below
STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
SAFE_REST = re.compile(
    r"(?:[0-9eE.+\-*/%() ]|\.count(?=\())*"
)  # what may stand outside string literals
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
CALL = re.compile(
    r"<<(.*?)>>", re.DOTALL
)  # a call in a text, with its output if it has one: <<call=output>>, as data/chat.py writes it
PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)%(?!\s*[\d.(])")  # "20%", but not the remainder "20%3"

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _RefusedError(Exception):
    """The expression is not one that the calculator takes."""


def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression as text, or None when it is not one or passes a bound.

    Takes numbers (thousands commas, "$" and "20%" too), + - * / // % **, signs, parentheses, and "text".count("t"). At most 200
    characters; |exponent| at most 64; every value below 1e18. A whole result is written as an integer, any other with at most ten
    decimals and fifteen significant digits.
    """
    text = expression.strip()
    if (
        len(text) > MAX_LENGTH
        or "\\" in text
        or not SAFE_REST.fullmatch(STRING.sub("", _plain(text)))
    ):
        return None
    try:
        return _written(_value(ast.parse(_plain(text), mode="eval").body))
    except (_RefusedError, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _plain(text: str) -> str:
    """`text` with thousands commas and dollar signs dropped and percentages divided out, where it holds no string literal."""
    if '"' in text or "'" in text:
        return text
    text = THOUSANDS.sub(lambda match: match.group().replace(",", ""), text.replace("$", ""))
    return PERCENT.sub(r"(\1/100)", text)


def _value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand)
        value = -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.BinOp):
        value = _binary(node.op, _value(node.left), _value(node.right))
    elif isinstance(node, ast.Call):
        value = _count(node)
    else:
        raise _RefusedError
    if isinstance(value, complex) or not abs(value) < MAX_VALUE:  # "not <" refuses NaN as well
        raise _RefusedError
    return value


def _binary(op: ast.operator, left: int | float, right: int | float) -> int | float:
    if isinstance(op, ast.Div):
        exact = (
            isinstance(left, int) and isinstance(right, int) and right != 0 and left % right == 0
        )
        return left // right if exact else left / right
    if isinstance(op, ast.Pow):
        if abs(right) > MAX_EXPONENT:
            raise _RefusedError
        return left**right
    if type(op) not in BINARY:
        raise _RefusedError
    return BINARY[type(op)](left, right)


def _count(node: ast.Call) -> int:
    """The value of "text".count("part"), both literals."""
    function = node.func
    whole = isinstance(function, ast.Attribute) and function.attr == "count" and function.value
    literals = [whole, *node.args]
    if (
        node.keywords
        or len(literals) != 2
        or not all(isinstance(x, ast.Constant) and isinstance(x.value, str) for x in literals)
    ):
        raise _RefusedError
    return literals[0].value.count(literals[1].value)


def _written(value: int | float) -> str:
    if isinstance(value, float):
        decimals = max(0, min(10, 15 - len(str(int(abs(value))))))  # a double holds no more
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text
    return str(value)
