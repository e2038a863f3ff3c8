"""What studies ended with: `compare` shows two side by side, `results` prints several as one CSV
(its columns: nanolab/report/results_csv.py).
"""

import argparse
import csv
import json
import sys
from typing import Any

from nanolab.terminal.plain import Table
from nanolab.wording import METRICS, or_dash

Row = dict[str, Any]
COMPARED = {key for key, metric in METRICS.items() if metric.compared}  # JSON and CSV have all
TESTS = 10  # from so many on some are below 0.05 by chance alone
CELL = 48  # characters of a setting's value


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare`."""
    parser.add_argument("a", help="a study (its latest execution), or the run id of an execution")
    parser.add_argument("b", help="another")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--csv", action="store_true", help="print the differences as CSV")


def compare(given: argparse.Namespace) -> int:
    """Prints what two studies differ in."""
    from nanolab.report import compare, results_csv

    sides = a, b = compare.find(given.a), compare.find(given.b)
    settings, rows = compare.settings(a, b), compare.differences(a, b)
    if given.json:
        facts = {
            key: {
                "name": side.name,
                "run_id": side.execution.id,
                "commit": results_csv.commit(side.execution),
            }
            for key, side in zip("ab", sides)
        }
        print(json.dumps({**facts, "settings": settings, "differences": rows}, indent=1))
    elif given.csv:
        writer = csv.DictWriter(sys.stdout, compare.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        for key, side in zip("ab", sides):
            of = f", of {', '.join(side.models)}" if side.models else ""
            print(f"{key}: {side.name} ({side.execution.id}){of}")
        for table in _tables(settings, rows):
            print()
            table.show()
    return 0


def _tables(settings: list[Row], rows: list[Row]) -> list[Table]:
    accuracies, metrics, costs = (
        [row for row in rows if row["kind"] == kind] for kind in ("accuracy", "metric", "cost")
    )
    errors = {(row["step"], row["metric"]): row for row in metrics}

    def measured(row: Row, side: str) -> str:
        error = errors.get((row["step"], f"{row['metric']}_se"))
        return f"{row[side]:.6g}" + (f" ± {error[side]:.2g}" if error else "")

    title = "settings that differ" if settings else "no setting differs"
    cells = [[row["setting"], *(_cut(row[side]) for side in "ab")] for row in settings]
    tables = [Table(("setting", "a", "b"), cells, title=title)]
    if accuracies:
        tables.append(_accuracies(accuracies))
    header, numbers = ("step", "metric", "a", "b", "b - a", "note"), ("a", "b", "b - a")
    cells = [
        [
            *(row["step"], row["metric"]),
            *(measured(row, "a"), measured(row, "b")),
            f"{row['difference']:+.4g}",
            row["note"],
        ]
        for row in metrics
        if row["metric"] in COMPARED
    ]
    if cells:
        title = "other metrics (one run each; ± is a standard error, of rows or steps)"
        tables.append(Table(header, cells, numbers, title))
    cells = [
        [
            *(row["step"], row["metric"]),
            *(f"{row['a']:.1f}", f"{row['b']:.1f}", f"{row['difference']:+.1f}"),
        ]
        for row in costs
    ]
    return [*tables, Table(header[:-1], cells, numbers, "cost")]


def _accuracies(rows: list[Row]) -> Table:
    names = ("step", "task", "method")
    numbers = ("n", "a", "b", "b - a", "95% interval", "p", "only a", "only b")
    cells = [
        [
            row["step"],
            row["task"],
            " ".join(filter(None, (row["method"], row["setting"]))),
            or_dash(row["n"]),
            *(f"{row[side]:.4f}" for side in "ab"),
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            or_dash(row["p_value"], "{:.3g}".format),
            or_dash(row["only_a"]),
            or_dash(row["only_b"]),
        ]
        for row in rows
    ]
    notes = []
    for interval in dict.fromkeys(row["interval"] for row in rows):
        found = sum(row["interval"] == interval for row in rows)
        notes.append(f"- {found} of {len(rows)} intervals: {interval}")
    if tests := sum(row["p_value"] is not None for row in rows):
        note = "- p: McNemar's exact test, of the problems that only a or only b passed"
        chance = f"; of {tests} tests about {0.05 * tests:.0f} would be below 0.05 by chance alone"
        notes.append(note + chance * (tests >= TESTS))
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        noted = [f"{row['step']} {row['task']}" for row in rows if row["note"] == note]
        which = "all" if len(noted) == len(rows) else ", ".join(dict.fromkeys(noted))
        notes.append(f"- {note}: {which}")
    return Table(names + numbers, cells, numbers, "accuracy", notes=notes)


def _cut(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


def results_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `results`."""
    text = "studies (the latest execution of each of their seeds), or run ids of executions"
    parser.add_argument("studies", nargs="+", metavar="STUDY", help=text)
    parser.add_argument("--out", metavar="FILE", help="write it there instead of printing it")


def results(given: argparse.Namespace) -> int:
    """Prints the results of studies as one CSV, or writes it."""
    from nanolab import files
    from nanolab.errors import UserError
    from nanolab.report import compare, results_csv

    rows = []
    for name in given.studies:  # a study that never ran is refused before anything is printed
        side = compare.find(name)
        for seed in [side] if name == side.execution.id else compare.seeds_of(side):
            rows += results_csv.of_execution(seed.execution.id)
    text = results_csv.to_csv(rows)
    if not given.out:
        print(text, end="")
        return 0
    try:
        files.write_atomic(given.out, text)
    except OSError as error:
        raise UserError(f"--out {given.out} cannot be written: {error.strerror}") from error
    print(f"{len(rows)} rows in {given.out}")
    return 0
