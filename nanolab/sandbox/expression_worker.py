"""What the process that compares mathematical expressions runs: math-verify under limits.

Each line of standard input is a JSON list of the reference and an answer, both LaTeX; each line of
standard output says true or false. A pair that takes more than the processor time of argv[1]
(seconds) ends the process by a signal, whatever library code is busy; so does the end of its input.
Imports nothing of nanolab: its parent starts it by its path.
"""

import functools
import json
import logging
import os
import re
import resource
import signal
import sys

MEMORY = 2 << 30  # bytes of address space
SPACED = re.compile(r"(?<![\d.])([1-9]\d{0,2})((?:(?:\\[,;:! ]|~|\s|\{,\})\s?\d{3})+)(?![\d])")
FULL_STOP = re.compile(r"(?:[\s.]|\\text\{\s*\.?\s*\}|\\[,;: ])+$")
WRAPPED = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")  # braces inside are one deep at most
BASE = re.compile(r"[\dA-F]\s*_\s*(?:\{\s*(?:\\text\{)?\s*(\w+)|(\d))")


def tidy(text):
    r"""The text without braces around it and what ends a sentence, its thousands together (10 080,
    10\,080).

    math-verify takes "27." for no number, and 10 080 for 10 + 80.
    """
    text = FULL_STOP.sub("", text).strip()
    while WRAPPED.fullmatch(text):
        text = text[1:-1].strip()
    return SPACED.sub(lambda found: found[1] + re.sub(r"\D", "", found[2]), text)


@functools.lru_cache(maxsize=256)
def parsed(text):
    """What math-verify makes of a text; boxed, so that it takes all of it."""
    from math_verify import LatexExtractionConfig, parse

    # only LaTeX: else of what is none, the last number in it would count
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)


def equal(expected, answer):
    """Whether an answer equals the reference: math-verify's verdict, but numbers whose bases are
    both written and differ are not equal (it leaves the base out of 52_8).
    """
    from math_verify import verify

    expected, answer = tidy(expected), tidy(answer)
    if expected == answer:
        return expected != ""
    bases = [found[1] or found[2] for found in map(BASE.search, (expected, answer)) if found]
    if len(bases) == 2 and bases[0] != bases[1]:
        return False
    return verify(parsed(expected), parsed(answer), timeout_seconds=None)


def main():
    """Answers requests until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(2000)
    logging.disable(logging.CRITICAL)  # of what it could not parse
    import math_verify  # noqa: F401  its time is no pair's

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the parser complains
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))  # SIGPROF ends the process
        try:
            verdict = equal(*json.loads(line))
        except (MemoryError, RecursionError):
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(verdict)), flush=True)


if __name__ == "__main__":
    main()
