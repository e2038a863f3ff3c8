"""Whether two stores hold the same numbers: `python scripts/compare_runs.py A B [--study NAME]`.

A and B are folders of stores (mlruns) in each of which a study ran, for example before and after a
change of the code. Step by step, every metric and every record (answers, chains, samples) must be
the same to the digit; times, speeds, run ids and paths may differ. Prints what differs, and gives 1
if anything does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SPEEDS = ("tokens_per_second", "positions_per_second", "mfu")
TIMES = (*SPEEDS, "seconds", "started", "ended", "time", "report", "html")
PATHS = ("results", "summary")  # of step report
RECORDS = ("*.jsonl", "records/*.jsonl", "artifacts/**/*.json", "artifacts/**/*.csv")
# with times and run ids, or new
NOT_RECORDS = ("journal.jsonl", "seconds.jsonl", "scores.json", "results.csv")
SHOWN = 5  # differences of a file


def main() -> int:
    """Prints the differences; 0 where there is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--study", default="", help="one study (default: every study of A)")
    given = parser.parse_args()
    studies = [given.study] if given.study else sorted(p.name for p in (given.a / "work").iterdir())
    found = [line for study in studies for line in differences(given.a, given.b, study)]
    print("\n".join(found) or "no difference")
    return 1 if found else 0


def differences(a: Path, b: Path, study: str) -> list[str]:
    """A line for each difference of a study's steps."""
    left, right = steps(a, study), steps(b, study)
    lines = [f"{study} {step}: only in one store" for step in sorted(left.keys() ^ right.keys())]
    if not left:
        lines.append(f"{study}: no finished step in {a}")
    for step in sorted(left.keys() & right.keys()):
        for line in step_differences(left[step], right[step]):
            lines.append(f"{study} {step}: {line}")
    return lines


def steps(store: Path, study: str) -> dict[str, Path]:
    """Step -> the folder of its newest result."""
    found = sorted(
        (store / "work" / study).glob("*/*/result.json"), key=lambda path: path.stat().st_mtime
    )
    return {path.parts[-3]: path.parent for path in found}


def step_differences(a: Path, b: Path) -> list[str]:
    """What differs between two work folders of a step."""
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (a, b)]
    lines = unequal("metric", *metrics)
    names = [
        {
            path.relative_to(folder).as_posix()
            for pattern in RECORDS
            for path in folder.glob(pattern)
            if path.name not in NOT_RECORDS
        }
        for folder in (a, b)
    ]
    lines += [f"{name}: only in one store" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        lines += unequal(name, *(records(folder / name) for folder in (a, b)))[:SHOWN]
    curves = [journal(folder) for folder in (a, b)]
    return lines + unequal("curve", *curves)


def records(path: Path) -> dict[str, Any]:
    """The lines of a file by number, those of JSON as values."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".jsonl":
        return {str(number): json.loads(line) for number, line in enumerate(lines, 1)}
    return {str(number): line for number, line in enumerate(lines, 1)}


def journal(folder: Path) -> dict[str, Any]:
    """(grid point, key, step) -> value of every number that a step recorded while it ran."""
    path, found = folder / "journal.jsonl", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        record = json.loads(line)
        if record["kind"] == "metrics":
            for key, value in record["metrics"].items():
                found[f"{record['point'] or ''} {key} {record['step']}"] = value
    return found


def unequal(what: str, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """A line for each key whose values differ, times left out."""
    lines = []
    for key in dict.fromkeys([*a, *b]):
        name = key.split()[-2] if what == "curve" else key
        if name.rpartition("/")[2] in (*TIMES, *PATHS):
            continue
        one, other = a.get(key), b.get(key)
        if repr(one) != repr(other):  # NaN equals itself, 1 is not 1.0
            lines.append(f"{what} {key}: {str(one)[:80]} | {str(other)[:80]}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
