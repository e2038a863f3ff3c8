"""Claims about nanolab/sandbox/programs.py: every attack ends within its limit, with the right
verdict, at every level this machine has.
"""

import functools
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nanolab.errors import UserError
from nanolab.sandbox import levels as sandbox_levels
from nanolab.sandbox import programs as sandbox
from nanolab.sandbox.programs import (
    Check,
    PythonResult,
    Tools,
    run_many,
    run_python,
    strongest_level,
)


@functools.cache
def working_levels():
    """The levels whose probe runs here."""
    return [
        level
        for level in sandbox_levels.levels()
        if run_python(sandbox.PROBE, 20, level=level).passed
    ]


def levels():
    return pytest.mark.parametrize("level", working_levels(), ids=str)


def strongest_and_weakest():
    working = working_levels()
    return pytest.mark.parametrize("level", dict.fromkeys([working[0], working[-1]]), ids=str)


ENDINGS = [  # program, error that its result begins with (None: passes)
    ("print(6 * 7)", None),
    ("assert 1 + 1 == 2", None),
    ("", None),
    ("class A: pass\nassert A.__module__ == '__main__'", None),
    (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nassert P(1) == P(1)",
        None,
    ),
    ("assert 1 == 2, 'no'", "AssertionError: no"),
    ("import sys\nsys.exit(0)", "exit 0"),
    ("import sys\nsys.exit(3)", "exit 3"),
    ("import os\nos._exit(0)", "exit 0"),
    ("raise SystemExit", "exit 0"),
    ("quit()", "NameError"),
    ("x =", "SyntaxError"),
    ("\x00", "SyntaxError"),
    ("print('\ud800')", ""),
    ("eval('(' * 500)", "SyntaxError"),
    ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
    ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
    ("import os\nos.abort()", "signal "),
    ("x = 'a' * (1 << 31)", "memory"),
    ("x = []\nwhile True: x.append('a' * 1000000)", "memory"),
    ("while True: print('x' * 10000)", "output"),
    ("import os\nos.write(1, b'x' * (1 << 21))\nos._exit(0)", "output"),
    ("import sys\nsys.stdout = None", "AttributeError"),
    ("import sys\nsys.stdin.read()", None),
]


@strongest_and_weakest()
@pytest.mark.parametrize(
    "program, error", ENDINGS, ids=[repr(program[:30]) for program, _ in ENDINGS]
)
def test_each_ending_has_its_verdict(level, program, error):
    result = run_python(program, 10, level=level)
    assert result.passed == (error is None or (error == "" and result.error is None)), result
    assert error is None or (result.error or "").startswith(error), result


@strongest_and_weakest()
def test_a_program_that_ends_its_process_leaves_no_words_of_ours(level):
    assert run_python("import os\nos._exit(3)", 10, level=level) == PythonResult(
        False, "", "exit 3"
    )
    assert run_python("import os\nos.abort()", 10, level=level).output == ""


@strongest_and_weakest()
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(99)",
        "import signal, time\nsignal.signal(15, lambda *a: None)\ntime.sleep(99)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "print(9 ** 9 ** 9)",
    ],
)
def test_nothing_passes_its_time_limit(level, program):
    start = time.monotonic()
    assert run_python(program, 0.4, level=level) == PythonResult(False, "", "timeout")
    assert time.monotonic() - start < 30  # not the 99 s that one of them sleeps, nor without end


@levels()
def test_a_wrapper_that_outlives_its_child_adds_nothing_to_the_output(level, monkeypatch):
    killpg = os.killpg

    def late(group, number):
        time.sleep(0.2)
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", late)
    result = run_python("import time\ntime.sleep(99)", 0.4, level=level)
    assert result == PythonResult(False, "", "timeout")


@levels()
def test_environment_and_input_are_empty(level, monkeypatch):
    monkeypatch.setenv("SECRET_WORD", "open sesame")
    result = run_python(
        "import os, sys\nassert sys.stdin.read() == ''\nprint(list(os.environ), os.getcwd())",
        10,
        level=level,
    )
    assert result.passed and "SECRET" not in result.output


@pytest.fixture
def canary():
    """A file of ours outside of /tmp, where a program may have a /tmp of its own."""
    with tempfile.TemporaryDirectory(
        dir="/var/tmp" if os.path.isdir("/var/tmp") else None
    ) as folder:
        path = Path(folder, "mine.txt")
        path.write_text("kept")
        yield path


