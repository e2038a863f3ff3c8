"""Mean and spread of every final metric over the seeds of a study: a table, seeds.csv and seeds.md."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import dataclass
from typing import Any

from nanolab import files, terminal, tracking
from nanolab.config import StudyConfig
from nanolab.plan import Step
from nanolab.terminal import Screen
from nanolab.tracking_notes import headline_keys

FOLDER = "seeds"  # of a study's work folder


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds that have it; `deviation` is the sample standard deviation (n - 1), None of one value."""

    step: str
    metric: str
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


def spreads(results: dict[int, dict[str, dict[str, Any]]]) -> list[Spread]:
    """The spread of every finite number; `results` maps seed -> step -> final metrics."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for seed, steps in results.items():
        for step, metrics in steps.items():
            for key, value in metrics.items():
                if (
                    isinstance(value, (int, float))
                    and not isinstance(value, bool)
                    and math.isfinite(value)
                ):
                    found.setdefault((step, key), {})[seed] = float(value)
    return [Spread(step, key, values) for (step, key), values in found.items()]


def main_numbers(rows: list[Spread]) -> list[Spread]:
    """Those that a person looks at first: main numbers of each step, and the accuracy on each task."""
    steps: dict[str, dict[str, float]] = {}
    for row in rows:
        steps.setdefault(row.step, {})[row.metric] = row.mean
    shown = {
        step: {*headline_keys(step, means), *(key for key in means if f"{key}/n" in means)}
        for step, means in steps.items()
    }
    return [
        row for row in rows if row.metric in shown[row.step] and not row.metric.endswith("p_value")
    ]


def as_csv(rows: list[Spread], seeds: list[int]) -> str:
    """One line a metric: step, metric, n, mean, standard deviation, least, greatest, and the value of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "step",
            "metric",
            "n",
            "mean",
            "standard_deviation",
            "min",
            "max",
            *(f"seed_{seed}" for seed in seeds),
        ]
    )
    for row in rows:
        deviation = "" if row.deviation is None else row.deviation
        writer.writerow(
            [
                row.step,
                row.metric,
                len(row.values),
                row.mean,
                deviation,
                min(row.values.values()),
                max(row.values.values()),
                *(row.values.get(seed, "") for seed in seeds),
            ]
        )
    return text.getvalue()


def as_markdown(rows: list[Spread], seeds: list[int]) -> str:
    """The main numbers as a table."""
    lines = []
    for row in main_numbers(rows):
        spread = "-" if row.deviation is None else f"{row.deviation:.4f}"
        each = [f"{row.values[seed]:.4f}" if seed in row.values else "-" for seed in seeds]
        lines.append([row.step, row.metric, str(len(row.values)), f"{row.mean:.4f}", spread, *each])
    header = ["step", "metric", "n", "mean", "std", *(f"seed {seed}" for seed in seeds)]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]
    )


def report(
    study: StudyConfig, planned: list[dict[str, Step]], parents: list[str], screen: Screen
) -> None:
    """Writes seeds.csv and seeds.md, attaches them to the executions of the seeds, and shows the table."""
    results = {
        seed: {name: step.result() for name, step in steps.items() if step.finished}
        for seed, steps in zip(study.seeds, planned)
    }
    rows = spreads(results)
    folder = files.MLRUNS / "work" / study.experiment / FOLDER
    shown = as_markdown(rows, study.seeds)
    text = (
        f"# {study.experiment} over seeds {', '.join(map(str, study.seeds))}\n\nMean and sample standard deviation (n - 1) over "
        f"those of the {len(study.seeds)} seeds that have the metric (column n); each seed trains and evaluates anew. seeds.csv beside "
        f"this file has every final metric.\n\n{shown}\n"
    )
    files.write_atomic(folder / "seeds.csv", as_csv(rows, study.seeds))
    files.write_atomic(folder / "seeds.md", text)
    for parent in parents:
        for name in ("seeds.md", "seeds.csv"):
            tracking.log_file(parent, folder / name)
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
    screen.note(
        shown,
        event="seeds",
        seeds=study.seeds,
        table=terminal.shown(folder / "seeds.md"),
        csv=terminal.shown(folder / "seeds.csv"),
        metrics=metrics,
    )
    screen.note(f"seeds: {terminal.shown(folder / 'seeds.md')} (every metric: seeds.csv beside it)")
