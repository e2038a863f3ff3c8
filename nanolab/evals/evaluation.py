"""What evaluating stages share: a model, the rows it is asked, how it does on the chat tasks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from nanolab.data.sources.choice import chosen_rows, repeated_rows
from nanolab.data.sources.requirements import shots_split
from nanolab.data.sources.source import DataSource, open_source
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.task import Row
from nanolab.dist import World, say
from nanolab.errors import UserError
from nanolab.evals.asking import Asking, Questions
from nanolab.evals.base import Records, TaskResult
from nanolab.evals.chat_tasks import evaluate
from nanolab.evals.problems import Problems
from nanolab.evals.subject import Subject, load_subject
from nanolab.files import sha256_text
from nanolab.sandbox import programs
from nanolab.settings.config import Job, asked_examples
from nanolab.settings.evaluation_stages import PowerSampling
from nanolab.settings.model_source import is_outside
from nanolab.tracking.journal import Run


@dataclass(frozen=True)
class Evaluation:
    """A stage at work: its job, the model that it asks, and the data that it asks it about."""

    job: Job
    world: World
    run: Run
    subject: Subject
    source: DataSource

    @classmethod
    def of(cls, job: Job, world: World, run: Run, model: str | None = None) -> Evaluation:
        """The evaluation of `model` (None: the one that the job's config names)."""
        source = open_source(job.study.data)
        return cls(job, world, run, load_subject(job, world, model), source)

    def say(self, line: str) -> None:
        """A progress line, from one process only."""
        say(self.world, line)

    @property
    def records(self) -> Records:
        """Where the stage keeps its records."""
        return Records(self.world, self.job.folder / "records", self.say, self.run.progress)

    def facts(self, task: str) -> dict[str, str]:
        """What a result says beside its numbers: the data of a task, and an engine of others."""
        engine = self.subject.facts.get("engine")
        return {"data": self.source.describe(task)} | ({"served_by": engine} if engine else {})

    def rows(
        self, task: str, split: str, count: int | None, subset: str | None = None
    ) -> list[Row]:
        """`count` rows (None: all) of a task's split, as `chosen_rows` chooses them; recorded as
        the run's data, with what is repeated.
        """
        every = self.source.task(task, split, subset)
        rows = chosen_rows(self.source, every, task, split, count)
        digest = self.digest(task, split, rows)
        self.run.dataset(task, self.source.describe(task), digest, split, len(rows))
        order = "the first" if self.source.exchangeable else "drawn by the fixed seed 0"
        if len(rows) == len(every):
            order = "all"
        repeated = f"{repeated_rows(rows)} repeat another and are kept"
        said = f"{len(rows)} of {len(every)}, {order}; {repeated}"
        self.run.params({f"rows.{task}.{split}": said})
        return rows

    def digest(self, task: str, split: str, rows: list[Row]) -> str:
        """The SHA-256 of rows, whose start is recorded: equal where two models were asked alike."""
        digest = sha256_text(json.dumps(rows, sort_keys=True, default=str))
        self.run.params({f"problems.{task}.{split}": digest[:12]})
        return digest

    def asking(self, **changes: Any) -> Asking:
        """How the model is asked by the job's config; `changes` replace single fields.

        A chat model is asked in its chat format, a base model or one without a chat template in
        plain text, each after `num_shots` solved examples.
        """
        config, subject = self.job.config, self.subject
        fields: dict[str, Any] = {
            "tokenizer": subject.tokenizer,
            "make_language_model": lambda length: subject.language_model(config, length),
            "scorer": subject.scorer,
            "context": subject.context,
            "stage": self.job.step,
            "plain": subject.plain,
            "num_shots": self._shots(),
            "workers": max(1, (os.cpu_count() or 1) // self.world.size),
            "render": lambda tokenizer, messages: subject.render(messages),
            "noted": subject.noted,
            "choice_form": getattr(config, "choice_form", None)
            or self.job.study.data.choice_answers,
        }
        names = ("seed", "max_new_tokens", "batch_rows", "tool_timeout", "system_prompt")
        asking = Asking(**fields | {name: getattr(config, name) for name in names} | changes)
        if asking.plain and asking.system_prompt is not None:
            raise UserError(
                f"system_prompt = {asking.system_prompt!r} is of a conversation, and"
                f" {self.job.step} asks {subject.source} in plain text; leave system_prompt out"
            )
        return asking

    def _shots(self) -> int:
        """Solved examples before each question; a power step shows them to a plain model only."""
        config = self.job.config
        if isinstance(config, PowerSampling) and not self.subject.plain:
            return 0
        return getattr(config, "num_shots", 0)

    def questions(self, task: str, rows: list[Row], asking: Asking) -> Problems:
        """Rows of a task as the model is asked them; says how many plain prompts lose their start
        (metric prompts_cut/TASK).
        """
        if TASKS[task].shown and asking.num_shots:
            shots = self.source.task(task, shots_split(task, self.source))
            asking = replace(asking, shots={task: shots})
        problems = Problems(task, rows, asking, self.records)
        if problems.plain:
            cut = problems.cut()
            self.run.metrics({f"prompts_cut/{task}": cut})
            if cut:
                where = ", where solved examples stand," if problems.about.shown else ""
                self.say(
                    f"{task}: {cut} of {len(rows)} prompts lose their start{where} to fit into"
                    f" {asking.context} tokens"
                )
        return problems

    def problems(self, task: str, rows: list[Row], **changes: Any) -> Problems:
        """Rows of a generating task, to be answered in several ways; `changes` as of `asking`.

        Raises UserError where an answer or a prompt does not fit into the model's context.
        """
        problems = self.questions(task, rows, self.asking(**changes))
        context, source = self.subject.context, self.subject.source
        most = problems.asking.max_new_tokens
        has = f"tokens that {source} was trained on"
        instead = "train with a larger base_train.sequence_length"
        if is_outside(source):
            has, instead = f"positions that {source} serves", "take a model of a longer context"
        if most > context:
            raise UserError(
                f"max_new_tokens = {most} is more than the {context} {has}: set max_new_tokens to"
                f" at most {context}, or {instead}"
            )
        lengths = [len(prompt) for prompt in problems.prompts]
        if max(lengths, default=1) >= context:
            raise UserError(
                f"{task} problem {lengths.index(max(lengths))} has a prompt of {max(lengths)}"
                f" tokens, which leaves no room in the {context} {has}: {instead}, or take fewer"
                " num_shots"
            )
        return problems

    def sharpened(self) -> Problems:
        """The problems of a power evaluation or ablation, by its settings."""
        config = self.job.config
        subset = config.subset if config.task == "gsm8k" else None
        rows = self.rows(config.task, config.split, config.max_examples, subset)
        return self.problems(config.task, rows)

    def chat_tasks(self, asking: Asking) -> list[TaskResult]:
        """A result for every task of the job's config, printed and recorded as it is known; the
        first generated answers (`num_samples`) of each are shown.
        """
        config, results, samples = self.job.config, [], []
        if any(TASKS[task].kind == "program" for task in config.tasks):
            level = programs.strongest_level()
            self.run.tag("sandbox", str(level))
            gaps = level.gaps()
            can = f", where they can {', '.join(gaps)}" if gaps else ""
            self.say(f"programs run in a sandbox of level {level}{can}")
        for task in config.tasks:
            rows = self.rows(task, "test", asked_examples(config, task))
            addressed = replace(asking, stage=f"{asking.stage}/{task}")
            questions = self.questions(task, rows, addressed)
            result = evaluate(questions)
            results.append(result)
            score = result.score
            self.say(
                f"{task}: {score.passed} of {score.n} = {score.value:.4f} "
                f"[{score.low:.4f}, {score.high:.4f}], chance {score.chance:.2f}"
            )
            for line in result.warnings():
                self.say(line)
            if questions.about.generates:
                samples += [
                    sample_row(questions, record) for record in result.records[: config.num_samples]
                ]
        for row in samples:
            verdict = "right" if row["passed"] else "wrong"
            about = f"{row['task']} {row['index']} ({verdict})"
            self.say(f"--- {about}\n{row['prompt']}\n>>> {row['completion']}")
        if samples:
            self.run.table(samples, "samples.json")
        return results


def sample_row(questions: Questions, record: dict[str, Any]) -> dict[str, Any]:
    """A generated answer with its problem, as the table of samples has it."""
    return {
        "task": questions.task,
        "index": record["index"],
        "prompt": questions.rows[record["index"]][questions.about.form.columns[0]],
        "completion": record["text"],
        "expected": record["expected"] or "",
        "passed": record["passed"],
    }