@levels()
def test_a_level_holds_what_it_does_not_name_as_a_gap(level, canary):
    """Each attempt fails where the level says so, and succeeds where it says that it cannot hold
    it: no level pretends.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0)
        attempts = {
            "read this user's files": f"assert open({str(canary)!r}).read() == 'kept'",
            "change the modes and times of this user's files": (
                f"import os\nos.chmod({str(canary)!r}, 0o600)"
            ),
            "reach the network": (
                f"import socket\nsocket.socket(2, 2).sendto(b'here', {listener.getsockname()!r})"
            ),
            "start processes that outlive it": (
                "import os\nif os.fork() == 0: os._exit(0)\nos.wait()"
            ),
        }
        results = {gap: run_python(program, 10, level=level) for gap, program in attempts.items()}
        for gap, result in results.items():
            expected = gap in level.gaps()
            if gap == "start processes that outlive it":
                expected = (
                    not level.seccomp
                )  # a level with spaces of its own starts them, and ends them: see below
            if (
                gap != "reach the network"
            ):  # what is sent in a network of one's own is sent without an error
                assert result.passed == expected, (gap, result)
        if "reach the network" in level.gaps():
            assert listener.recv(10) == b"here"
        else:
            with pytest.raises(BlockingIOError):
                listener.recv(10)
    assert canary.read_text() == "kept"


@levels()
def test_files_stay_as_they_are_where_the_level_says_so(level, canary):
    ways = [
        "open(path, 'w')",
        "open(path, 'a')",
        "os.remove(path)",
        "os.rename(path, path + '2')",
        "os.truncate(path, 0)",
        "os.symlink('/', path + '2')",
        "os.mkdir(path + '2')",
        "shutil.rmtree(os.path.dirname(path))",
    ]
    for way in ways:
        result = run_python(f"import os, shutil\npath = {str(canary)!r}\n{way}", 10, level=level)
        if "change this user's files" not in level.gaps():
            assert not result.passed, way
            assert os.listdir(canary.parent) == ["mine.txt"] and canary.read_text() == "kept", way
        else:
            assert result.passed, (way, result)
            break


@levels()
def test_a_private_tmp_is_empty_each_time_and_small(level):
    name = f"/tmp/{os.getpid()}.{time.monotonic_ns()}"
    write = (
        f"import os\nassert not os.path.exists({name!r})\nopen({name!r}, 'w').write('1')\nassert"
        " len(os.listdir('/tmp')) == 1"
    )
    fill = "for i in range(40): open(f'/tmp/{i}', 'wb').write(b'x' * 1000000)"
    if level.private_tmp():
        assert [run_python(write, 10, level=level).error for _ in range(2)] == [None, None]
        assert "No space left" in run_python(fill, 10, level=level).error
    elif "change this user's files" not in level.gaps():
        assert not run_python(write, 10, level=level).passed
    assert not os.path.exists(name) or "change this user's files" in level.gaps()
    Path(name).unlink(missing_ok=True)


@levels()
def test_nothing_is_written_beside_a_private_tmp(level):
    """Neither on the disk nor in memory (bubblewrap makes / and /dev out of that): only /tmp, whose
    size is limited, takes files.
    """
    if not level.private_tmp():
        pytest.skip(f"{level} gives no private /tmp")
    name = f"nanolab.{os.getpid()}.{time.monotonic_ns()}"
    program = f"""
import os
for folder in ("", "/dev", "/dev/shm", "/dev/mqueue", "/usr", "/var/tmp", "/proc"):
    for make in (os.mkdir, lambda path: open(path, "w"), lambda path: os.symlink("/", path)):
        try: make(folder + "/{name}")
        except OSError: continue
        print(folder + "/")
open("/tmp/{name}", "w")
"""
    assert run_python(program, 10, level=level) == PythonResult(True, "", None)


@levels()
def test_a_check_calls_the_function_with_plain_data_and_sees_what_it_changes(level):
    program = """
def f(x, *, more=None):
    if x == "raise": raise KeyError("gone")
    if isinstance(x, list): x.append(len(x))
    return x, more
"""
    test = """
def check(candidate):
    values = [None, True, -1, 10 ** 30, 0.1, float("inf"), 1e-320, 2j, "é\\ud800", b"x", (1, (2,)),
              {1, 2}, frozenset("ab"), {(1, 2): [3], None: {}}, range(1, 9, 2), {"tuple": 1}]
    for value in values:
        got = candidate(value, more=value)
        assert got == (value, value) and type(got[0]) is type(value), (got, value)
    mine = [1]
    assert candidate(mine) == ([1, 1], None) and mine == [1, 1]
    try: candidate("raise")
    except KeyError as error: assert "gone" in str(error)
    else: assert False
    assert double(4) == 8
