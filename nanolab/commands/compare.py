"""`compare`: two studies or executions, their settings and results side by side."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from typing import Any

from nanolab.commands.table import show_table

SHOWN = (
    "loss",
    "validation_bits_per_byte",
    "train_bits_per_byte",
    "tokens_per_second",
    "compression_ratio",
    "bits_per_char",
    "coverage",
    "CORE",
    "chat_core",
    "acceptance",
    "effective_moves",
    "reward_last",
)  # metrics of the table; JSON and CSV have all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("a", help="a study (its latest execution), or the run id of an execution")
    parser.add_argument("b", help="another")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--csv", action="store_true", help="print the differences as CSV")


def main(given: argparse.Namespace) -> int:
    """Prints what differs between the two: settings, accuracies with intervals, other metrics, time."""
    from nanolab import compare

    a, b = compare.find(given.a), compare.find(given.b)
    settings, rows = compare.settings(a, b), compare.differences(a, b)
    if given.json:
        print(
            json.dumps(
                {"a": _facts(a), "b": _facts(b), "settings": settings, "differences": rows},
                indent=1,
            )
        )
    elif given.csv:
        writer = csv.DictWriter(sys.stdout, compare.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(f"a: {a.name} ({a.execution.id})\nb: {b.name} ({b.execution.id})\n")
        _show(settings, rows)
    return 0


def _facts(side: Any) -> dict[str, str]:
    from nanolab.report.results import commit

    return {"name": side.name, "run_id": side.execution.id, "commit": commit(side.execution)}


def _show(settings: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    if settings:
        show_table(
            "settings that differ",
            ("setting", "a", "b"),
            [[row["setting"], *(_cut(row[side]) for side in "ab")] for row in settings],
            left=3,
        )
    else:
        print("no setting differs")
    accuracies = [row for row in rows if row["kind"] == "accuracy"]
    if accuracies:
        print()
        show_table(
            "accuracy",
            (
                "step",
                "task",
                "method",
                "n",
                "a",
                "b",
                "b - a",
                "95% interval",
                "p",
                "only a",
                "only b",
            ),
            [
                [
                    row["step"],
                    row["task"],
                    " ".join(filter(None, (row["method"], row["setting"]))),
                    _number(row["n"], "{:.0f}"),
                    f"{row['a']:.4f}",
                    f"{row['b']:.4f}",
                    f"{row['difference']:+.4f}",
                    f"{row['low']:+.4f} to {row['high']:+.4f}",
                    _number(row["p_value"], "{:.3g}"),
                    _number(row["only_a"], "{:d}"),
                    _number(row["only_b"], "{:d}"),
                ]
                for row in accuracies
            ],
            left=3,
        )
        _explain(accuracies)
    metrics = [row for row in rows if row["kind"] == "metric" and row["metric"] in SHOWN]
    if metrics:
        print()
        show_table(
            "other metrics (one run each: no interval)",
            ("step", "metric", "a", "b", "b - a"),
            [
                [
                    row["step"],
                    row["metric"],
                    *(f"{row[key]:.6g}" for key in ("a", "b")),
                    f"{row['difference']:+.4g}",
                ]
                for row in metrics
            ],
            left=2,
        )
    costs = [row for row in rows if row["kind"] == "cost"]
    print()
    show_table(
        "cost",
        ("step", "", "a", "b", "b - a"),
        [
            [
                row["step"],
                row["metric"],
                f"{row['a']:.1f}",
                f"{row['b']:.1f}",
                f"{row['difference']:+.1f}",
            ]
            for row in costs
        ],
        left=2,
    )


def _explain(accuracies: list[dict[str, Any]]) -> None:
    """Which intervals and tests these are, and which accuracies are not of the same problems."""
    for interval in dict.fromkeys(row["interval"] for row in accuracies):
        print(
            f"- {sum(row['interval'] == interval for row in accuracies)} of {len(accuracies)} intervals: {interval}"
        )
    tests = sum(row["p_value"] is not None for row in accuracies)
    if tests:
        print(
            "- p: McNemar's exact test, of the problems that only a or only b passed"
            + (
                f"; of {tests} tests about {0.05 * tests:.0f} would be below 0.05 by chance alone"
                if tests >= 10
                else ""
            )
        )
    for note in dict.fromkeys(row["note"] for row in accuracies if row["note"]):
        noted = [row for row in accuracies if row["note"] == note]
        which = (
            "all"
            if len(noted) == len(accuracies)
            else ", ".join(dict.fromkeys(f"{row['step']} {row['task']}" for row in noted))
        )
        print(f"- {note}: {which}")


def _number(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _cut(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 48 else text[:45] + "..."
