"""Step power_ablation: power sampling over a grid of (alpha, temperature, num_steps), with the baselines at equal cost.

One trajectory of the largest num_steps serves every num_steps of its (alpha, temperature). Each point is a grandchild run.
"""

from __future__ import annotations

from typing import Any

import pandas

from nanolab.config import Job, PowerAblationConfig
from nanolab.data.sources import open_source
from nanolab.dist import World
from nanolab.evals import methods
from nanolab.evals.base import Record
from nanolab.journal import Run
from nanolab.report import plots
from nanolab.samplers.power_mh import PowerSettings
from nanolab.stages.models import load_subject, say, task_rows, word_problems

MAIN = (4.0, 0.7)  # the pair (alpha, temperature) that the baselines stand beside, where the grid has it


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: points, problems, and the best point's accuracy with its setting; data. The points are grandchild runs."""
    config, source, subject = job.config, open_source(job.study.data), load_subject(job, world)
    rows = task_rows(source, run, "gsm8k", config.split, config.max_examples, config.subset)
    problems = word_problems(job, world, subject, rows)
    points: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    settings = pairs(config)
    for number, (alpha, temperature) in enumerate(settings, 1):
        records = methods.power(problems, f"alpha={alpha:g} T={temperature:g}", power_settings(config, alpha, temperature),
                                sorted(set(config.num_steps)))
        accepted = acceptance_by_step(records)
        series += [{"alpha": alpha, "temperature": temperature, "step": step, "acceptance": share} for step, share in accepted]
        for steps in sorted(set(config.num_steps)):
            points.append(power_point(run, alpha, temperature, steps, records, accepted))
        say(world, f"[{number}/{len(settings)}] alpha {alpha:g}, T {temperature:g}: "
                   + ", ".join(f"{p['accuracy']:.3f} after {p['num_steps']}" for p in points[-len(set(config.num_steps)):]))
    others = baselines(run, world, problems, config, settings)
    if world.rank == 0:
        keep(run, job, points, others, series, MAIN if MAIN in settings else settings[0])
    best = max(points, key=lambda point: point["accuracy"])
    return {"points": len(points), "problems": len(rows), "best_accuracy": best["accuracy"], "best_alpha": best["alpha"],
            "best_temperature": best["temperature"], "best_num_steps": best["num_steps"], "data": source.describe("gsm8k")}


def pairs(config: PowerAblationConfig) -> list[tuple[float, float]]:
    """Every (alpha, temperature) of the grid once, in its order."""
    found = [(alpha, temperature) for part in config.grid for alpha in part["alpha"] for temperature in part["temperature"]]
    return list(dict.fromkeys(found))


def power_settings(config: PowerAblationConfig, alpha: float, temperature: float) -> PowerSettings:
    """The trajectory that is read at every num_steps."""
    return PowerSettings(alpha=alpha, num_steps=max(config.num_steps), temperature=temperature, top_k=config.top_k,
                         max_new_tokens=config.max_new_tokens, restart_prob=config.restart_prob, num_blocks=config.num_blocks)


def acceptance_by_step(records: list[Record]) -> list[tuple[int, float]]:
    """(step from 1, share of the problems whose proposal was accepted at it)."""
    steps = max(len(record["accepted"]) for record in records)
    return [(step + 1, sum(record["accepted"][step] for record in records) / len(records)) for step in range(steps)]


def power_point(run: Run, alpha: float, temperature: float, steps: int, records: list[Record],
                accepted: list[tuple[int, float]]) -> dict[str, Any]:
    """The point of a trajectory after `steps` steps: recorded as a grandchild run, and given as a row for the figures."""
    state = methods.state_records(records, steps)
    values = methods.summary(state)
    share = methods.acceptance(state)
    if share is not None:
        values["acceptance"] = share
    setting = {"method": "power", "alpha": alpha, "temperature": temperature, "num_steps": steps}
    with run.point(f"alpha={alpha:g} T={temperature:g} steps={steps}", setting) as point:
        point.metrics(values)
        for step, rate in accepted[:steps]:
            point.metrics({"acceptance_by_step": rate}, step)
    return setting | values


def baselines(run: Run, world: World, problems: methods.Problems, config: PowerAblationConfig,
              settings: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Greedy, T = 1/alpha, plain, best-of-n and majority at the main pair's temperature, as rows {method, n, temperature, ...}."""
    alpha, temperature = MAIN if MAIN in settings else settings[0]
    samples = methods.several(problems, "samples", temperature, config.top_k, max(config.best_of))
    found = [("greedy", 1, 0.0, methods.single(problems, "greedy", 0.0, None)),
             ("low_temperature", 1, 1 / alpha, methods.single(problems, "low_temperature", 1 / alpha, config.top_k)),
             ("plain", 1, temperature, methods.best_of(samples, 1))]
    for n in sorted(n for n in set(config.best_of) if n > 1):
        found += [("best_of", n, temperature, methods.best_of(samples, n)), ("majority", n, temperature, methods.majority(samples, n))]
    rows = []
    for method, n, sampled_at, records in found:
        values = methods.summary(records)
        setting = {"method": method, "n": n, "temperature": sampled_at}
        with run.point(f"{method} n={n}" if n > 1 else method, setting) as point:
            point.metrics(values)
        say(world, f"{method} n={n}: {values['accuracy']:.3f} at {values['positions_per_problem']:.0f} positions a problem")
        rows.append(setting | values)
    return rows


def keep(run: Run, job: Job, points: list[dict], others: list[dict], series: list[dict], main: tuple[float, float]) -> None:
    """The table of all points and the four figures with their data."""
    path = job.folder / "ablation.csv"
    pandas.DataFrame([*points, *others]).to_csv(path, index=False)
    run.artifact(path)
    drawn = {"accuracy_by_alpha": plots.accuracy_by_alpha(points), "accuracy_by_steps": plots.accuracy_by_steps(points),
             "accuracy_by_positions": plots.accuracy_by_positions(points, others, main)}
    if series:
        drawn["acceptance_by_step"] = plots.acceptance_by_step(series)
    for name, (figure, data) in drawn.items():
        run.figure(figure, f"plots/{name}.png", data)