"""
    result = run_python(
        Check(program, "f", test, "def double(x):\n    return 2 * x\ndef f(x): pass"),
        10,
        level=level,
    )
    assert result.passed, result


@levels()
def test_nothing_outlives_a_call_but_where_the_level_says_so(level, mark):
    own = "start processes that outlive it" not in level.gaps()
    leave = (
        "os.setsid()\n    " if own else ""
    )  # a process of the same group is ended at every level
    run_python(
        f"import os, time\nif os.fork() == 0:\n    {leave}time.sleep(30)\nelse:\n   "
        " time.sleep(30)",
        0.4,
        level=level,
    )
    wait_until(lambda: not runners(mark))


def test_the_runners_of_this_run_are_told_from_others(mark):
    """The word that `runners` looks for is in every process of a running program, and not in those
    of another run of these tests.
    """
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)  # marshal.loads"]
    ) as other:
        thread = threading.Thread(target=run_python, args=("import time\ntime.sleep(99)", 3))
        thread.start()
        wait_until(lambda: len(runners(mark)) >= 2)  # the checker and the program
        found = runners(mark)
        thread.join()
        wait_until(lambda: not runners(mark))
        other.kill()
    assert str(other.pid) not in found


@pytest.fixture
def mark(monkeypatch):
    """A word in the command of every runner that this test starts."""
    word = secrets.token_hex(8)
    monkeypatch.setattr(sandbox, "START", f"{sandbox.START}  # {word}")
    return word


def runners(mark):
    """Living processes whose command holds a word, however long the command is (-ww)."""
    listing = subprocess.run(
        ["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    return {
        line.split()[0]
        for line in listing.splitlines()
        if mark in line and not line.split()[1].startswith("Z")
    }


def wait_until(true, seconds=10):
    """Ask until it is true; a process that was killed may take a moment to go, on a busy
    machine.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.02)


def test_the_verdict_cannot_be_printed():
    assert not run_python("import sys\nprint('passed')\nsys.exit(0)", 10).passed
    everywhere = (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed')\n    except OSError:"
        " pass\nos._exit(0)"
    )
    assert not run_python(everywhere, 10).passed


def test_output_is_kept_and_cut():
    result = run_python(
        "import sys\nprint('out')\nprint('é' * 100, file=sys.stderr)", 10, max_output=30
    )
    assert result.passed and len(result.output.encode()) <= 33 and "é" in result.output
    assert run_python("print('before')\nraise ValueError('why')", 10).output == "before\n"


def test_many_programs_keep_their_order_and_run_side_by_side():
    programs = [f"print({i})" for i in range(12)] + ["import time\ntime.sleep(99)"] * 2
    start = time.monotonic()
    results = run_many(programs, 0.8, workers=2)
    assert [result.output.strip() for result in results[:12]] == [str(i) for i in range(12)]
    assert [result.error for result in results[12:]] == ["timeout"] * 2 and run_many([], 1) == []
    assert time.monotonic() - start < 60  # not 99 s


def test_calls_from_several_threads_do_not_disturb_each_other():
    results = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update({i: run_python(f"print({i})", 20).output})
        )
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: f"{i}\n" for i in range(6)}


def test_the_level_is_named_and_is_the_strongest_that_works():
    assert strongest_level() == working_levels()[0]


def test_no_working_level_is_a_clear_line(monkeypatch):
    monkeypatch.setattr(sandbox, "levels", lambda: [sandbox.Level("broken", ("/bin/false",))])
    sandbox.strongest_level.cache_clear()
    try:
        with pytest.raises(UserError, match="cannot be run under limits"):
            run_python("1", 1)
    finally:
        sandbox.strongest_level.cache_clear()


def test_tools_answer_once_and_never_raise(monkeypatch):
    calculator, python = Tools("calculator"), Tools("python", timeout=0.4)
    assert [calculator.output(call) for call in ("48/2", "print(1)", "", "9**9**9")] == [
        "24",
        "error",
        "error",
        "error",
    ]
    assert (
        python.output("48/2") == "24"
        and python.output("len('abc')") == "3"
        and python.output("print('a')\nprint(2)") == "a\n2"
    )
    assert python.output("while True: pass") == "error" and python.output("x =") == "error"
    monkeypatch.setattr(sandbox, "run_python", None)  # what was answered is remembered
    assert python.output("len('abc')") == "3" and python.output("while True: pass") == "error"
    with pytest.raises(UserError, match="tool kind"):
        Tools("browser")


def test_what_tools_remember_is_bounded(monkeypatch):
    """The newest answers are kept; what was forgotten is answered the same again."""
    runs, calculate = [], sandbox.calculate
    monkeypatch.setattr(sandbox, "calculate", lambda call: runs.append(call) or calculate(call))
    tools, calls = Tools("calculator"), [f"{n}+1" for n in range(2 * 4096)]
    values = [str(n + 1) for n in range(2 * 4096)]
    assert [tools.output(call) for call in calls] == values and runs == calls
    assert [tools.output(call) for call in calls[4096:]] == values[4096:] and runs == calls
    assert tools.output("0+1") == "1" and runs == [*calls, "0+1"]
