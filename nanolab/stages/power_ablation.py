"""Step power_ablation: the power samplers over a grid of settings, with the baselines at equal cost.

One trajectory of the largest num_steps serves every num_steps of its setting; with several blocks, whose earlier ones take their steps
too, only the largest is read. Each point is a grandchild run, with its exact McNemar p-value against greedy.
"""

from __future__ import annotations

from typing import Any

import pandas

from nanolab import grid
from nanolab.config import Job, PowerAblationConfig
from nanolab.data.sources import open_source
from nanolab.dist import World
from nanolab.evals import methods
from nanolab.evals.base import Record
from nanolab.journal import Run
from nanolab.report import plots
from nanolab.samplers import diagnostics
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_rollout import RolloutSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.stages.models import in_dtype, load_subject, problems_of, say, task_rows

MAIN = {
    "alpha": 4.0,
    "temperature": 0.7,
}  # the baselines stand beside this setting, where the grid has it
SHORT = {"alpha": "alpha", "temperature": "T", "restart_prob": "restart", "num_blocks": "blocks"}


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: points, problems, and the best power point's accuracy with its setting; data. The points are grandchild runs."""
    config, source, subject = (
        job.config,
        open_source(job.study.data),
        in_dtype(load_subject(job, world), job.config.dtype),
    )
    rows = task_rows(
        source,
        run,
        config.task,
        config.split,
        config.max_examples,
        config.subset if config.task == "gsm8k" else None,
    )
    problems = problems_of(job, world, run, subject, source, rows, config.task)
    settings = grid.expand(config.grid, config)
    greedy = methods.single(problems, "greedy", 0.0, None)
    points: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    for number, point in enumerate(settings, 1):
        if point["sampler"] == "power":
            read = (
                sorted(set(config.num_steps))
                if point["num_blocks"] == 1
                else [max(config.num_steps)]
            )
            records = methods.power(
                problems, named(point, settings), power_settings(config, point), read
            )
            accepted = acceptance_by_step(records)
            series += [
                setting_of(point) | {"step": step, "acceptance": share} for step, share in accepted
            ]
            found = [
                power_point(run, point, settings, steps, records, accepted, greedy)
                for steps in read
            ]
            points += found
        else:
            found = [other_point(run, problems, config, point, settings, greedy)]
            others += found
        say(
            world,
            f"[{number}/{len(settings)}] {named(point, settings)}: "
            + ", ".join(
                f"{p['accuracy']:.3f} at {p['positions_per_problem']:.0f} positions" for p in found
            ),
        )
    main = main_setting(settings)
    others = baselines(run, world, problems, config, main, greedy) + others
    if world.rank == 0:
        keep(run, job, points, others, series, (main["alpha"], main["temperature"]))
    best = max(points or others, key=lambda point: point["accuracy"])
    metrics = {
        "points": len(points) + sum(point["sampler"] != "power" for point in settings),
        "problems": len(rows),
    }
    metrics["best_accuracy"] = best["accuracy"]
    metrics |= {
        f"best_{key}": best[key] for key in ("alpha", "temperature", "num_steps") if key in best
    }
    return metrics | {"data": source.describe(config.task)}


