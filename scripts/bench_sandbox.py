"""What the sandbox costs: milliseconds a program at each level of this machine, against starting
the interpreter alone; JSON lines.

python scripts/bench_sandbox.py [--programs 40] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from nanolab.sandbox import levels
from nanolab.sandbox.programs import PROBE, Check, run_python, strongest_level

PROGRAM = Check(
    "def double(x):\n    return 2 * x\n",
    "double",
    "def check(candidate):\n    assert candidate(2) == 4\n",
)


def milliseconds(run, programs: int, workers: int) -> float:
    """Wall-clock milliseconds a call of `run`, `workers` at a time."""
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda _: run(), range(programs)))
    return (time.perf_counter() - start) / programs * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", "pass"]
    bare = milliseconds(
        lambda: subprocess.run(python, check=True, env={}), args.programs, args.workers
    )
    print(
        json.dumps(
            {
                "level": "bare interpreter",
                "programs": args.programs,
                "workers": args.workers,
                "milliseconds": round(bare, 1),
            }
        )
    )
    for level in levels():
        if not run_python(PROBE, 20.0, level=level).passed:
            continue

        def run(level=level) -> None:
            result = run_python(PROGRAM, 20.0, level=level)
            assert result.passed, result

        cost = milliseconds(run, args.programs, args.workers)
        print(
            json.dumps(
                {
                    "level": str(level),
                    "in_force": level == strongest_level(),
                    "gaps": level.gaps(),
                    "milliseconds": round(cost, 1),
                    "over_bare_interpreter": round(cost / bare, 2),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
