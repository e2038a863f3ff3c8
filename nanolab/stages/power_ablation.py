"""Step power_ablation: the power samplers over a grid of settings, with the baselines at equal
cost.

One trajectory of the largest num_steps serves every num_steps of its setting; with several blocks,
whose earlier ones take their steps too, only the largest is read. Each point is a grandchild run,
with its exact McNemar p-value against greedy.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas

from nanolab.dist import World
from nanolab.evals import methods, model_facts
from nanolab.evals.base import Record, mcnemar
from nanolab.evals.evaluation import Evaluation
from nanolab.evals.problems import Problems
from nanolab.evals.subject import in_dtype
from nanolab.figures import ablation
from nanolab.results import SETTINGS, Score, StepResult, flat, plain, scalars
from nanolab.samplers import diagnostics
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_rollout import RolloutSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.settings import grid
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run

# the baselines stand beside this setting, where the grid has it
MAIN = {"alpha": 4.0, "temperature": 0.7}
SHORT = {"alpha": "alpha", "temperature": "T", "restart_prob": "restart", "num_blocks": "blocks"}
SHORTER = {"alpha=": "α=", "=0.": "=.", "particles=": "n=", "rollouts=": "n="}
Setting = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A point of the grid, or a baseline: how it did (`score` has its method and settings), its
    record of each problem, and its mean log p (nats) and acceptance, as far as it has them.
    """

    score: Score
    records: list[Record]
    more: Sequence[Score] = ()

    @property
    def setting(self) -> Setting:
        """Its method and settings."""
        return {"method": self.score.method, **self.score.settings}

    @property
    def measured(self) -> dict[str, float]:
        """What its run has in MLflow."""
        return plain(self.score) | flat(self.more)

    def __str__(self) -> str:
        return f"{self.score.value:.3f} at {self.score.positions:.0f} positions"


def run(job: Job, world: World, run: Run) -> StepResult:
    """The best of all points, the best baseline at no more cost, and of how many they are; the
    points themselves are grandchild runs.
    """
    config, evaluation = job.config, Evaluation.of(job, world, run)
    in_dtype(evaluation.subject, config.dtype)
    asked = Grid(run, evaluation.sharpened(), config)
    points: list[Point] = []
    others: list[Point] = []
    series: list[Setting] = []
    for number, point in enumerate(asked.settings, 1):
        if point["sampler"] == "power":
            found, accepted = asked.trajectory(point)
            points += found
            series += [
                setting_of(point) | {"step": step, "acceptance": share} for step, share in accepted
            ]
        else:
            found = [asked.other_point(point)]
            others += found
        told = ", ".join(map(str, found))
        evaluation.say(f"[{number}/{len(asked.settings)}] {named(point, asked.settings)}: {told}")
    main = main_setting(asked.settings)
    beside = asked.baselines(main)
    for one in beside:
        n = one.score.settings["n"]
        evaluation.say(f"{one.score.method} n={n}: {one} a problem")
    if world.rank == 0:
        keep(evaluation, points, beside + others, series, main)
    counts = scalars(points=len(points) + len(others), problems=len(asked.problems.rows))
    best = selected(points + others, beside)
    told = model_facts.of_outside(evaluation, asked.problems.asking)
    return StepResult(counts + best + told.rows, evaluation.facts(config.task) | told.facts)


def selected(points: list[Point], baselines: list[Point]) -> list[Score]:
    """The most accurate point (of equals the cheapest), and the most accurate baseline that costs
    no more positions, with McNemar's exact test of the two, and of how many each is the best.

    Both are maxima over the problems that they are judged on: the intervals and the p-value do not
    know of the choice.
    """

    def order(point: Point) -> tuple[float, float]:
        return point.score.value, -point.score.positions

    best = max(points, key=order)
    affordable = [one for one in baselines if one.score.positions <= best.score.positions]
    own = best.score.settings
    settings = {key: own[key] for key in SETTINGS if key in own}
    best_row = replace(best.score, chosen="best", settings=settings, p_value=None)
    rows = [best_row, *scalars(best_among=len(points), baseline_among=len(affordable))]
    if affordable:
        rival = max(affordable, key=order)
        method, n = rival.score.method, rival.score.settings["n"]
        if n > 1:  # best of 4, majority of 4
            method = f"{method.removesuffix('_of')} of {n}"
        first, second = ([one["passed"] for one in each.records] for each in (best, rival))
        chosen = {"chosen": "baseline", "method": method, "settings": {}}
        rows.append(replace(rival.score, **chosen, p_value=mcnemar(first, second)))
    return rows


def main_setting(settings: list[Setting]) -> Setting:
    """The setting that the baselines stand beside: the first one like MAIN, else the first."""
    return next(
        (point for point in settings if all(point[key] == value for key, value in MAIN.items())),
        settings[0],
    )


def setting_of(point: Setting) -> Setting:
    """A grid point's settings without its sampler."""
    return {key: value for key, value in point.items() if key != "sampler"}


def named(point: Setting, settings: list[Setting]) -> str:
    """ "alpha=4 T=0.7", and what else differs among the grid's points of this sampler."""
    own = [other for other in settings if other["sampler"] == point["sampler"]]
    keys = [
        key for key in setting_of(point) if key in MAIN or len({other[key] for other in own}) > 1
    ]
    start = [] if point["sampler"] == "power" else [point["sampler"]]
    return " ".join(start + [f"{SHORT.get(key, key)}={point[key]:.12g}" for key in keys])


