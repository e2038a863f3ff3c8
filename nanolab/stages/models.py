"""What evaluating stages share: the model a job names, its engine, the problems it is asked, and the five chat tasks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanolab import checkpoint, hf, model_source, sandbox
from nanolab.config import SOURCE_STEPS, Job
from nanolab.data import chat
from nanolab.data.choice import chosen_rows, repeated_rows
from nanolab.data.hf_tokenizer import PROBLEM_NOTE, HFTokenizer
from nanolab.data.requirements import shots_split
from nanolab.data.sources import DataSource
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.engine import GPTLanguageModel, GPTScorer
from nanolab.evals import chat_tasks
from nanolab.evals.base import TaskResult
from nanolab.evals.methods import Problems
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.model.gpt import GPT
from nanolab.schema import UserError


@dataclass(frozen=True)
class Subject:
    """A trained model with its tokenizer; `facts` are the checkpoint's (step, tokenizer digest, ...)."""

    model: GPT
    tokenizer: Tokenizer
    facts: dict[str, Any]
    source: str

    note = ""  # a line below each word problem

    @property
    def context(self) -> int:
        """Tokens of the rows that the model was trained on."""
        return self.model.config.sequence_length

    @property
    def plain(self) -> bool:
        """Whether the model is asked in plain text: its chat tokens are untrained, or it has none."""
        return self.source == "base"

    @property
    def scorer(self) -> Any:
        """The model as evaluation sees it (generation.Scorer)."""
        return GPTScorer(self.model)

    def render(self, messages: list[chat.Message]) -> list[int]:
        """The ids of a chat prompt."""
        return chat.render_prompt(self.tokenizer, messages)

    def language_model(self, config: Any, max_length: int | None = None) -> GPTLanguageModel:
        """The model behind the engine's protocol, with the calculator, for rows of at most `max_length` tokens.

        A base model ends a text where its next document would start.
        """
        found = GPTLanguageModel(
            self.model,
            self.tokenizer,
            sandbox.Tools("calculator", config.tool_timeout),
            rows=config.batch_rows,
            max_length=max_length or self.context,
            tool_max_output_tokens=config.tool_max_output_tokens,
        )
        if self.source == "base":
            found.end_token = self.tokenizer.bos
        found.name = self.facts.get("name", self.source)
        return found


@dataclass(frozen=True)
class HFSubject(Subject):
    """A Hugging Face model with its tokenizer, asked as data/hf_tokenizer.py says; the calculator runs only where it has its tokens."""

    model: Any  # a transformers causal language model
    tokenizer: HFTokenizer
    note = PROBLEM_NOTE

    @property
    def context(self) -> int:
        """Tokens of a row at most."""
        return hf.context_length(self.model)

    @property
    def plain(self) -> bool:
        """Whether it has no chat template."""
        return self.tokenizer.plain

    @property
    def scorer(self) -> Any:
        """The model as evaluation sees it (generation.Scorer)."""
        return hf.HFScorer(self.model)

    def render(self, messages: list[chat.Message]) -> list[int]:
        """The ids of a chat prompt."""
        return self.tokenizer.render_prompt(messages)

    def language_model(self, config: Any, max_length: int | None = None) -> hf.HFLanguageModel:
        """The model behind the engine's protocol, for rows of at most `max_length` tokens (None: its context)."""
        found = hf.HFLanguageModel(
            self.model,
            self.tokenizer,
            sandbox.Tools("calculator", config.tool_timeout),
            rows=config.batch_rows,
            max_length=max_length,
            tool_max_output_tokens=config.tool_max_output_tokens,
        )
        found.name = self.source
        return found


def load_subject(job: Job, world: World, source: str | None = None) -> Subject:
    """The model that `source` (else the job's config) names, on the world's device, in evaluation mode.

    Raises UserError for a missing or truncated checkpoint, for a tokenizer that does not match the model, and for what `hf.load` does.
    """
    source = source or job.config.source
    if model_source.is_outside(source):
        model, outside = hf.load(source, world.device)
        return HFSubject(
            model, outside, {"tokenizer_digest": outside.digest, "source": source}, source
        )
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    folder = job.inputs[SOURCE_STEPS[source]] / "checkpoints"
    return trained_subject(folder, tokenizer, source, job.config.step, world.device)


