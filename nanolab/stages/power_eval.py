"""Steps power_eval*: Metropolis-Hastings on p^alpha beside the baselines, on the same problems, with what each costs."""

from __future__ import annotations

import json
from typing import Any

from nanolab.config import Job, PowerEvalConfig
from nanolab.data.sources import open_source
from nanolab.dist import World
from nanolab.evals import methods
from nanolab.evals.base import Record, pass_at_k, wilson
from nanolab.files import write_atomic
from nanolab.journal import Run
from nanolab.report import power_plots
from nanolab.samplers import diagnostics
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.stages.models import in_dtype, load_subject, problems_of, say, task_rows

RESCORED = 32  # problems whose recorded numbers are compared with a full forward
SHOWN = (
    "samples",
    "states",
    "chains",
    "most_likely",
    "index",
)  # kept in records/, not repeated in problems.jsonl


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: the task's name (power accuracy), passed, total, low, high, positions_per_problem, what `diagnostics.mixing`
    finds, log_p_error (nats), beyond_context (answers longer than the rows of training), no_tool_share (word problems); for each other
    method accuracy, passed, total, low, high, positions_per_problem and p_value (exact McNemar against power) under its name;
    power/pass_at_k and plain/pass_at_k; data.
    """
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
    found = answers(config, problems)
    power = methods.summary(found["power"])
    metrics: dict[str, Any] = {
        config.task: power.pop("accuracy"),
        **power,
        **diagnostics.mixing(found["power"]),
    }
    report(world, "power", {"accuracy": metrics[config.task], **power})
    for name, records in found.items():
        if name not in ("power", "samples"):
            values = methods.summary(records, found["power"])
            metrics |= {f"{name}/{key}": value for key, value in values.items()}
            report(world, name, values)
    if config.task == "gsm8k":
        shares = {
            name: methods.no_tool_share(records)
            for name, records in found.items()
            if name != "samples"
        }
        metrics |= {
            "no_tool_share" if name == "power" else f"{name}/no_tool_share": share
            for name, share in shares.items()
            if share is not None
        }
    say(world, f"chains: {diagnostics.convergence(metrics)}")
    for row in diversity("plain", found) + diversity("power", found):
        key = f"{row['method']}/pass_at_{row['k']}"
        metrics |= {key: row["pass_at_k"], f"{key}_low": row["low"], f"{key}_high": row["high"]}
    metrics |= {
        "log_p_error": log_p_error(subject.scorer, problems, found["power"]),
        "beyond_context": sum(
            len(prompt) + len(record["chains"][0]["ids"]) > subject.context
            for prompt, record in zip(problems.prompts, found["power"])
        ),
    }
    say(
        world,
        f"recorded log p against a full forward: at most {metrics['log_p_error']:.1e} nats a token; "
        f"{metrics['beyond_context']} answers reach beyond the {subject.context} tokens of training",
    )
    if world.rank == 0:
        keep_records(job, run, problems, found)
        draw(run, found)
    return metrics | {"data": source.describe(config.task)}


def answers(config: PowerEvalConfig, problems: methods.Problems) -> dict[str, list[Record]]:
    """The records of every method by its name; "samples" are those that plain, best_of and majority are made of."""
    settings = PowerSettings(
        alpha=config.alpha,
        num_steps=config.num_steps,
        temperature=config.temperature,
        top_k=config.top_k,
        max_new_tokens=config.max_new_tokens,
        restart_prob=config.restart_prob,
        num_blocks=config.num_blocks,
    )
    samples = methods.several(problems, "samples", config.temperature, config.top_k, config.best_of)
    found = {
        "power": methods.power(problems, "power", settings, chains=config.chains),
        "greedy": methods.single(problems, "greedy", 0.0, None),
        "low_temperature": methods.single(
            problems, "low_temperature", config.low_temperature, config.top_k
        ),
        "plain": methods.best_of(
            samples, 1
        ),  # the first state of each power chain (with one block)
        "best_of": methods.best_of(samples, config.best_of),
        "majority": methods.majority(samples, config.best_of),
    }
    found["most_likely"] = methods.most_likely(found["power"])
    if config.chains > 1:
        found["chain_vote"] = methods.majority(found["power"], config.chains, "chains")
    if config.particles:
        found["smc"] = methods.smc(
            problems,
            "smc",
            SmcSettings(
                alpha=config.alpha,
                particles=config.particles,
                temperature=config.temperature,
                top_k=config.top_k,
                max_new_tokens=config.max_new_tokens,
            ),
        )
    return found | {"samples": samples}


def diversity(name: str, found: dict[str, list[Record]]) -> list[dict[str, Any]]:
    """Rows {method, k, pass_at_k, low, high} at k = 1, 2, 4, ... up to the answers a problem has: independent chains, or samples.

    pass_at_k is the mean of the problems' unbiased estimates; low and high are the Wilson interval of so many problems, which treats
    an estimate between 0 and 1 as if the problem were solved or not, and so errs on the wide side.
    """
    records, of = (found["power"], "chains") if name == "power" else (found["samples"], "samples")
    count, k, rows = len(records[0][of]) if records else 0, 1, []
    while k <= count:
        solved = [
            pass_at_k(count, sum(one["passed"] for one in record[of]), k) for record in records
        ]
        mean = sum(solved) / len(solved)
        low, high = wilson(round(mean * len(solved)), len(solved))
        rows.append({"method": name, "k": k, "pass_at_k": mean, "low": low, "high": high})
        k *= 2
    return rows


def log_p_error(scorer: Any, problems: methods.Problems, records: list[Record]) -> float:
    """The largest difference (nats) between a recorded log p and a full forward's, over the chosen tokens of the first problems."""
    chosen = [
        (problems.prompts[record["index"]], record["chains"][0]) for record in records[:RESCORED]
    ]
    scores = scorer.score(
        [prompt + chain["ids"] for prompt, chain in chosen],
        [(len(prompt), len(prompt) + len(chain["ids"])) for prompt, chain in chosen],
    )
    return max(
        (
            abs(again - recorded)
            for (_, chain), score in zip(chosen, scores)
            for again, recorded, forced in zip(
                score.per_token, chain["token_log_p"], chain["forced"]
            )
            if not forced
        ),
        default=0.0,
    )


