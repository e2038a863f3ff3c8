"""Whether mathematical expressions are equal, as math-verify says.

What a model wrote can keep a computer algebra system busy for hours (10^{10^{10}}!), so it works in
processes that are ended by their limits of time and memory. math-verify's own time limit needs the
main thread, and is not seen inside of one long operation of the interpreter.
"""

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from nanolab.sandbox import expression_worker

SECONDS = 3.0  # of processor time, a pair; beyond it two expressions are not equal


class Worker:
    """A process that compares pairs, started at need and anew after one that it did not survive."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen | None = None

    def equal(self, expected: str, answer: str) -> bool:
        """Whether an answer equals the reference; False where its limits ended the process."""
        if self.process is not None and self.process.poll() is not None:
            self.end()  # by somebody else, while it had nothing to do
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", expression_worker.__file__, str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        try:
            self.process.stdin.write(json.dumps([expected, answer]) + "\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline()
        except BrokenPipeError:
            said = ""
        if not said:
            status = self.process.wait()
            self.end()
            if status >= 0:  # by no signal: math-verify is missing, say
                raise RuntimeError(f"expression_worker.py ended with exit status {status}")
        return said == "true\n"

    def end(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_idle: "SimpleQueue[Worker]" = SimpleQueue()  # kept, since a start takes a second
_lock = threading.Lock()
_started: list[Worker] = []


@atexit.register
def _end() -> None:
    for worker in _started:
        worker.end()


def _compare(pair: tuple[str, str]) -> bool:
    with _lock:
        if _idle.empty():
            _started.append(Worker())
            _idle.put(_started[-1])
        worker = _idle.get()
    try:
        return worker.equal(*pair)
    finally:
        _idle.put(worker)


def equal_many(pairs: Sequence[tuple[str, str]], workers: int = 2) -> list[bool]:
    """Whether each (reference, answer) of LaTeX expressions is equal, `workers` at a time; an empty
    one equals nothing. Order matters: where the reference is a number, x = 5 is 5.
    """
    hard = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and all(pair)]
    with ThreadPoolExecutor(max(1, min(workers, len(hard)))) as pool:
        found = dict(zip(hard, pool.map(_compare, hard)))
    return [found.get(pair, pair[0] == pair[1] != "") for pair in pairs]
