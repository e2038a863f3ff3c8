"""Step power_eval: Metropolis-Hastings on p^alpha beside the baselines, on the same GSM8K problems, with what each costs."""

from __future__ import annotations

import json
from typing import Any

from nanolab.config import Job
from nanolab.data.sources import open_source
from nanolab.dist import World
from nanolab.evals import methods
from nanolab.evals.base import Record
from nanolab.files import write_atomic
from nanolab.journal import Run
from nanolab.samplers.power_mh import PowerSettings
from nanolab.stages.models import load_subject, say, task_rows, word_problems


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: gsm8k (power accuracy), passed, total, low, high, positions_per_problem, acceptance; for each baseline
    accuracy, passed, total, low, high, positions_per_problem and p_value (exact McNemar against power) under its name; data.
    """
    config, source, subject = job.config, open_source(job.study.data), load_subject(job, world)
    rows = task_rows(source, run, "gsm8k", config.split, config.max_examples, config.subset)
    problems = word_problems(job, world, subject, rows)
    settings = PowerSettings(alpha=config.alpha, num_steps=config.num_steps, temperature=config.temperature, top_k=config.top_k,
                             max_new_tokens=config.max_new_tokens, restart_prob=config.restart_prob, num_blocks=config.num_blocks)
    samples = methods.several(problems, "samples", config.temperature, config.top_k, config.best_of)
    found = {
        "power": methods.power(problems, "power", settings),
        "greedy": methods.single(problems, "greedy", 0.0, None),
        "low_temperature": methods.single(problems, "low_temperature", config.low_temperature, config.top_k),
        "plain": methods.best_of(samples, 1),  # the first state of each power chain (with one block)
        "best_of": methods.best_of(samples, config.best_of),
        "majority": methods.majority(samples, config.best_of),
    }
    power = methods.summary(found["power"])
    metrics: dict[str, Any] = {"gsm8k": power.pop("accuracy"), **power}
    share = methods.acceptance(found["power"])
    if share is not None:
        metrics["acceptance"] = share
    report(world, "power", {"accuracy": metrics["gsm8k"], **power})
    for name, records in found.items():
        if name != "power":
            values = methods.summary(records, found["power"])
            metrics |= {f"{name}/{key}": value for key, value in values.items()}
            report(world, name, values)
    keep_records(job, world, run, problems, found)
    return metrics | {"data": source.describe("gsm8k")}


def report(world: World, name: str, values: dict[str, float]) -> None:
    """One line of the comparison."""
    paired = f", McNemar p against power {values['p_value']:.4g}" if "p_value" in values else ""
    say(world, f"{name}: {values['passed']:.0f} of {values['total']:.0f} = {values['accuracy']:.4f} [{values['low']:.4f}, "
               f"{values['high']:.4f}], {values['positions_per_problem']:.0f} positions a problem{paired}")


def keep_records(job: Job, world: World, run: Run, problems: methods.Problems, found: dict[str, list[Record]]) -> None:
    """Every problem with every method's answer: problems.jsonl, and a table of it."""
    if world.rank != 0:
        return
    lines, table = [], []
    for index, row in enumerate(problems.rows):
        own = {name: {key: value for key, value in records[index].items() if key not in ("samples", "states", "index")}
               for name, records in found.items()}
        lines.append(json.dumps({"index": index, "question": row["question"], "expected": own["power"]["expected"], "methods": own}))
        table.append({"index": index, "question": row["question"], "expected": own["power"]["expected"]}
                     | {f"{name}_{key}": own[name][key] for name in own for key in ("answer", "passed")}
                     | {"plain_text": own["plain"]["text"], "power_text": own["power"]["text"]})
    path = job.folder / "problems.jsonl"
    write_atomic(path, "\n".join(lines) + "\n")
    run.artifact(path)
    run.table(table, "problems.json")
