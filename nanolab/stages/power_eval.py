"""Steps power_eval*: Metropolis-Hastings on p^alpha beside the baselines, on the same problems,
with what each costs.
"""

import json
from typing import Any

from nanolab.dist import World
from nanolab.evals import methods, model_facts
from nanolab.evals.base import Record, TaskResult, doublings, pass_at_k, warning_shares
from nanolab.evals.evaluation import Evaluation
from nanolab.evals.problems import Problems
from nanolab.evals.subject import in_dtype
from nanolab.figures import chains
from nanolab.files import write_atomic
from nanolab.results import Score, StepResult, scalars
from nanolab.samplers import diagnostics
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.settings.config import Job, PowerEvalConfig
from nanolab.statistics import wilson
from nanolab.tracking.journal import Run

RESCORED = 32  # problems whose recorded numbers are compared with a full forward
# kept in records/, not repeated in problems.jsonl
KEPT_APART = ("samples", "states", "chains", "most_likely", "index")


def run(job: Job, world: World, run: Run) -> StepResult:
    """The accuracy of every method, with cost and paired test; what `diagnostics.mixing` finds;
    no_tool_share (word problems); pass@k of samples and chains; log_p_error (nats); beyond_context
    (answers longer than the rows of training).
    """
    config, evaluation = job.config, Evaluation.of(job, world, run)
    subject, task = in_dtype(evaluation.subject, config.dtype), config.task
    problems = evaluation.sharpened()
    found = answers(config, problems)
    samples, power = found.pop("samples"), found["power"]
    mixing = diagnostics.mixing(power)
    compared = [methods.accuracy(power, task=task, method="power")]
    for name, records in found.items():
        if name != "power":
            of = {"task": task, "method": name, "against": "power"}
            compared.append(methods.accuracy(records, power, **of))
    for row in compared:
        evaluation.say(comparison(row))
    rows = [compared[0], *mixing_rows(mixing), *compared[1:]]
    if problems.about.kind == "problem" and subject.has_tools:
        shares = {name: methods.no_tool_share(records) for name, records in found.items()}
        rows += [
            Score("no_tool_share", share, task, method=name)
            for name, share in shares.items()
            if share is not None
        ]
    rows += [
        Score(metric, share, task, method=name)
        for name, records in found.items()
        for metric, share in warning_shares(records).items()
        if metric != "commonest_choice_share"
    ]
    for line in TaskResult(task, power).warnings():
        evaluation.say(line)
    evaluation.say(f"chains: {diagnostics.convergence(mixing)}")
    solved = diversity(task, samples, power)
    error = log_p_error(subject.scorer, problems, power)
    beyond = sum(
        len(prompt) + len(record["chains"][0]["ids"]) > subject.context
        for prompt, record in zip(problems.prompts, power)
    )
    evaluation.say(
        f"recorded log p against a full forward: at most {error:.1e} nats a token;"
        f" {beyond} answers reach beyond the {subject.reach}"
    )
    if world.rank == 0:
        keep_records(job, run, problems, found)
        draw(run, samples, power, solved)
    rows += solved + scalars(log_p_error=error, beyond_context=beyond)
    told = model_facts.of_outside(evaluation, problems.asking)
    return StepResult(rows + told.rows, evaluation.facts(task) | told.facts)


def mixing_rows(mixing: dict[str, float]) -> list[Score]:
    """What `diagnostics.mixing` found, the drift with its standard error in one row."""
    error = mixing.get("log_p_drift_se")
    return [
        Score(metric, value, standard_error=error if metric == "log_p_drift" else None)
        for metric, value in mixing.items()
        if metric != "log_p_drift_se"
    ]


def answers(config: PowerEvalConfig, problems: Problems) -> dict[str, list[Record]]:
    """The records of every method; of "samples" plain, best_of and majority are made."""

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    common = given("alpha", "temperature", "top_k", "max_new_tokens")
    settings = PowerSettings(**common, **given("num_steps", "restart_prob", "num_blocks"))
    samples = methods.several(problems, "samples", config.temperature, config.top_k, config.best_of)
    found = {
        "power": methods.power(problems, "power", settings, chains=config.chains),
        "greedy": problems.draw("greedy", 0.0, None),
        "low_temperature": problems.draw("low_temperature", config.low_temperature, config.top_k),
        # the first state of each power chain (with one block)
        "plain": methods.best_of(samples, 1),
        "best_of": methods.best_of(samples, config.best_of),
        "majority": methods.majority(samples, config.best_of),
    }
    found["most_likely"] = methods.most_likely(found["power"])
    if config.chains > 1:
        found["chain_vote"] = methods.majority(found["power"], config.chains, "chains")
    if config.particles:
        settings = SmcSettings(particles=config.particles, **common)
        found["smc"] = methods.smc(problems, "smc", settings)
    return found | {"samples": samples}


