"""Steps chat_eval_mid, chat_eval_sft, chat_eval_rl and chat_eval_hf: the five chat tasks in chat format, and ChatCORE."""

from __future__ import annotations

from typing import Any

from nanolab.config import Job
from nanolab.data.sources import open_source
from nanolab.dist import World
from nanolab.evals.chat_tasks import chat_core
from nanolab.journal import Run
from nanolab.sandbox import sandbox_level
from nanolab.schema import UserError
from nanolab.stages.models import asking, evaluate_tasks, load_subject, say, show_samples


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: each task's accuracy, n, passed, low, high, chance, for MMLU macro, micro and subject/NAME; chat_core; sandbox (its
    level, where programs were run); pass_at_k of the generating tasks where several answers are drawn; data."""
    config, source, subject = job.config, open_source(job.study.data), load_subject(job, world)
    if config.answers > 1 and config.temperature == 0:
        raise UserError(
            f"chat_eval.answers = {config.answers} at temperature 0 would draw the same answer each time; "
            "set chat_eval.temperature above 0, or answers to 1"
        )
    how = asking(
        job,
        world,
        subject,
        temperature=config.temperature,
        top_k=config.top_k,
        answers=config.answers,
    )
    results = evaluate_tasks(job, world, run, source, how)
    metrics: dict[str, Any] = {
        key: value for result in results for key, value in result.metrics().items()
    }
    metrics["chat_core"] = chat_core(results)
    if "humaneval" in config.tasks:
        metrics["sandbox"] = sandbox_level()
    say(world, f"ChatCORE of the {config.source} model: {metrics['chat_core']:.4f}")
    show_samples(job, world, run, source, results)
    return metrics | {"data": source.describe(config.tasks[0])}
