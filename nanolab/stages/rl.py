"""Step rl: GRPO on the word problems with tools, and the paired comparison of the model before and
after it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.graders import number_verdict
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World, say, sum_over_ranks, with_dtype
from nanolab.evals import methods
from nanolab.evals.base import Record
from nanolab.evals.evaluation import Evaluation
from nanolab.evals.subject import Subject
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Draws
from nanolab.model import optim, scaling
from nanolab.results import StepResult, scalars
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run
from nanolab.training import grpo
from nanolab.training.loop import Training


def run(job: Job, world: World, run: Run) -> StepResult:
    """Mean reward of the first and last 3 updates; the accuracy of greedy and sampled (T = 1)
    answers to the test problems before and after, with the paired test.
    """
    config, evaluation = job.config, Evaluation.of(job, world, run)
    world = with_dtype(world, config.dtype)
    test = evaluation.rows("gsm8k", "test", config.max_examples)
    train = evaluation.rows("gsm8k", "train", None)

    def answers(when: str) -> dict[str, list[Record]]:
        """Of the model as it is now, graded: greedy and at temperature 1, by the same random
        numbers before and after.
        """
        problems = evaluation.problems("gsm8k", test, stage=f"{job.step}/test", plain=False)
        evaluation.subject.model.eval()
        return {
            "greedy": problems.draw(f"{when}_greedy", 0.0, None),
            "sampled": problems.draw(f"{when}_sampled", 1.0, None),
        }

    before = answers("before")
    rewards = policy(job, world, run, evaluation.subject).train(train)
    after = answers("after")
    rows = scalars(
        steps=config.steps, reward_first=fmean(rewards[:3]), reward_last=fmean(rewards[-3:])
    )
    for way in before:
        of = {"task": "gsm8k", "method": way}
        old = methods.accuracy(before[way], moment="before", **of)
        new = methods.accuracy(after[way], before[way], moment="after", against="before", **of)
        rows += [old, new]
        say(
            world,
            f"{way}: {old.value:.4f} before, {new.value:.4f} after on"
            f" {new.n} test problems, McNemar p {new.p_value:.4g}",
        )
    return StepResult(rows, {"status": "finished", "data": evaluation.source.describe("gsm8k")})


def policy(job: Job, world: World, run: Run, subject: Subject) -> Policy:
    """The training of a step's model."""
    scale = scaling.derive(job.study.base_train, subject.tokenizer.vocab_size)
    digest = subject.tokenizer.digest
    return Policy(
        model=subject.model,
        optimizers=optim.build_optimizers(subject.model, scale, world.dtype),
        world=world,
        run=run,
        folder=job.folder / "checkpoints",
        facts={"tokenizer_digest": digest, "source": subject.source, "made_by": job.step},
        job=job,
        subject=subject,
    )


@dataclass(kw_only=True)
class Policy(Training):
    """A training by the rewards of its own answers."""

    job: Job
    subject: Subject

    def train(self, problems: list[dict[str, Any]]) -> list[float]:
        """The config's number of updates, from the newest complete checkpoint or the start; the
        mean reward of each.

        The learning rates fall linearly to 0: the policy gradient of a hundred rollouts is noisy,
        and the last updates decide.
        """
        config = self.job.config
        self.restore()
        for done in range(len(self.curve) + 1, config.steps + 1):
            started = time.perf_counter()
            rollouts, reward = collect(self.job, self.world, self.subject, problems, done - 1)
            sampled = time.perf_counter() - started
            learned = grpo.policy_gradient(
                self.world,
                self.model,
                rollouts,
                temperature=config.temperature,
                rows=config.device_batch_size,
            )
            # Muon makes a full step of any gradient, however small: none where none is due
            if learned["useful"]:
                self.optimizers.step(config.learning_rate_scale * (1 - (done - 1) / config.steps))
            self.optimizers.zero_grad()
            seconds, loss = time.perf_counter() - started, learned["loss"]
            tokens = learned["tokens"]
            point = {"reward": reward, "loss": loss, "tokens": tokens, "seconds": seconds}
            self.record(done, {f"train/{key}": value for key, value in point.items()})
            self.run.progress("training", done, config.steps, "updates")
            self.say(
                f"update {done}/{config.steps}: reward {reward:.3f}, loss {loss:+.4f},"
                f" {tokens:.0f} tokens, {sampled:.1f} + {seconds - sampled:.1f} s"
            )
            if done % config.checkpoint_every == 0 or done == config.steps:
                self.check_weights(done)
                self.save(done)
        return [point["train/reward"] for _, point in self.curve]


def reward_of(tokenizer: Tokenizer, row: dict[str, Any], completion: Draws) -> float:
    """1 for the right final number, else 0."""
    text = chat.completion_text(tokenizer, completion.tokens)
    return float(number_verdict(row, text)["passed"])


def collect(
    job: Job, world: World, subject: Subject, rows: list[dict[str, Any]], update: int
) -> tuple[list[grpo.Rollout], float]:
    """This rank's rollouts of an update with their advantages; the mean reward of all ranks."""
    config, tokenizer = job.config, subject.tokenizer
    chosen = grpo.problems_of_update(config.seed, update, config.problems_per_step, len(rows))
    mine = list(enumerate(chosen))[world.rank :: world.size]  # a group stays on one rank
    prompts = [
        chat.render_prompt(tokenizer, TASKS["gsm8k"].messages(rows[index])) for _, index in mine
    ]
    rollouts: list[grpo.Rollout] = []
    total = 0.0
    if mine:
        language_model = subject.language_model(
            config, max(map(len, prompts)) + config.max_new_tokens
        )
        batch = Batch(
            prompts,
            config.seed,
            f"{job.step}/update {update}",
            copies=config.group_size,
            rows=config.batch_rows,
            examples=[place for place, _ in mine],
        )
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        groups = baselines.generate(language_model, batch, sampling)
        for (_, index), prompt, group in zip(mine, prompts, groups):
            graded = [reward_of(tokenizer, rows[index], completion) for completion in group]
            total += sum(graded)
            rollouts += [
                grpo.Rollout(prompt, completion.tokens, completion.forced, advantage)
                for completion, advantage in zip(group, grpo.advantages(graded))
            ]
    summed = sum_over_ranks(world, torch.tensor([total], dtype=torch.float64, device=world.device))
    return rollouts, float(summed) / (config.problems_per_step * config.group_size)