def trained_subject(
    folder: Path, tokenizer: Tokenizer, source: str, step: int | None, device: torch.device
) -> Subject:
    """The model of a folder of checkpoints at `step` (None: the finished one), in evaluation mode."""
    model, facts = checkpoint.load_model(folder, step, device, tokenizer.digest)
    return Subject(
        model.eval(),
        tokenizer,
        facts | {"name": f"{source}, step {facts['step']} of {folder}"},
        source,
    )


def in_dtype(subject: Subject, dtype: str) -> Subject:
    """The subject with weights, cache and logits' products in `dtype` ("float32" or "bfloat16")."""
    subject.model.to(getattr(torch, dtype))
    return subject


def task_rows(
    source: DataSource,
    run: Run,
    task: str,
    split: str,
    count: int | None,
    subset: str | None = None,
) -> list[dict[str, Any]]:
    """`count` rows (None: all) of a task's split, as `chosen_rows` chooses them; recorded as the run's data, with what is repeated."""
    every = source.task(task, split, subset)
    rows = chosen_rows(source, every, task, split, count)
    run.dataset(
        task,
        source.describe(task),
        sha256_text(json.dumps(rows, sort_keys=True, default=str)),
        split,
        len(rows),
    )
    order = (
        "all"
        if len(rows) == len(every)
        else "the first"
        if source.exchangeable
        else "drawn by the fixed seed 0"
    )
    run.params(
        {
            f"rows.{task}.{split}": f"{len(rows)} of {len(every)}, {order}; {repeated_rows(rows)} repeat another and are kept"
        }
    )
    return rows


def problems_of(
    job: Job,
    world: World,
    run: Run,
    subject: Subject,
    source: DataSource,
    rows: list[dict[str, Any]],
    task: str = "gsm8k",
    stage: str | None = None,
    plain: bool | None = None,
) -> Problems:
    """Rows of a generating task as their model is asked them, by the settings of the job's config.

    A chat model is asked in its chat format with the calculator, if it has one; a base model, a Hugging Face model without a chat
    template (or `plain`) in plain text after `num_shots` solved examples.
    """
    config, plain = job.config, subject.plain if plain is None else plain
    shots = (
        {task: shot_rows(source, task)} if plain and task != "humaneval" else {}
    )  # a program is its own prompt
    how = asking(
        job, world, subject, plain=plain, shots=shots, num_shots=config.num_shots if plain else 0
    )
    note_cut_prompts(run, world, task, rows, how)
    prompts = [chat_tasks.prompt_ids(task, rows, index, how) for index in range(len(rows))]
    longest = max((len(prompt) for prompt in prompts), default=1)
    if config.max_new_tokens > subject.context:
        raise UserError(
            f"max_new_tokens = {config.max_new_tokens} is more than the {subject.context} tokens that {subject.source} was "
            f"trained on: set max_new_tokens to at most {subject.context}, or train with a larger base_train.sequence_length"
        )
    if longest >= subject.context:
        place = max(range(len(prompts)), key=lambda index: len(prompts[index]))
        raise UserError(
            f"{task} problem {place} has a prompt of {longest} tokens, which leaves no room in the {subject.context} tokens "
            f"that {subject.source} was trained on: train with a larger base_train.sequence_length, or take fewer num_shots"
        )
    return Problems(
        world,
        job.folder / "records",
        subject.tokenizer,
        subject.language_model(config, longest + config.max_new_tokens),
        rows,
        prompts,
        stage or job.step,
        config.seed,
        config.max_new_tokens,
        config.batch_rows,
        lambda line: say(world, line),
        task,
        plain,
        config.tool_timeout,
        how.workers,
        run.progress,
    )