def titled(point: Setting, settings: list[Setting], steps: int | None = None) -> str:
    """The name of a point's run, "α=4 T=.25 10 steps": `named`, short for tables."""
    words = named(point, settings)
    for long, short in SHORTER.items():
        words = words.replace(long, short)
    return words if steps is None else f"{words} {steps} steps"


def shown(row: Setting, settings: list[Setting]) -> Setting:
    """The parameters of a grid point: five that every method has, for parallel coordinates, and the
    other settings that the grid varies. What it does not vary is a parameter of the step.

    A baseline draws from p itself: alpha 1, no steps. `samples` are n answers, particles or
    rollouts.
    """
    own = [other for other in settings if other["sampler"] == row["method"]]
    varied = [
        key
        for key in row
        if key in grid.SETTINGS
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


@dataclass(frozen=True)
class Grid:
    """A grid at work: each point is recorded as a grandchild run."""

    run: Run
    problems: Problems
    config: Any  # settings.config.PowerAblationConfig

    @functools.cached_property
    def settings(self) -> list[Setting]:
        """Every point of the grid."""
        return grid.expand(self.config.grid, self.config)

    @functools.cached_property
    def greedy(self) -> list[Record]:
        """What every point is compared with."""
        return self.problems.draw("greedy", 0.0, None)

    def point(
        self,
        name: str,
        setting: Setting,
        records: list[Record],
        accepted: Sequence[tuple[int, float]] = (),
    ) -> Point:
        """A point, recorded; `setting` has its method, `accepted` the shares accepted by step."""
        log_p = [record["log_p"] for record in records if "log_p" in record]
        more = (
            scalars(log_p=sum(log_p) / len(log_p)) if log_p else []
        )  # of methods that answer in texts
        if accepted and (share := methods.acceptance(records)) is not None:
            more += scalars(acceptance=share)
        settings = {key: value for key, value in setting.items() if key != "method"}
        of = {"method": setting["method"], "settings": settings, "against": "greedy"}
        point = Point(methods.accuracy(records, self.greedy, **of), records, more)
        with self.run.point(name, shown(setting, self.settings)) as child:
            child.metrics(point.measured)
            for step, rate in accepted:
                child.metrics({"acceptance_by_step": rate}, step)
        return point

    def _common(self, point: Setting) -> Setting:
        most, top_k = self.config.max_new_tokens, self.config.top_k
        return {"top_k": top_k, "max_new_tokens": most, **setting_of(point)}

    def trajectory(self, point: Setting) -> tuple[list[Point], list[tuple[int, float]]]:
        """The points of one trajectory, read at every num_steps, and (step of the last block from
        1, share of proposals accepted at it).
        """
        every = sorted(set(self.config.num_steps))
        read = every if point["num_blocks"] == 1 else every[-1:]
        settings = PowerSettings(num_steps=every[-1], **self._common(point))
        records = methods.power(self.problems, named(point, self.settings), settings, read)
        last_blocks = [methods.last_block(record["chains"][0]) for record in records]
        accepted = list(enumerate(diagnostics.acceptance_by_step(last_blocks), 1))
        points = [
            self.point(
                titled(point, self.settings, steps),
                {"method": "power", **setting_of(point), "num_steps": steps},
                methods.state_records(records, steps),
                accepted[:steps],
            )
            for steps in read
        ]
        return points, accepted

    def other_point(self, point: Setting) -> Point:
        """A point of sequential Monte Carlo or rollouts; n are its particles or rollouts."""
        sampler, name = point["sampler"], named(point, self.settings)
        if sampler == "smc":
            n, settings, draw = point["particles"], SmcSettings, methods.smc
        else:
            n, settings, draw = point["rollouts"], RolloutSettings, methods.rollout
        records = draw(self.problems, name, settings(**self._common(point)))
        setting = {"method": sampler, "n": n, **setting_of(point)}
        return self.point(titled(point, self.settings), setting, records)

    def baselines(self, main: Setting) -> list[Point]:
        """Greedy, T = 1/alpha, plain, best-of-n and majority at the main setting's temperature."""
        problems, top_k, counts = self.problems, self.config.top_k, set(self.config.best_of)
        warm, cold = main["temperature"], 1 / main["alpha"]
        samples = methods.several(problems, "samples", warm, top_k, max(counts))
        low = problems.draw("low_temperature", cold, top_k)
        found = [
            ("greedy", 1, 0.0, self.greedy),
            ("low_temperature", 1, cold, low),
            ("plain", 1, warm, methods.best_of(samples, 1)),
        ]
        for n in sorted(n for n in counts if n > 1):
            found.append(("best_of", n, warm, methods.best_of(samples, n)))
            found.append(("majority", n, warm, methods.majority(samples, n)))
        return [
            self.point(
                f"{method} n={n}" if n > 1 else method,
                {"method": method, "n": n, "temperature": temperature},
                records,
            )
            for method, n, temperature, records in found
        ]


def keep(
    evaluation: Evaluation,
    points: list[Point],
    others: list[Point],
    series: list[Setting],
    main: Setting,
) -> None:
    """The table of all points and the figures with their data."""
    power, rest = ([one.setting | one.measured for one in each] for each in (points, others))
    path = evaluation.job.folder / "ablation.csv"
    pandas.DataFrame([*power, *rest]).to_csv(path, index=False)
    evaluation.run.artifact(path)
    beside = (main["alpha"], main["temperature"])
    for name, (figure, data) in ablation.figures(power, rest, series, beside).items():
        evaluation.run.figure(figure, f"plots/{name}.png", data)