def diversity(task: str, samples: list[Record], power: list[Record]) -> list[Score]:
    """pass@k at k = 1, 2, 4, ... of samples ("plain") and of independent chains ("power").

    The mean of the problems' unbiased estimates, with the Wilson interval of so many problems,
    which treats an estimate between 0 and 1 as solved or not, and so errs on the wide side.
    """
    rows = []
    for method, records, of in (("plain", samples, "samples"), ("power", power, "chains")):
        count = len(records[0][of]) if records else 0
        right = [sum(one["passed"] for one in record[of]) for record in records]
        for k in doublings(count):
            solved = [pass_at_k(count, passed, k) for passed in right]
            mean = sum(solved) / len(solved)
            low, high = wilson(round(mean * len(solved)), len(solved))
            rows.append(Score("pass_at_k", mean, task, method=method, k=k, low=low, high=high))
    return rows


def log_p_error(scorer: Any, problems: Problems, records: list[Record]) -> float:
    """The largest difference (nats) between a recorded log p and a full forward's."""
    chains = [record["chains"][0] for record in records[:RESCORED]]
    prompts = [problems.prompts[record["index"]] for record in records[:RESCORED]]
    whole = [prompt + chain["ids"] for prompt, chain in zip(prompts, chains)]
    spans = [(len(prompt), len(ids)) for prompt, ids in zip(prompts, whole)]
    errors = [0.0]
    for chain, score in zip(chains, scorer.score(whole, spans), strict=True):
        each = zip(score.per_token, chain["token_log_p"], chain["forced"])
        errors += [abs(again - recorded) for again, recorded, forced in each if not forced]
    return max(errors)


def comparison(row: Score) -> str:
    """One line of the comparison."""
    paired = "" if row.p_value is None else f", McNemar p against power {row.p_value:.4g}"
    return (
        f"{row.method}: {row.passed:.0f} of {row.n:.0f} = {row.value:.4f}"
        f" [{row.low:.4f}, {row.high:.4f}], {row.positions:.0f} positions a problem{paired}"
    )


def keep_records(job: Job, run: Run, problems: Problems, found: dict[str, list[Record]]) -> None:
    """Every problem with every method's answer, and every chain's life: a file and a table each."""
    question = problems.about.form.columns[0]
    lines, table, lives, steps = [], [], [], []
    for index, row in enumerate(problems.rows):
        own = {
            name: {key: value for key, value in records[index].items() if key not in KEPT_APART}
            for name, records in found.items()
        }
        facts = {"index": index, "question": row[question], "expected": own["power"]["expected"]}
        lines.append(json.dumps(facts | {"methods": own}))
        table.append(
            facts
            | {f"{name}_{key}": own[name][key] for name in own for key in ("answer", "passed")}
            | {"plain_text": own["plain"]["text"], "power_text": own["power"]["text"]}
        )
        for number, chain in enumerate(found["power"][index]["chains"]):
            lives.append(json.dumps(facts | {"chain": number, **chain}))
            steps += [
                facts
                | {"chain": number, "step": step}
                | {key: value for key, value in one.items() if key != "log_u"}
                for step, one in enumerate(chain["steps"], 1)
            ]
    for name, content in (("problems.jsonl", lines), ("chains.jsonl", lives)):
        path = job.folder / name
        write_atomic(path, "\n".join(content) + "\n")
        run.artifact(path)
    run.table(table, "problems.json")
    if steps:
        run.table(steps, "chains.json")


def draw(run: Run, samples: list[Record], power: list[Record], solved: list[Score]) -> None:
    """The figures of the chains, and of log p as a score, with their data."""
    figures = {
        "log_p_reliability": chains.log_p_reliability(samples),
        "pass_at_k": chains.pass_at_k([vars(row) | {"pass_at_k": row.value} for row in solved]),
    }
    if any(chain["steps"] for record in power for chain in record["chains"]):
        figures |= {
            "acceptance_by_cut": chains.acceptance_by_cut(power),
            "log_p_trajectories": chains.log_p_trajectories(power),
        }
    for name, (figure, data) in figures.items():
        run.figure(figure, f"plots/{name}.png", data)