def shot_rows(source: DataSource, task: str) -> list[dict[str, Any]]:
    """Rows with answers to show before a question."""
    return source.task(task, shots_split(task, source))


def asking(job: Job, world: World, subject: Subject, **changes: Any) -> chat_tasks.Asking:
    """How an evaluation stage asks its model; `changes` replace single fields."""
    config = job.config
    fields: dict[str, Any] = dict(
        tokenizer=subject.tokenizer,
        make_language_model=lambda length: subject.language_model(config, length),
        scorer=subject.scorer,
        context=subject.context,
        stage=job.step,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
        batch_rows=config.batch_rows,
        tool_timeout=config.tool_timeout,
        workers=max(1, (os.cpu_count() or 1) // world.size),
        plain=subject.plain,
        render=lambda tokenizer, messages: subject.render(messages),
        problem_note=subject.note,
        choice_form=job.study.data.choice_answers,
    )
    return chat_tasks.Asking(**fields | changes)


def evaluate_tasks(
    job: Job, world: World, run: Run, source: DataSource, how: chat_tasks.Asking
) -> list[TaskResult]:
    """A result for every task of the job's config, printed and recorded as it is known."""
    results = []
    if "humaneval" in job.config.tasks:
        level = sandbox.sandbox_level()
        run.tag("sandbox", level)
        gaps = sandbox.sandbox_gaps()
        say(
            world,
            f"programs run in a sandbox of level {level}"
            + (f", where they can {', '.join(gaps)}" if gaps else ""),
        )
    for task in job.config.tasks:
        rows = task_rows(source, run, task, "test", job.config.max_examples)
        note_cut_prompts(run, world, task, rows, how)
        result = chat_tasks.evaluate(
            world, records_folder(job), task, rows, how, lambda line: say(world, line), run.progress
        )
        say(
            world,
            f"{task}: {result.passed} of {result.n} = {result.accuracy:.4f} "
            f"[{result.interval_low:.4f}, {result.interval_high:.4f}], chance {result.chance:.2f}",
        )
        results.append(result)
    return results


def note_cut_prompts(
    run: Run, world: World, task: str, rows: list[dict[str, Any]], how: chat_tasks.Asking
) -> None:
    """Prints and records (metric prompts_cut/TASK) how many plain prompts lose their start to fit into the context."""
    if how.plain:
        cut = chat_tasks.prompts_cut(task, rows, how)
        run.metrics({f"prompts_cut/{task}": cut})
        if cut:
            what = "" if task == "humaneval" else ", where solved examples stand,"
            say(
                world,
                f"{task}: {cut} of {len(rows)} prompts lose their start{what} to fit into {how.context} tokens",
            )


def show_samples(
    job: Job, world: World, run: Run, source: DataSource, results: list[TaskResult]
) -> None:
    """Prints and records the first generated answers (`num_samples`) of each generation task."""
    rows = []
    for result in (r for r in results if r.task not in chat_tasks.CHOICE_TASKS):
        questions = chosen_rows(
            source, source.task(result.task, "test"), result.task, "test", job.config.max_examples
        )
        for record in result.records[: job.config.num_samples]:
            question = questions[record["index"]]
            rows.append(
                {
                    "task": result.task,
                    "index": record["index"],
                    "prompt": question.get("question", question.get("prompt")),
                    "completion": record["text"],
                    "expected": record.get("expected") or "",
                    "passed": record["passed"],
                }
            )
    for row in rows:
        say(
            world,
            f"--- {row['task']} {row['index']} ({'right' if row['passed'] else 'wrong'})\n{row['prompt']}\n>>> {row['completion']}",
        )
    if rows:
        run.table(rows, "samples.json")


def records_folder(job: Job) -> Path:
    """Where a stage keeps its records, one line an example."""
    return job.folder / "records"


def say(world: World, line: str) -> None:
    """A progress line, from one process only."""
    if world.rank == 0:
        print(line, flush=True)
