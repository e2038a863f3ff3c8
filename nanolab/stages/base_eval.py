"""Step base_eval: CORE, the five chat tasks asked in plain text after solved examples, and generated samples."""

from __future__ import annotations

from typing import Any

from nanolab.config import Job
from nanolab.data import chat
from nanolab.data.sources import DataSource, open_source
from nanolab.dist import World
from nanolab.engine import GPTScorer
from nanolab.evals import core
from nanolab.evals.base import TaskResult, run_examples
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.samplers import baselines
from nanolab.schema import UserError
from nanolab.stages.models import (
    Subject,
    asking,
    evaluate_tasks,
    load_subject,
    records_folder,
    say,
    shot_rows,
    show_samples,
)

PROMPT_TOKENS = 12  # tokens of a held-out document that a text sample continues
SAMPLE_TEMPERATURE, SAMPLE_TOP_K = 0.7, 50


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: CORE and what it covers, each chat task's accuracy, n, passed, low, high, chance; the single CORE tasks under core/;
    data."""
    config, source, subject = (
        job.config,
        open_source(job.study.data),
        load_subject(job, world, "base"),
    )
    metrics = evaluate_core(job, world, run, source, subject)
    shots = {
        task: shot_rows(source, task) for task in config.tasks if task != "humaneval"
    }  # a program is its own prompt
    results = evaluate_tasks(
        job,
        world,
        run,
        source,
        asking(job, world, subject, num_shots=config.num_shots, shots=shots),
    )
    for result in results:
        metrics |= result.metrics()
    show_samples(job, world, run, source, results)
    if config.num_samples and world.rank == 0:
        continue_documents(job, run, source, subject)
    return metrics | {"data": source.describe(config.tasks[0])}


def evaluate_core(
    job: Job, world: World, run: Run, source: DataSource, subject: Subject
) -> dict[str, Any]:
    """CORE, what its mean covers, known faults of its data, and how many of its examples were cropped or have a choice without a token of
    its own; the result of each task under core/."""
    config, tokenizer, scorer, tasks, results = (
        job.config,
        subject.tokenizer,
        GPTScorer(subject.model),
        source.core(),
        [],
    )
    for task in (task for task in tasks if task.rows):
        core.check_rows(task)
        rows = core.asked_rows(task.rows, config.core_examples)

        def evaluate(indexes: list[int], done: Any, task: Any = task, rows: Any = rows) -> None:
            core.evaluate_task(
                scorer,
                lambda text: [tokenizer.bos, *tokenizer.encode(text)],
                task,
                rows,
                indexes,
                done,
                limit=subject.context,
            )

        records = run_examples(
            world,
            records_folder(job),
            f"core_{task.name}",
            len(rows),
            evaluate,
            progress=run.progress,
        )
        result = TaskResult.of(task.name, records)
        say(
            world,
            f"CORE {task.name} ({task.kind}): {result.passed} of {result.n} = {result.accuracy:.4f}, centred {result.centred:+.4f}",
        )
        results.append(result)
    if not results:
        raise UserError(
            f"none of the {len(tasks)} CORE tasks has data; put a file of one under core/data and name it in core/tasks.json"
        )
    run.dataset("core", source.describe("core"), sha256_text(source.identity()), "evaluation")
    records = [record for result in results for record in result.records]
    metrics = {
        "CORE": core.core_metric(results),
        "core_covers": core.coverage(tasks, config.core_examples),
        "core_cropped": sum(record["cropped"] > 0 for record in records),
        "core_unscored": sum(
            record["choice"] is not None and 0 in record["tokens"] for record in records
        ),
    }
    say(
        world,
        f"CORE: {metrics['CORE']:.4f} over {metrics['core_covers']}; {metrics['core_cropped']} of {len(records)} examples cropped "
        f"to {subject.context} tokens, {metrics['core_unscored']} with a choice that all others begin with",
    )
    if faults := core.known_faults(tasks):
        metrics["core_faults"] = faults
        say(world, f"CORE's published files have known faults: {faults}")
    for result in results:
        metrics |= {f"core/{key}": value for key, value in result.metrics().items()}
    return metrics


def continue_documents(job: Job, run: Run, source: DataSource, subject: Subject) -> None:
    """Prints and records how the model goes on with the first tokens of held-out documents."""
    config, tokenizer = job.config, subject.tokenizer
    documents = [
        document.text
        for document, _ in zip(source.documents("validation"), range(config.num_samples))
    ]
    prompts = [[tokenizer.bos, *tokenizer.encode(text)[:PROMPT_TOKENS]] for text in documents]
    language_model = subject.language_model(config, PROMPT_TOKENS + 1 + config.max_new_tokens)
    found = baselines.generate(
        language_model,
        prompts,
        temperature=SAMPLE_TEMPERATURE,
        top_k=SAMPLE_TOP_K,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
        stage=f"{job.step}/text",
        batch_rows=config.batch_rows,
    )
    rows = [
        {
            "prompt": tokenizer.decode(prompt[1:]),
            "completion": chat.completion_text(tokenizer, samples[0].tokens),
        }
        for prompt, samples in zip(prompts, found)
    ]
    for row in rows:
        print(f"--- {row['prompt']}\n>>> {row['completion']}", flush=True)
    run.table(rows, "text_samples.json")