def main_setting(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The setting that the baselines stand beside: the first one like MAIN, else the first."""
    return next(
        (point for point in settings if all(point[key] == value for key, value in MAIN.items())),
        settings[0],
    )


def setting_of(point: dict[str, Any]) -> dict[str, Any]:
    """A grid point's settings without its sampler."""
    return {key: value for key, value in point.items() if key != "sampler"}


def named(point: dict[str, Any], settings: list[dict[str, Any]]) -> str:
    """ "alpha=4 T=0.7", and every other setting in which the grid's points of this sampler differ."""
    own = [other for other in settings if other["sampler"] == point["sampler"]]
    keys = [
        key for key in setting_of(point) if key in MAIN or len({other[key] for other in own}) > 1
    ]
    start = [] if point["sampler"] == "power" else [point["sampler"]]
    return " ".join(start + [f"{SHORT.get(key, key)}={point[key]:.12g}" for key in keys])


def titled(point: dict[str, Any], settings: list[dict[str, Any]], steps: int | None = None) -> str:
    """The name of a point's run, "α=4 T=.25 10 steps": what `named` says, short enough for the column of names in MLflow's tables."""
    words = (
        named(point, settings)
        .replace("alpha=", "α=")
        .replace("=0.", "=.")
        .replace("particles=", "n=")
        .replace("rollouts=", "n=")
    )
    return words if steps is None else f"{words} {steps} steps"


def power_settings(config: PowerAblationConfig, point: dict[str, Any]) -> PowerSettings:
    """The trajectory that is read at every num_steps."""
    return PowerSettings(
        num_steps=max(config.num_steps),
        top_k=config.top_k,
        max_new_tokens=config.max_new_tokens,
        **setting_of(point),
    )


def acceptance_by_step(records: list[Record]) -> list[tuple[int, float]]:
    """(step of the last block from 1, share of the problems whose proposal was accepted at it)."""
    return list(
        enumerate(
            diagnostics.acceptance_by_step(
                [methods.last_block(record["chains"][0]) for record in records]
            ),
            1,
        )
    )


def shown(row: dict[str, Any], settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters of a grid point: five that every method has, so that the points stand side by side in parallel coordinates,
    and the other settings that the grid varies. What it does not vary is a parameter of the step.

    A baseline draws from p itself: alpha 1, no steps. `samples` is what n answers, particles or rollouts each method takes.
    """
    own = [other for other in settings if other["sampler"] == row["method"]]
    varied = [
        key
        for key in row
        if key in grid.LIMITS
        and key not in (*MAIN, "particles", "rollouts")
        and len({s[key] for s in own}) > 1
    ]
    return {
        "method": row["method"],
        "alpha": row.get("alpha", 1.0),
        "temperature": row["temperature"],
        "num_steps": row.get("num_steps", 0),
        "samples": row.get("n", 1),
        **{key: row[key] for key in varied},
    }


def measured(records: list[Record], greedy: list[Record]) -> dict[str, float]:
    """`methods.summary`, and the mean log p of the answers (nats) of a method whose answers are texts."""
    values, log_p = (
        methods.summary(records, greedy),
        [record["log_p"] for record in records if "log_p" in record],
    )
    return values | ({"log_p": sum(log_p) / len(log_p)} if log_p else {})


def power_point(
    run: Run,
    point: dict[str, Any],
    settings: list[dict[str, Any]],
    steps: int,
    records: list[Record],
    accepted: list[tuple[int, float]],
    greedy: list[Record],
) -> dict[str, Any]:
    """The point of a trajectory after `steps` steps: recorded as a grandchild run, and given as a row for the figures."""
    state = methods.state_records(records, steps)
    values = measured(state, greedy)
    share = methods.acceptance(state)
    if share is not None:
        values["acceptance"] = share
    setting = {"method": "power", **setting_of(point), "num_steps": steps}
    with run.point(titled(point, settings, steps), shown(setting, settings)) as child:
        child.metrics(values)
        for step, rate in accepted[:steps]:
            child.metrics({"acceptance_by_step": rate}, step)
    return setting | values


def other_point(
    run: Run,
    problems: methods.Problems,
    config: PowerAblationConfig,
    point: dict[str, Any],
    settings: list[dict[str, Any]],
    greedy: list[Record],
) -> dict[str, Any]:
    """A point of sequential Monte Carlo or of the rollout sampler: a grandchild run, and a row with n = particles or rollouts."""
    common, name = (
        dict(top_k=config.top_k, max_new_tokens=config.max_new_tokens, **setting_of(point)),
        named(point, settings),
    )
    if point["sampler"] == "smc":
        n, records = point["particles"], methods.smc(problems, name, SmcSettings(**common))
    else:
        n, records = point["rollouts"], methods.rollout(problems, name, RolloutSettings(**common))
    setting = {"method": point["sampler"], "n": n, **setting_of(point)}
    values = measured(records, greedy)
    with run.point(titled(point, settings), shown(setting, settings)) as child:
        child.metrics(values)
    return setting | values


def baselines(
    run: Run,
    world: World,
    problems: methods.Problems,
    config: PowerAblationConfig,
    main: dict[str, Any],
    greedy: list[Record],
) -> list[dict[str, Any]]:
    """Greedy, T = 1/alpha, plain, best-of-n and majority at the main setting's temperature, as rows {method, n, temperature, ...}."""
    alpha, temperature = main["alpha"], main["temperature"]
    samples = methods.several(problems, "samples", temperature, config.top_k, max(config.best_of))
    found = [
        ("greedy", 1, 0.0, greedy),
        (
            "low_temperature",
            1,
            1 / alpha,
            methods.single(problems, "low_temperature", 1 / alpha, config.top_k),
        ),
        ("plain", 1, temperature, methods.best_of(samples, 1)),
    ]
    for n in sorted(n for n in set(config.best_of) if n > 1):
        found += [
            ("best_of", n, temperature, methods.best_of(samples, n)),
            ("majority", n, temperature, methods.majority(samples, n)),
        ]
    rows = []
    for method, n, sampled_at, records in found:
        values = measured(records, greedy)
        setting = {"method": method, "n": n, "temperature": sampled_at}
        with run.point(f"{method} n={n}" if n > 1 else method, shown(setting, [])) as point:
            point.metrics(values)
        say(
            world,
            f"{method} n={n}: {values['accuracy']:.3f} at {values['positions_per_problem']:.0f} positions a problem",
        )
        rows.append(setting | values)
    return rows


def keep(
    run: Run,
    job: Job,
    points: list[dict],
    others: list[dict],
    series: list[dict],
    main: tuple[float, float],
) -> None:
    """The table of all points and the figures with their data."""
    path = job.folder / "ablation.csv"
    pandas.DataFrame([*points, *others]).to_csv(path, index=False)
    run.artifact(path)
    drawn = {"accuracy_by_positions": plots.accuracy_by_positions(points, others, main)}
    if points:
        drawn |= {
            "accuracy_by_alpha": plots.accuracy_by_alpha(points),
            "accuracy_by_steps": plots.accuracy_by_steps(points),
        }
    if series:
        drawn["acceptance_by_step"] = plots.acceptance_by_step(series)
    for name, (figure, data) in drawn.items():
        run.figure(figure, f"plots/{name}.png", data)
