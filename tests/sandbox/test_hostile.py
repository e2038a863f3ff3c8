"""Hostile answers to one small task: each ends within its limit, harms nothing, and gets the
verdict that it deserves.

Verdicts: RIGHT for a trick around a right answer, else what the error begins with (ANY: whatever;
one of several in a tuple). What a program needs the level to hold stands with it: where the level
in force does not, it is not run, and the skip says so.
"""

import os
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanolab.sandbox import programs as sandbox
from nanolab.sandbox.programs import Check, run_many, strongest_level

RIGHT, ANY = "right", ""
READ, CHANGE, NETWORK = "read this user's files", "change this user's files", "reach the network"
OUTLIVE, MANY, MODES = (
    "start processes that outlive it",
    "start many processes",
    "change the modes and times of this user's files",
)
TEST = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate(-1) == -2 and isinstance(candidate(0), int)
    assert half(candidate(7)) == 7
"""
CONTEXT = "def half(x):\n    return x // 2\ndef double(x):\n    return None\n"
NAP = (  # seconds that a process left behind sleeps: a number that no other run has
    f"600.{secrets.randbelow(10**16):016}"
)
GOOD = "\ndef double(x):\n    return 2 * x\n"  # the right answer, after or around a trick
BAD = "\ndef double(x):\n    return 4\n"  # right for the first call alone

ENDLESS = {  # never ends by itself: (program, what the level must hold); all of them time out
    "a loop": ("def double(x):\n    while True: pass", ()),
    "a loop while it is read": ("while True: pass", ()),
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        (),
    ),
    "a long sleep": ("import time\ndef double(x): time.sleep(10 ** 6)", ()),
    "deaf to every signal": (
        (
            "import signal, time\nfor s in set(signal.Signals) - {9, 19}:\n    try:"
            " signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\nwhile True: time.sleep(9)"
        ),
        (),
    ),
    "one endless operation": ("def double(x): return 9 ** 9 ** 9", ()),
    "an endless match": ("import re\ndef double(x): return re.match('(a+)+$', 'a' * 99 + 'b')", ()),
    "a deadlock": (
        "import threading\nlock = threading.Lock()\nlock.acquire()\ndef double(x): lock.acquire()",
        (),
    ),
    "memory again and again": (
        (
            "kept = []\nwhile True:\n    try: kept.append(bytearray(1 << 25))\n    except"
            " MemoryError: pass"
        ),
        (),
    ),
    "output again and again": (
        "import os\nwhile True:\n    try: os.write(1, b'x' * 65536)\n    except OSError: pass",
        (),
    ),
    "forks again and again": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        (MANY,),
    ),
    "a destructor without end": (
        "class A:\n    def __del__(self):\n        while True: pass\ndef double(x): A()",
        (),
    ),
}

ENDING = {  # (program, verdict, what the level must hold)
    # processes and threads
    "a fork bomb": ("import os\nwhile True: os.fork()", ANY, (MANY,)),
    "a thread bomb": (
        (
            "import threading, time\nwhile True: threading.Thread(target=time.sleep,"
            " args=(99,)).start()"
        ),
        "RuntimeError",
        (MANY,),
    ),
    "zombie children": (
        "import os\nfor i in range(500):\n    if os.fork() == 0: os._exit(0)",
        ANY,
        (MANY,),
    ),
    "a daemon": (
        (
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:"
            " time.sleep(600)\n    os._exit(0)"
        ),
        ANY,
        (OUTLIVE, MANY),
    ),
    "a shell": ("import os\nassert os.system(f'sleep {NAP} &') == 0", ANY, (OUTLIVE, MANY)),
    "a subprocess": ("import subprocess\nsubprocess.Popen(['sleep', NAP])", ANY, (OUTLIVE, MANY)),
    "another program in its place": ("import os\nos.execv('/bin/true', ['true'])", ANY, (MANY,)),
    # signals and other processes
    "killing the checker": (
        "import os\nos.kill(os.getppid(), 9)" + GOOD,
        "PermissionError",
        (OUTLIVE, MANY),
    ),
    "killing its group": ("import os\nos.killpg(0, 9)" + GOOD, "PermissionError", (OUTLIVE, MANY)),
    "killing everybody": ("import os\nos.kill(-1, 9)" + GOOD, "PermissionError", (OUTLIVE, MANY)),
    "killing itself": ("import signal\nsignal.raise_signal(9)" + GOOD, ANY, ()),
    "an alarm": (
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(60)",
        "signal 14",
        (),
    ),
    "an abort": ("import os\ndef double(x): os.abort()", "signal ", ()),
    "tracing the checker": (
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0" + GOOD,
        "AssertionError",
        (),
    ),
    "the checker's memory": (
        "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
        ("PermissionError", "FileNotFoundError"),
        (),
    ),
    "the checker's input": (
        "import os\nopen(f'/proc/{os.getppid()}/fd/0', 'rb').read()",
        ("PermissionError", "FileNotFoundError"),
        (),
    ),
    "the checker's priority": (
        "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "PermissionError",
        (MANY,),
    ),
    # memory, recursion, crashes
    "a memory bomb": ("kept = []\nwhile True: kept.append('x' * 10 ** 6)", "memory", ()),
    "one huge text": ("def double(x): return 'x' * (1 << 33)", "memory", ()),
    "a huge map": ("import mmap\nmmap.mmap(-1, 1 << 40)", ("OSError", "memory"), ()),
    "shared memory": (
        "import ctypes\nassert ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) >= 0" + GOOD,
        "AssertionError",
        (MANY,),
    ),
    "higher limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        ("ValueError", "PermissionError"),
        (),
    ),
    "deep recursion": ("def double(x): return double(x + 1)", "RecursionError", ()),
    "bottomless recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef double(x): return double(x + 1)",
        ANY,
        (),
    ),
    "an address of no memory": (
        "import ctypes\ndef double(x): return ctypes.string_at(8)",
        "signal 11",
        (),
    ),
    "brackets": ("x = " + "[" * 50000, ("SyntaxError", "memory"), ()),
    "a sum too long to compile": ("x = " + "+".join(["1"] * 200000) + GOOD, ANY, ()),
    # output and files
    "endless output": ("while True: print('x' * 9999)", "output", ()),
    "endless errors": ("import sys\nwhile True: sys.stderr.write('x' * 9999)", "output", ()),
    "a huge value": ("def double(x): return 'x' * (1 << 22)", "output", ()),
    "a huge file": (
        "with open('/tmp/huge', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))",
        ("output", "PermissionError"),
        (CHANGE,),
    ),
    "a huge hole": (
        "open('/tmp/hole', 'wb').truncate(1 << 50)",
        ("output", "PermissionError"),
        (CHANGE,),
    ),
    "many files": (
        "for i in range(3000): open(f'/tmp/{i}', 'wb').write(b'x' * 20000)",
        ("OSError", "PermissionError"),
        (CHANGE,),
    ),
    "many handles": ("import os\nwhile True: os.dup(1)", "OSError", ()),
    "deleting files": (
        "import shutil\nshutil.rmtree(HOME, ignore_errors=True)" + GOOD,
        RIGHT,
        (CHANGE,),
    ),
    "deleting one file": ("import os\nos.remove(HOME + '/mine.txt')", ANY, (CHANGE,)),
    "emptying a file": ("open(HOME + '/mine.txt', 'w')", ANY, (CHANGE,)),
    "renaming a file": (
        "import os\nos.rename(HOME + '/mine.txt', HOME + '/other.txt')",
        ANY,
        (CHANGE,),
    ),
    "closing a file to its owner": ("import os\nos.chmod(HOME + '/mine.txt', 0)", ANY, (MODES,)),
    "reading the home folder": (
        "import os\nprint(os.listdir(os.path.expanduser('~root')), os.listdir(HOME))",
        ANY,
        (READ,),
    ),
    "reading a file": ("print(open(HOME + '/mine.txt').read())", ANY, (READ,)),
    "reading through a link": (
        "import os\nos.symlink(HOME, '/tmp/home')\nprint(open('/tmp/home/mine.txt').read())",
        ANY,
        (READ, CHANGE),
    ),
    "reading the passwords": ("open('/etc/shadow').read()", ANY, (READ,)),
    "the environment": (
        "import os\nprint(dict(os.environ), open('/proc/self/environ').read())",
        ANY,
        (),
    ),
    "the kernel's switches": ("open('/proc/sysrq-trigger', 'w')", ANY, (CHANGE,)),
    # network and namespaces
    "a connection": (
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)",
        ANY,
        (NETWORK,),
    ),
    "a connection tried in vain": (
        "import socket\ntry: socket.create_connection(('127.0.0.1', PORT), 2)\nexcept OSError: pass"
        + GOOD,
        RIGHT,
        (NETWORK,),
    ),
    "a name looked up": ("import socket\nsocket.getaddrinfo('example.com', 80)", ANY, (NETWORK,)),
    "a server": (
        "import socket\nsocket.create_server(('0.0.0.0', 0)).accept()",
        "PermissionError",
        (MANY,),
    ),
    "new namespaces": (
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0" + GOOD,
        "AssertionError",
        (MANY,),
    ),
    "another root": ("import os\nos.chroot('/tmp')", "PermissionError", ()),
    # leaving early
    "sys.exit": ("import sys\nsys.exit(0)" + GOOD, "exit 0", ()),
    "sys.exit when called": ("import sys\ndef double(x): sys.exit(0)", "exit 0", ()),
    "os._exit": ("import os\nos._exit(0)", "exit 0", ()),
    "os._exit when called": ("import os\ndef double(x): os._exit(0)", "exit 0", ()),
    "an interrupt": ("def double(x): raise KeyboardInterrupt", "KeyboardInterrupt", ()),
    "an exit of its own": (
        "class E(SystemExit):\n    code = property(lambda self: 1 / 0)\ndef double(x): raise E",
        ANY,
        (),
    ),
    "an error without words": (
        "class E(Exception):\n    def __str__(self): 1 / 0\ndef double(x): raise E",
        "E",
        (),
    ),
    "an error named like a pass": (
        "def double(x): raise Exception('passed')",
        "Exception: passed",
        (),
    ),
    "no function": ("double = 4", "TypeError", ()),
    "no name": ("x = 4", "KeyError", ()),
    "an end at exit": ("import atexit, os\natexit.register(lambda: os._exit(7))" + GOOD, RIGHT, ()),
    "an exit without end": (
        "import atexit\ndef wait():\n    while True: pass\natexit.register(wait)" + GOOD,
        RIGHT,
        (),
    ),
    "an error in a destructor": (
        "class A:\n    def __del__(self): 1 / 0\nA()\nkept = A()" + GOOD,
        RIGHT,
        (),
    ),
    "reading the input": ("import sys\nassert sys.stdin.read() == ''" + GOOD, RIGHT, ()),
    "waiting for input": ("def double(x): return int(input())", "EOFError", ()),
    # the checker
    "equal to everything": (
        (
            "class Yes(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
            "def double(x): return Yes(9)"
        ),
        "AssertionError",
        (),
    ),
    "an object equal to everything": (
        "class Yes:\n    def __eq__(self, other): return True\ndef double(x): return Yes()",
        "TypeError",
        (),
    ),
    "a class that lies": (
        "class A:\n    __class__ = int\n    def __int__(self): return 4\ndef double(x): return A()",
        "TypeError",
        (),
    ),
    "other builtins": (
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.AssertionError ="
        " ZeroDivisionError\nbuiltins.len = print" + BAD,
        ANY,
        (),
    ),
    "other modules": (
        "import sys, types\nfor name in list(sys.modules):\n    sys.modules[name] ="
        " types.ModuleType(name)" + BAD,
        ANY,
        (),
    ),
    "another json": (
        'import json\njson.loads = lambda text: [[2], {}]\njson.dumps = lambda value: \'{"value":'
        ' 4, "arguments": null}\'' + BAD,
        ANY,
        (),
    ),
    "another check": (
        "def check(candidate): pass\nimport __main__\n__main__.check = check\n__main__.judge ="
        " lambda *a: None" + BAD,
        "AssertionError",
        (),
    ),
    "another runner": (
        "import sys\nrunner = sys._getframe(1).f_globals\nrunner['plain'] = lambda value:"
        " 4\nrunner['described'] = str" + BAD,
        "AssertionError",
        (),
    ),
    "another helper": ("def half(x): return 7" + BAD, "AssertionError", ()),
    "a hunt for the word": (
        (
            "import gc, os, re, sys\nfound = set(re.findall('[0-9a-f]{32}', repr([o for o in"
            " gc.get_objects() if type(o) in (str, dict, list)]) + repr(sys._getframe(1).f_locals)"
            " + repr(sys.argv)))\nfor word in found | {'passed'}:\n    for handle in range(3,"
            " 64):\n        try: os.write(handle, word.encode())\n        except OSError:"
            " pass\nos._exit(0)"
        ),
        ANY,
        (),
    ),
    "a hunt for the tests": (
        "import gc\nassert ''.join(['candidate', '(-1)']) in repr([o for o in gc.get_objects() if"
        " type(o) in (dict, list, tuple)])" + GOOD,
        "AssertionError",
        (),
    ),
    "forged replies": (
        (
            'import os\nfor handle in range(3, 64):\n    try: os.write(handle, b\'{"ready":'
            ' true}\\n\' + b\'{"value": 4, "arguments": null}\\n\' * 9)\n    except OSError:'
            " pass\nos._exit(0)"
        ),
        "AssertionError",
        (),
    ),
    "broken replies": (
        (
            "import os\nfor handle in range(3, 64):\n    try: os.write(handle, b'{\"ready\"\\n')\n "
            "   except OSError: pass"
        ),
        "a broken reply",
        (),
    ),
    "bottomless replies": (
        (
            "import os\nfor handle in range(3, 64):\n    try: os.write(handle, b'[' * 60000 +"
            " b'\\n')\n    except OSError: pass"
        ),
        "a broken reply",
        (),
    ),
    "odd replies": (
        (
            'import os\nfor handle in range(3, 64):\n    try: os.write(handle, b\'{"ready":'
            ' 1}\\n{"value": {"set": [[1]]}, "arguments": 3}\\n\')\n    except OSError:'
            " pass\nos._exit(0)"
        ),
        "a broken reply",
        (),
    ),
    "closed pipes": ("import os\nos.closerange(3, 64)" + GOOD, ANY, ()),
    "endless items": (
        "import itertools\ndef double(x): return itertools.count()",
        ("memory", "timeout"),
        (),
    ),
    "a list inside itself": ("x = []\nx.append(x)\ndef double(_): return x", "RecursionError", ()),
}


@pytest.fixture(scope="module")
def ran():
    """Every program's result, and what the world around them looked like afterwards."""
    gaps = set(strongest_level().gaps())
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp" if os.path.isdir("/var/tmp") else None) as home,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        Path(home, "mine.txt").write_text("a secret of ours")
        listener.settimeout(0)
        names = f"HOME, PORT, NAP = {home!r}, {listener.getsockname()[1]}, {NAP!r}\n"
        os.environ["NANOLAB_TEST_SECRET"] = "a secret of ours"
        found = {}
        start = time.monotonic()
        for programs, timeout in ((ENDLESS, 0.5), (ENDING, 20)):
            held = {
                name: program[0]
                for name, program in programs.items()
                if not gaps & set(program[-1])
            }
            checks = [Check(names + program, "double", TEST, CONTEXT) for program in held.values()]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sandbox, "START", f"{sandbox.START}  # {NAP}")
                found |= dict(
                    zip(held, run_many(checks, timeout, workers=4, memory_mb=192), strict=True)
                )
        seconds = time.monotonic() - start
        del os.environ["NANOLAB_TEST_SECRET"]
        end = time.monotonic() + 10
        while (
            left_behind() and time.monotonic() < end
        ):  # a process that was killed may take a moment to go, on a busy machine
            time.sleep(0.05)
        try:
            listener.accept()
            connected = True
        except BlockingIOError:
            connected = False
        return SimpleNamespace(
            results=found,
            seconds=seconds,
            connected=connected,
            files={
                path.name: (path.read_text(), path.stat().st_mode & 0o777)
                for path in Path(home).iterdir()
            },
            left=left_behind(),
        )


