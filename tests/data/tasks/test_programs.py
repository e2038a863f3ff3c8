"""Completions of programming tasks become the program that was meant, whatever is written around
it.
"""

import pytest

from nanolab.data.tasks.programs import check_of, program_source
from nanolab.sandbox.programs import run_many

ROW = {
    "task_id": "own/0",
    "entry_point": "double",
    "prompt": (
        "import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef double(x):\n"
        '    """Twice x.\n    >>> double(2)\n    4\n    """\n'
    ),
    "canonical_solution": "    y = x + x\n    return y\n",
    "test": (
        "\n\ndef check(candidate):\n    assert candidate(3) == 6\n    assert candidate(0) == 0\n   "
        " assert double(half(4)) == 4\n"
    ),
}
WHOLE = "def double(x):\n    return math.floor(2 * x)"
RIGHT = {
    "the body": ROW["canonical_solution"],
    "a stripped body": ROW["canonical_solution"].strip(),
    "one line": "return x + x",
    "a stripped loop": "for i in range(1):\n        x = x + x\n    return x",
    "a loop at column 0": "for i in range(1):\n    x = x + x\nreturn x",
    "a stripped list": "y = [\n        x,\n        x,\n    ]\n    return sum(y)",
    "a list at column 0": "y = [\n    x,\n    x,\n]\nreturn sum(y)",
    "a body at column 0": "y = x + x\nreturn y",
    "only the first line at column 0": "y = x + x\n    return y",
    "a body that ends before more code": "    return 2 * x\n\nprint(double(undefined))\n",
    "a body before the next question": "    return 2 * x\n\n\ndef triple(x):\n    return 3 *",
    "an if": "if x:\n    return x + x\nreturn 0",
    "the whole function": WHOLE,
    "the prompt again": ROW["prompt"] + ROW["canonical_solution"],
    "windows lines": (ROW["prompt"] + ROW["canonical_solution"]).replace("\n", "\r\n"),
    "a fence": f"Here it is:\n```python\n{WHOLE}\n```\nDone.",
    "a fence without a language": f"```\n{WHOLE}\n```",
    "another mark": f"~~~py\n{WHOLE}\n~~~",
    "an open fence": f"```python\n{WHOLE}\n",
    "a fenced body": "```\n    return 2 * x\n```",
    "a fence in a list": (
        "1. Write:\n   ```python\n   def double(x):\n       return 2 * x\n   ```\n"
    ),
    "the second block": (
        "Install it:\n```bash\npip install"
        f" math\n```\nThen:\n```python\n{WHOLE}\n```\nUse:\n```python\ndouble(1 / 0)\n```"
    ),
    "prose around": (
        f"Sure, here is the function:\n\n{WHOLE}\n\nThis function doubles its argument, def."
    ),
    "a helper first": (
        "Sure.\n\nimport functools\n\ndef twice(x):\n    return x + x\n\ndef double(x):\n    return"
        " twice(x)\n\nIt works."
    ),
    "a helper last": "def double(x):\n    return twice(x)\n\ndef twice(x):\n    return x + x\n",
    "a constant": "FACTOR: int = 2\n\ndef double(x):\n    return FACTOR * x\n",
    "words around": f"Solution\n\n{WHOLE}\n\nDone",
    "several constants at once": "a, b = 2, 3\ndef double(x):\n    return x * a * b // 3\n",
    "a constant that changes": "k = 1\nk += 1\ndef double(x):\n    return k * x\n",
    "a condition first": "if True:\n    k = 2\ndef double(x):\n    return k * x\n",
    "a table filled last": (
        "table = {}\ndef double(x):\n    return table[x]\nfor i in range(9):\n    table[i] = 2"
        " * i\n"
    ),
    "prose around a script part": (
        f"Sure, like this:\n\n{WHOLE}\n\nif __name__ == '__main__':\n   "
        " print(double(int(input())))\n"
    ),
    "a script part": f"{WHOLE}\n\nif __name__ == '__main__':\n    print(double(int(input())))\n",
    "a fenced script part": (
        f"```\n{WHOLE}\n\nif __name__ == '__main__':\n    print(double(int(input())))\n```"
    ),
    "a decorator": "import functools\n@functools.lru_cache\ndef double(x):\n    return 2 * x\n",
    "a helper of the prompt": "    return half(4 * x)",
    "types": "def double(x: float) -> float:\n    return 2 * x",
}
WRONG = {
    "nothing": "",
    "prose": "I cannot do that.",
    "a wrong value": "    return x",
    "a broken line": "    return (",
    "another name": "def triple(x):\n    return 2 * x",
    "a failing assert in the block": f"```\n{WHOLE}\nassert double(1) == 3\n```",
    "an ending script": f"{WHOLE}\nimport sys\nx = sys.exit(0)",
    "the helper redefined": "def half(x):\n    return 7\ndef double(x):\n    return 9",
}


@pytest.fixture(scope="module")
def results():
    answers = RIGHT | WRONG
    return dict(
        zip(
            answers,
            run_many([check_of(ROW, answer) for answer in answers.values()], 10, workers=2),
            strict=True,
        )
    )


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes_in_whatever_form(results, name):
    assert results[name].passed, (
        results[name],
        program_source(ROW["prompt"], RIGHT[name], "double"),
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_fails(results, name):
    assert not results[name].passed


def test_a_prompt_that_is_a_bare_signature_is_context_enough():
    row = ROW | {
        "prompt": "def double(x):\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2",
    }
    results = run_many([check_of(row, "    return 2 * x"), check_of(row, "    return x")], 10)
    assert [result.passed for result in results] == [True, False]


def test_what_comes_before_the_function_is_kept_and_its_copy_is_not():
    source = program_source(ROW["prompt"], f"```python\n{WHOLE}\n```", "double")
    assert (
        source.startswith("import math")
        and source.count("def double") == 1
        and source.count("def half") == 1
    )
