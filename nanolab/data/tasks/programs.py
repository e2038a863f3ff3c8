"""Answers to programming tasks as programs with their tests."""

import ast
import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanolab.sandbox.programs import Check

FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.S | re.M)
TRIPLE = re.compile(r'"""|\'\'\'')
# a line of definitions at column 0; prose, a call or a loop is not wanted there
CODE_LINE = re.compile(
    r"(?:async +def|def|class|import|from) |@|#|[)\]}]|[A-Za-z_][\w.]*(?: *: *[\w\[\]., ]+)? *=[^=]"
)


def check_of(row: dict[str, Any], completion: str) -> "Check":
    """The completion of a HumanEval row as a program, with the row's tests and the context of its
    prompt.
    """
    from nanolab.sandbox.programs import Check  # settings read the tasks: nothing slow at the top

    program = program_source(row["prompt"], completion, row["entry_point"])
    return Check(program, row["entry_point"], row["test"], _context(row["prompt"]))


def _context(prompt: str) -> str:
    """The prompt as a program: a function without any body gets an empty one."""
    return prompt if _is_program(prompt) else f"{prompt.rstrip()}\n    pass\n"


def _is_program(text: str) -> bool:
    """Whether a text is Python throughout; a word alone on a line at column 0 is a heading."""
    try:
        lines = ast.parse(text).body
    # ValueError: a null character; the last two: brackets too deep
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return not any(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Name) for line in lines
    )


def program_source(prompt: str, completion: str, entry_point: str) -> str:
    """The program that a completion makes of a HumanEval prompt.

    Of code fences the first block that defines the function counts, else the first. A completion
    that defines the function replaces it and keeps what the prompt has before it (imports,
    helpers); without a fence, lines of prose around the code are left out where it is no Python,
    and so is what runs under `if __name__`. Anything else is the function's body, indented when it
    is not, and ends before the next line at column 0.
    """
    completion = completion.replace("\r\n", "\n")
    definition = re.compile(rf"^(?:async +)?def +{re.escape(entry_point)}\b", re.M)
    blocks = [_dedented(block, definition) for block in FENCE.findall(completion)]
    default = blocks[0] if blocks else completion
    code = next(filter(definition.search, blocks), default).strip("\n")
    if definition.search(code):
        own = list(definition.finditer(prompt))
        before = prompt[: own[-1].start()] if own else ""
        if not blocks and not _is_program(code):
            code = _without_prose(code, definition)
        return f"{before}{code}\n"
    return prompt.rstrip("\n") + "\n" + _body(code) + "\n"


def _dedented(block: str, definition: re.Pattern[str]) -> str:
    """A block that was indented as a whole (in a list, say) moved to column 0."""
    moved = textwrap.dedent(block)
    return moved if definition.search(moved) else block


def _without_prose(code: str, definition: re.Pattern[str]) -> str:
    """From the first line of code to where, after the function, no code follows at column 0."""
    lines = code.split("\n")
    first = next(i for i, line in enumerate(lines) if CODE_LINE.match(line))
    kept, defined, string = [], False, None
    for line in lines[first:]:
        at_margin = line.strip() and not line.startswith((" ", "\t")) and string is None
        if at_margin and not CODE_LINE.match(line):
            if defined:
                break
            continue
        kept.append(line)
        string = _string_after(line, string)
        defined = defined or definition.match(line) is not None
    return "\n".join(kept)


def _body(code: str) -> str:
    """The function's body: its indentation restored, up to the next line at column 0."""
    lines = code.split("\n")
    if not lines[0].startswith((" ", "\t")):
        # the whole body lost its indentation, or only its first line did, where the model's answer
        # was stripped: then the next line stands at four columns, or deeper below an opening line
        following = next((line for line in lines[1:] if line.strip()), "")
        depth = len(following) - len(following.lstrip())
        opens = lines[0].rstrip().endswith((":", "(", "[", "{", ",", "\\"))
        rest = lines[1:] if depth >= 4 + opens else ["    " + line for line in lines[1:]]
        lines = ["    " + lines[0], *rest]
    body = [line for line in lines[:1] if line.strip()] or ["    pass"]
    string = _string_after(lines[0], None)
    for line in lines[1:]:
        if line.strip() and not line.startswith((" ", "\t")) and string is None:
            break
        body.append(line)
        string = _string_after(line, string)
    return "\n".join(body)


def _string_after(line: str, string: str | None) -> str | None:
    """The triple quote of the string that is open after a line, `string` that before it."""
    for mark in TRIPLE.findall(line):
        string = None if mark == string else string or mark
    return string