def left_behind():
    """Numbers of the living processes that are this module's runners, or that the programs above
    start: NAP is in their whole commands.
    """
    listing = subprocess.run(
        ["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    return {
        line.split()[0]
        for line in listing.splitlines()
        if NAP in line and not line.split()[1].startswith("Z")
    }


def result_of(ran, name):
    if name not in ran.results:
        pytest.skip(
            f"the level in force here, {strongest_level()}, does not hold this: programs can"
            f" {', '.join(strongest_level().gaps())}"
        )
    return ran.results[name]


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_program_is_ended(ran, name):
    assert result_of(ran, name).error == "timeout"


@pytest.mark.parametrize("name", ENDING)
def test_a_hostile_program_gets_the_verdict_that_it_deserves(ran, name):
    result, verdict = result_of(ran, name), ENDING[name][1]
    if verdict == RIGHT:
        assert result.passed, result
    else:
        assert not result.passed and result.error.startswith(verdict), result
    assert "a secret of ours" not in result.output and len(result.output) <= 65536


def test_the_suite_is_large():
    assert len(ENDLESS) + len(ENDING) >= 90 and not ENDLESS.keys() & ENDING.keys()


def test_nothing_was_harmed(ran):
    """By any program that the level in force holds; under pytest-xdist each worker runs them all,
    with a home and a mark of its own.
    """
    result_of(ran, "a loop")  # even the weakest level holds it
    assert ran.files == {"mine.txt": ("a secret of ours", 0o644)}
    assert not ran.connected and not ran.left
    assert ran.seconds < 240  # nothing goes on without end, on a busy machine neither