def report(world: World, name: str, values: dict[str, float]) -> None:
    """One line of the comparison."""
    paired = f", McNemar p against power {values['p_value']:.4g}" if "p_value" in values else ""
    say(
        world,
        f"{name}: {values['passed']:.0f} of {values['total']:.0f} = {values['accuracy']:.4f} [{values['low']:.4f}, "
        f"{values['high']:.4f}], {values['positions_per_problem']:.0f} positions a problem{paired}",
    )


def keep_records(
    job: Job, run: Run, problems: methods.Problems, found: dict[str, list[Record]]
) -> None:
    """Every problem with every method's answer (problems.jsonl and a table), and every chain's life (chains.jsonl and a table)."""
    question = "question" if problems.task == "gsm8k" else "prompt"
    lines, table, lives, steps = [], [], [], []
    for index, row in enumerate(problems.rows):
        own = {
            name: {key: value for key, value in records[index].items() if key not in SHOWN}
            for name, records in found.items()
            if name != "samples"
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


def draw(run: Run, found: dict[str, list[Record]]) -> None:
    """The figures of the chains, and of log p as a score, with their data."""
    figures = {
        "log_p_reliability": power_plots.log_p_reliability(found["samples"]),
        "pass_at_k": power_plots.pass_at_k(diversity("plain", found) + diversity("power", found)),
    }
    if any(chain["steps"] for record in found["power"] for chain in record["chains"]):
        figures |= {
            "acceptance_by_cut": power_plots.acceptance_by_cut(found["power"]),
            "log_p_trajectories": power_plots.log_p_trajectories(found["power"]),
        }
    for name, (figure, data) in figures.items():
        run.figure(figure, f"plots/{name}.png", data)
