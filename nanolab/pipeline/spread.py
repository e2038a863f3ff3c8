"""Mean and spread of every final metric over the seeds of a study: a table, seeds.csv, seeds.md."""

import csv
import io
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanolab import artefacts, files
from nanolab.plan.steps import Step
from nanolab.results import from_json, read_flat, select
from nanolab.settings.config import StudyConfig
from nanolab.terminal.events import Note, Screen
from nanolab.terminal.plain import short_path
from nanolab.tracking import run_writer
from nanolab.tracking.notes import headline_keys

FOLDER = "seeds"  # of a study's work folder


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds that have it."""

    step: str
    metric: str
    values: dict[int, float]
    is_main: bool  # what a person looks at first

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1); None of one value."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


def spreads(results: dict[int, dict[str, dict[str, Any]]]) -> list[Spread]:
    """The spread of every finite number; `results` maps seed -> step -> its result.json."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    main: set[tuple[str, str]] = set()
    for seed, steps in results.items():
        for step, result in steps.items():
            main.update((step, key) for key in _main_keys(step, result))
            for key, value in result["metrics"].items():
                if type(value) in (int, float) and math.isfinite(value):  # true is no number
                    found.setdefault((step, key), {})[seed] = float(value)
    return [Spread(*names, values, names in main) for names, values in found.items()]


def _main_keys(step: str, result: dict[str, Any]) -> Iterator[str]:
    """The main numbers of a step, and the accuracies of its tasks."""
    metrics = result["metrics"]
    rows = from_json(result["rows"]) if "rows" in result else read_flat(step, metrics)
    asked = select(rows, metric="accuracy", part="", method="", moment="", chosen="")
    keys = [*headline_keys(step, metrics), *(row.name for row in asked if row.n is not None)]
    return (key for key in keys if not key.endswith("p_value"))


def as_csv(rows: list[Spread], seeds: list[int]) -> str:
    """One line a metric: its spread, and the value of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["step", "metric", "n", "mean", "standard_deviation", "min", "max"]
    writer.writerow([*header, *(f"seed_{seed}" for seed in seeds)])
    for row in rows:
        values = row.values.values()
        facts = [row.step, row.metric, len(values), row.mean, row.deviation]
        each = map(row.values.get, seeds)  # None leaves a cell empty
        writer.writerow([*facts, min(values), max(values), *each])
    return text.getvalue()


def as_markdown(rows: list[Spread], seeds: list[int]) -> str:
    """The main numbers as a table."""
    header = ["step", "metric", "n", "mean", "std", *(f"seed {seed}" for seed in seeds)]
    table = [header, ["---"] * len(header)]
    for row in (row for row in rows if row.is_main):
        numbers = [row.mean, row.deviation, *map(row.values.get, seeds)]
        cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
        table.append([row.step, row.metric, str(len(row.values)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def report(
    study: StudyConfig, planned: list[dict[str, Step]], parents: list[str], screen: Screen
) -> None:
    """Writes seeds.csv and seeds.md, attaches them to the executions, shows the table."""
    results = {
        seed: {n: artefacts.read_result(step.folder) for n, step in steps.items() if step.finished}
        for seed, steps in zip(study.seeds, planned)
    }
    rows = spreads(results)
    shown = as_markdown(rows, study.seeds)
    text = (
        f"# {study.experiment} over seeds {', '.join(map(str, study.seeds))}\n\nMean and sample"
        f" standard deviation (n - 1) over those of the {len(study.seeds)} seeds that have the"
        " metric (column n); each seed trains and evaluates anew. seeds.csv beside this file has"
        f" every final metric.\n\n{shown}\n"
    )
    folder = files.MLRUNS / "work" / study.experiment / FOLDER
    table, every = folder / "seeds.md", folder / "seeds.csv"
    files.write_atomic(every, as_csv(rows, study.seeds))
    files.write_atomic(table, text)
    for parent in parents:
        run_writer.log_file(parent, table)
        run_writer.log_file(parent, every)
    metrics = [
        {
            "step": row.step,
            "metric": row.metric,
            "mean": row.mean,
            "standard_deviation": row.deviation,
            "values": {str(seed): value for seed, value in row.values.items()},
        }
        for row in rows
    ]
    places = {"table": short_path(table), "csv": short_path(every)}
    screen.tell(Note(shown, "seeds", {"seeds": study.seeds, **places, "metrics": metrics}))
    screen.tell(Note(f"seeds: {places['table']} (every metric: seeds.csv beside it)"))
