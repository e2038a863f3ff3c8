"""Claims about nanolab/sandbox.py: every attack ends within its limit, with the right verdict, at every level this machine has."""

import functools
import os
import subprocess
import threading
import time

import pytest

from nanolab import sandbox
from nanolab.sandbox import PythonResult, Tools, run_many, run_python, sandbox_level
from nanolab.schema import UserError


@functools.cache
def working_levels():
    """The levels whose probe runs here."""
    return [level for level in sandbox._levels() if run_python(sandbox.PROBE, 20, level=level).passed]


def levels():
    return pytest.mark.parametrize("level", working_levels(), ids=str)


ENDINGS = [  # program, error that its result begins with (None: passes)
    ("print(6 * 7)", None), ("assert 1 + 1 == 2", None), ("", None), ("class A: pass\nassert A.__module__ == '__main__'", None),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nassert P(1) == P(1)", None),
    ("assert 1 == 2, 'no'", "AssertionError: no"), ("import sys\nsys.exit(0)", "exit 0"),
    ("import sys\nsys.exit(3)", "exit 3"), ("import os\nos._exit(0)", "exit 0"), ("raise SystemExit", "exit 0"),
    ("quit()", "NameError"), ("x =", "SyntaxError"), ("\x00", "SyntaxError"), ("print('\ud800')", ""), ("eval('(' * 500)", "SyntaxError"),
    ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
    ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"), ("import os\nos.abort()", "signal "),
    ("x = 'a' * (1 << 31)", "memory"), ("x = []\nwhile True: x.append('a' * 1000000)", "memory"),
    ("while True: print('x' * 10000)", "output"), ("import os\nos.write(1, b'x' * (1 << 21))\nos._exit(0)", "output"),
    ("import sys\nsys.stdout = None", "AttributeError"), ("import sys\nsys.stdin.read()", None)]


@levels()
@pytest.mark.parametrize("program, error", ENDINGS, ids=[repr(program[:30]) for program, _ in ENDINGS])
def test_each_ending_has_its_verdict(level, program, error):
    result = run_python(program, 10, level=level)
    assert result.passed == (error is None or (error == "" and result.error is None)), result
    assert error is None or (result.error or "").startswith(error), result


@levels()
@pytest.mark.parametrize("program", [
    "while True: pass", "import time\ntime.sleep(99)", "import signal, time\nsignal.signal(15, lambda *a: None)\ntime.sleep(99)",
    "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "print(9 ** 9 ** 9)"])
def test_nothing_passes_its_time_limit(level, program):
    start = time.monotonic()
    assert run_python(program, 0.4, level=level) == PythonResult(False, "", "timeout")
    assert time.monotonic() - start < 3


@levels()
def test_environment_and_input_are_empty(level, monkeypatch):
    monkeypatch.setenv("SECRET_WORD", "open sesame")
    result = run_python("import os, sys\nassert sys.stdin.read() == ''\nprint(list(os.environ), os.getcwd())", 10, level=level)
    assert result.passed and "SECRET" not in result.output


@levels()
def test_files_network_and_processes_are_closed_where_the_level_says_so(level, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    attempts = {"read": f"open({str(mine)!r}).read()", "write": f"open({str(mine)!r}, 'w')",
                "remove": f"import os\nos.remove({str(mine)!r})",
                "fork": "import os\nif os.fork() == 0: os._exit(0)",
                "connect": "import socket\nsocket.create_connection(('127.0.0.1', 1), 1)"}
    if level.landlock:
        for name, program in attempts.items():
            result = run_python(program, 10, level=level)
            assert not result.passed, name
            assert "refused" not in result.error, name  # a refused connection would mean that the network was there
    assert mine.read_text() == "kept"


@levels()
def test_nothing_outlives_a_call(level):
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    daemon = f"import os, time\nif os.fork() == 0:\n    m = '{mark}'\n    time.sleep(30)\nelse:\n    time.sleep(30)"
    before = runners()
    run_python(daemon, 0.4, level=level)
    time.sleep(0.1)
    assert runners() <= before


def runners():
    """Processes that run the sandbox's runner."""
    listing = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listing.splitlines()
            if "forbid_processes" in line and not line.split()[1].startswith("Z") and " ps " not in line}


def test_a_fork_bomb_is_bounded_and_ends():
    start = time.monotonic()
    result = run_python("import os\nwhile True: os.fork()", 0.5)
    assert not result.passed and time.monotonic() - start < 5


def test_the_verdict_cannot_be_printed():
    assert not run_python("import sys\nprint('passed')\nsys.exit(0)", 10).passed
    everywhere = "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed')\n    except OSError: pass\nos._exit(0)"
    assert not run_python(everywhere, 10).passed


def test_output_is_kept_and_cut():
    result = run_python("import sys\nprint('out')\nprint('é' * 100, file=sys.stderr)", 10, max_output=30)
    assert result.passed and len(result.output.encode()) <= 33 and "é" in result.output
    assert run_python("print('before')\nraise ValueError('why')", 10).output == "before\n"


def test_many_programs_keep_their_order_and_run_side_by_side():
    programs = [f"print({i})" for i in range(12)] + ["import time\ntime.sleep(99)"] * 2
    start = time.monotonic()
    results = run_many(programs, 0.8, workers=2)
    assert [result.output.strip() for result in results[:12]] == [str(i) for i in range(12)]
    assert [result.error for result in results[12:]] == ["timeout"] * 2 and run_many([], 1) == []
    assert time.monotonic() - start < 8


def test_calls_from_several_threads_do_not_disturb_each_other():
    results = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: run_python(f"print({i})", 20).output})) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: f"{i}\n" for i in range(6)}


def test_the_level_is_named_and_is_the_strongest_that_works():
    assert sandbox_level() == str(working_levels()[0])


def test_no_working_level_is_a_clear_line(monkeypatch):
    monkeypatch.setattr(sandbox, "_levels", lambda: [sandbox.Level("broken", ("/bin/false",))])
    sandbox._strongest_level.cache_clear()
    try:
        with pytest.raises(UserError, match="cannot be run under limits"):
            run_python("1", 1)
    finally:
        sandbox._strongest_level.cache_clear()


def test_tools_answer_once_and_never_raise(monkeypatch):
    calculator, python = Tools("calculator"), Tools("python", timeout=0.4)
    assert [calculator.output(call) for call in ("48/2", "print(1)", "", "9**9**9")] == ["24", "error", "error", "error"]
    assert python.output("48/2") == "24" and python.output("len('abc')") == "3" and python.output("print('a')\nprint(2)") == "a\n2"
    assert python.output("while True: pass") == "error" and python.output("x =") == "error"
    monkeypatch.setattr(sandbox, "run_python", None)  # what was answered is remembered
    assert python.output("len('abc')") == "3" and python.output("while True: pass") == "error"
    with pytest.raises(UserError, match="tool kind"):
        Tools("browser")
