"""Keep what a study of a built world found: `python scripts/keep_built.py trap` (or length_bias),
after run_all.py.

Writes to experiments/results/EXPERIMENT/ the newest report with its figures and methods.csv: each
method's accuracy, its share of answers without a tool call, its cost in token positions, and the
exact McNemar p against power sampling (alpha 4) on the same problems.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_smoke import keep_report

from nanolab.evals import methods
from nanolab.files import MLRUNS, ROOT
from nanolab.results import plain

COLUMNS = [
    "step",
    "method",
    "alpha",
    "temperature",
    "num_steps",
    "passed",
    "total",
    "accuracy",
    "low",
    "high",
    "no_tool_share",
    "positions_per_problem",
    "p_value",
]


def newest(experiment: str, step: str) -> Path:
    return max(
        (MLRUNS / "work" / experiment / step).glob("*/result.json"),
        key=lambda path: path.stat().st_mtime,
    ).parent


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def described(
    step: str, setting: dict, records: list[dict], against: list[dict] | None = None
) -> dict:
    return (
        {"step": step}
        | setting
        | plain(methods.accuracy(records, against))
        | {"no_tool_share": methods.no_tool_share(records)}
    )


def compared(experiment: str) -> list[dict]:
    """One row a method: those of power_eval, then every state of power_ablation's chains."""
    problems = read(newest(experiment, "power_eval") / "problems.jsonl")
    found = {
        name: [problem["methods"][name] for problem in problems] for name in problems[0]["methods"]
    }
    rows = [
        described(
            "power_eval", {"method": name}, records, None if name == "power" else found["power"]
        )
        for name, records in found.items()
    ]
    for path in sorted((newest(experiment, "power_ablation") / "records").glob("alpha=*.jsonl")):
        alpha, temperature = (part.partition("=")[2] for part in path.stem.split())
        chains = read(path)
        for steps in sorted(map(int, chains[0]["states"])):
            setting = {
                "method": "power",
                "alpha": alpha,
                "temperature": temperature,
                "num_steps": steps,
            }
            rows.append(described("power_ablation", setting, methods.state_records(chains, steps)))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="a finished study of a built world: trap or length_bias")
    experiment = parser.parse_args().experiment
    folder = ROOT / "experiments" / "results" / experiment
    keep_report(experiment, folder)
    with (folder / "methods.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in compared(experiment):
            table.writerow(
                {
                    key: f"{value:.6g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
            )
            print(
                " ".join(
                    f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in row.items()
                )
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
