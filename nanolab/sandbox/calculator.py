"""The calculator tool: arithmetic and string counts out of text that a model wrote, with bounds on
time and size. A walk over the syntax tree: Python evaluates nothing, so no sandbox is needed.
"""

import ast
import operator
import re

MAX_LENGTH = 200  # characters
MAX_EXPONENT = 64
MAX_VALUE = 10**18  # every intermediate result stays below
STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
# what may stand outside of string literals
SAFE_REST = re.compile(r"(?:[0-9eE.+\-*/%() ]|\.count(?=\())*")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
# a call in a text, with its output if it has one: <<call=output>>, as data/tokens/chat.py writes it
CALL = re.compile(r"<<(.*?)>>", re.DOTALL)
PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)%(?!\s*[\d.(])")  # "20%", but not the remainder "20%3"

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class _RefusedError(Exception):
    """The expression is not one that the calculator takes."""


def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression as text, or None when it is not one or passes a bound.

    Takes numbers (thousands commas, "$" and "20%" too), + - * / // % **, signs, parentheses, and
    "text".count("t"). At most 200 characters; |exponent| at most 64; every value below 1e18. A
    whole result is written as an integer, any other with at most ten decimals and fifteen
    significant digits.
    """
    text = expression.strip()
    if len(text) > MAX_LENGTH or "\\" in text:
        return None
    text = _plain(text)
    if not SAFE_REST.fullmatch(STRING.sub("", text)):
        return None
    try:
        return _written(_value(ast.parse(text, mode="eval").body))
    except (_RefusedError, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _plain(text: str) -> str:
    """`text` without thousands commas and dollar signs and with percentages divided out.

    A text with a string literal stays as it is. A dollar sign leaves a blank: 1$2 is not 12.
    """
    if '"' in text or "'" in text:
        return text
    text = text.replace("$", " ").strip()
    text = THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return PERCENT.sub(r"(\1/100)", text)


def _value(node: ast.AST) -> int | float:
    match node:
        case ast.Constant(value) if type(value) in (int, float):
            pass
        case ast.UnaryOp(ast.UAdd(), operand):
            value = _value(operand)
        case ast.UnaryOp(ast.USub(), operand):
            value = -_value(operand)
        case ast.BinOp(left, op, right):
            value = _binary(op, _value(left), _value(right))
        case ast.Call(
            ast.Attribute(ast.Constant(str(text)), "count"), [ast.Constant(str(part))], []
        ):
            value = text.count(part)
        case _:
            raise _RefusedError
    if isinstance(value, complex) or not abs(value) < MAX_VALUE:  # "not <" refuses NaN as well
        raise _RefusedError
    return value


def _binary(op: ast.operator, left: int | float, right: int | float) -> int | float:
    if isinstance(op, ast.Div):
        whole = isinstance(left, int) and isinstance(right, int)
        return left // right if whole and right and left % right == 0 else left / right
    if type(op) not in BINARY or (isinstance(op, ast.Pow) and abs(right) > MAX_EXPONENT):
        raise _RefusedError
    return BINARY[type(op)](left, right)


def _written(value: int | float) -> str:
    if isinstance(value, float):
        decimals = max(0, min(10, 15 - len(str(int(abs(value))))))  # a double holds no more
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text
    return str(value)
