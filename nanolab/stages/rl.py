"""Step rl: GRPO on the word problems with tools, and the paired comparison of the model before and after it."""

from __future__ import annotations

import time
from typing import Any

import torch

from nanolab import checkpoint
from nanolab.config import Job
from nanolab.data import chat
from nanolab.data.sources import DataSource, open_source
from nanolab.dist import World, barrier, sum_over_ranks, with_dtype
from nanolab.evals import methods
from nanolab.evals.base import Record
from nanolab.evals.chat_tasks import grade_problem
from nanolab.journal import Run
from nanolab.model import optim, scaling
from nanolab.samplers import baselines
from nanolab.stages.models import Subject, load_subject, problems_of, say, task_rows
from nanolab.training import grpo


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: status, steps, reward_first and reward_last (means of 3 updates); for greedy and sampled (T = 1) answers to
    the test problems before, after, n and p_value (exact McNemar) under its name; data. Raises UserError for what `load_subject` does.
    """
    config, source, subject = job.config, open_source(job.study.data), load_subject(job, world)
    world = with_dtype(world, config.dtype)
    test = task_rows(source, run, "gsm8k", "test", config.max_examples)
    train = task_rows(source, run, "gsm8k", "train", None)
    before = answers(job, world, run, subject, source, test, "before")
    rewards = train_policy(job, world, run, subject, train)
    after = answers(job, world, run, subject, source, test, "after")
    metrics: dict[str, Any] = {"status": "finished", "steps": config.steps}
    metrics |= {"reward_first": mean(rewards[:3]), "reward_last": mean(rewards[-3:])}
    for way in before:
        values, old = methods.summary(after[way], before[way]), methods.summary(before[way])
        metrics |= {
            f"{way}/before": old["accuracy"],
            f"{way}/after": values["accuracy"],
            f"{way}/n": values["total"],
            f"{way}/p_value": values["p_value"],
        }
        for key in ("passed", "low", "high"):
            metrics |= {f"{way}/before_{key}": old[key], f"{way}/after_{key}": values[key]}
        say(
            world,
            f"{way}: {old['accuracy']:.4f} before, {values['accuracy']:.4f} after on {values['total']} test problems, "
            f"McNemar p {values['p_value']:.4g}",
        )
    return metrics | {"data": source.describe("gsm8k")}


def answers(
    job: Job,
    world: World,
    run: Run,
    subject: Subject,
    source: DataSource,
    rows: list[dict[str, Any]],
    when: str,
) -> dict[str, list[Record]]:
    """Graded answers of the model as it is now: greedy and at temperature 1, by the same random numbers before and after."""
    problems = problems_of(
        job, world, run, subject, source, rows, stage=f"{job.step}/test", plain=False
    )
    subject.model.eval()
    return {
        "greedy": methods.single(problems, f"{when}_greedy", 0.0, None),
        "sampled": methods.single(problems, f"{when}_sampled", 1.0, None),
    }


def train_policy(
    job: Job, world: World, run: Run, subject: Subject, rows: list[dict[str, Any]]
) -> list[float]:
    """`config.steps` updates from the newest complete checkpoint, or from the start; the mean reward of each update.

    The learning rates fall linearly to 0: the policy gradient of a hundred rollouts is noisy, and the last updates decide.
    """
    config, folder = job.config, job.folder / "checkpoints"
    optimizer = optim.build_optimizers(
        subject.model,
        scaling.derive(job.study.base_train, subject.tokenizer.vocab_size),
        world.dtype,
    )
    facts = {"tokenizer_digest": subject.tokenizer.digest, "source": subject.source}
    rewards: list[float] = []
    if (done := checkpoint.latest(folder)) is not None:
        restored, _ = checkpoint.load_model(folder, done, world.device, subject.tokenizer.digest)
        subject.model.load_state_dict(restored.state_dict())
        state = checkpoint.load_state(folder, done)
        optimizer.load_state_dict(state["optimizer"])
        rewards = list(state["rewards"])
        say(world, f"resuming after update {done}")
    for update in range(len(rewards), config.steps):
        started = time.perf_counter()
        rollouts, reward = collect(job, world, subject, rows, update)
        sampled = time.perf_counter() - started
        learned = grpo.policy_gradient(
            world,
            subject.model,
            rollouts,
            temperature=config.temperature,
            rows=config.device_batch_size,
        )
        if learned[
            "useful"
        ]:  # Muon makes a full step of any gradient, however small: none is taken where none is due
            optimizer.step(config.learning_rate_scale * (1 - update / config.steps))
        optimizer.zero_grad()
        rewards.append(reward)
        run.metrics(
            {
                "train/reward": reward,
                "train/loss": learned["loss"],
                "train/tokens": learned["tokens"],
                "train/seconds": time.perf_counter() - started,
            },
            update + 1,
        )
        run.progress("training", update + 1, config.steps, "updates")
        say(
            world,
            f"update {update + 1}/{config.steps}: reward {reward:.3f}, loss {learned['loss']:+.4f}, "
            f"{learned['tokens']:.0f} tokens, {sampled:.1f} + {time.perf_counter() - started - sampled:.1f} s",
        )
        if (update + 1) % config.checkpoint_every == 0 or update + 1 == config.steps:
            if world.rank == 0:
                checkpoint.save(
                    folder,
                    update + 1,
                    subject.model,
                    {"optimizer": optimizer.state_dict(), "rewards": rewards},
                    facts,
                )
            barrier(world)
    return rewards


def collect(
    job: Job, world: World, subject: Subject, rows: list[dict[str, Any]], update: int
) -> tuple[list[grpo.Rollout], float]:
    """This rank's rollouts of an update with their advantages, and the mean reward over all ranks."""
    config, tokenizer = job.config, subject.tokenizer
    chosen = grpo.problems_of_update(config.seed, update, config.problems_per_step, len(rows))
    mine = list(enumerate(chosen))[world.rank :: world.size]  # a group stays on one rank
    prompts = [
        chat.render_prompt(tokenizer, chat.gsm8k_messages(rows[index])[:-1]) for _, index in mine
    ]
    rollouts: list[grpo.Rollout] = []
    total = 0.0
    if mine:
        language_model = subject.language_model(
            config, max(map(len, prompts)) + config.max_new_tokens
        )
        groups = baselines.generate(
            language_model,
            prompts,
            temperature=config.temperature,
            top_k=None,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            stage=f"{job.step}/update {update}",
            samples_per_prompt=config.group_size,
            batch_rows=config.batch_rows,
            examples=[place for place, _ in mine],
        )
        for (_, index), prompt, group in zip(mine, prompts, groups):
            graded = [
                float(grade_problem(tokenizer, rows[index], completion)["passed"])
                for completion in group
            ]
            total += sum(graded)
            rollouts += [
                grpo.Rollout(prompt, completion.tokens, completion.forced, advantage)
                for completion, advantage in zip(group, grpo.advantages(graded))
            ]
    summed = sum_over_ranks(world, torch.tensor([total], dtype=torch.float64, device=world.device))
    return rollouts, float(summed) / (config.problems_per_step * config.group_size)


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)
