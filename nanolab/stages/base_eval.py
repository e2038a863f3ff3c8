"""Step base_eval: CORE, the chat tasks asked in plain text after solved examples, and generated
samples.
"""

import functools
from collections.abc import Sequence
from itertools import islice

from nanolab.data.sources.published import CoreTask
from nanolab.data.tokens import chat
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.evals import core, model_facts
from nanolab.evals.base import TaskResult, mean_centred
from nanolab.evals.evaluation import Evaluation
from nanolab.evals.subject import in_dtype
from nanolab.files import sha256_text
from nanolab.inference.proposal import Sampling
from nanolab.results import StepResult, scalars
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run

PROMPT_TOKENS = 12  # tokens of a held-out document that a text sample continues
SAMPLE_TEMPERATURE, SAMPLE_TOP_K = 0.7, 50


def run(job: Job, world: World, run: Run) -> StepResult:
    """CORE with each of its tasks, and the chat tasks."""
    evaluation = Evaluation.of(job, world, run)
    in_dtype(evaluation.subject, job.config.dtype)
    found = evaluate_core(evaluation)
    asking = evaluation.asking(plain=True)
    results = evaluation.chat_tasks(asking)
    if job.config.num_samples and world.rank == 0:
        continue_documents(evaluation)
    rows = found.rows + [row for result in results for row in result.scores()]
    told = model_facts.of_outside(evaluation, asking)
    facts = {"data": evaluation.source.describe(job.config.tasks[0])}
    return StepResult(rows + told.rows, found.facts | facts | told.facts)


def evaluate_core(evaluation: Evaluation) -> StepResult:
    """CORE and each of its tasks, what the mean covers, known faults of its data, and how many
    examples were cropped or have a choice that all others begin with. Tasks that a study names are
    no CORE: they have no mean.
    """
    config, source = evaluation.job.config, evaluation.source
    examples, limit = config.core_examples, evaluation.subject.context
    tasks = chosen(source.core(), config.core_tasks)
    results = [core_result(evaluation, task) for task in tasks if task.rows]
    if config.core_tasks is not None:
        return StepResult([row for one in results for row in one.scores("core")])
    if not results:
        raise UserError(
            f"none of the {len(tasks)} CORE tasks has data; put a file of one under core/data and"
            " name it in core/tasks.json"
        )
    digest = sha256_text(source.identity())
    evaluation.run.dataset("core", source.describe("core"), digest, "evaluation")
    records = [record for result in results for record in result.records]
    mean, covers = mean_centred(results), core.coverage(tasks, examples)
    cropped = sum(record["cropped"] > 0 for record in records)
    unscored = sum(record["choice"] is not None and 0 in record["tokens"] for record in records)
    evaluation.say(
        f"CORE: {mean:.4f} over {covers}; {cropped} of {len(records)} examples cropped to"
        f" {limit} tokens, {unscored} with a choice that all others begin with"
    )
    facts = {"core_covers": covers}
    if faults := core.known_faults(tasks):
        facts["core_faults"] = faults
        evaluation.say(f"CORE's published files have known faults: {faults}")
    rows = scalars(CORE=mean, core_cropped=cropped, core_unscored=unscored)
    return StepResult(rows + [row for one in results for row in one.scores("core")], facts)


def core_result(evaluation: Evaluation, task: CoreTask) -> TaskResult:
    """The records of a CORE task."""
    subject, limit = evaluation.subject, evaluation.subject.context

    def encode(text: str) -> list[int]:
        return [*subject.tokenizer.start, *subject.tokenizer.encode(text)]

    rows = core.asked_rows(task.rows, evaluation.job.config.core_examples)
    evaluation.digest(f"core/{task.name}", "test", rows)
    reader = core.Reader(subject.scorer, encode, limit)
    evaluate = functools.partial(core.evaluate_task, reader, task, rows)
    records = evaluation.records.run(f"core_{task.name}", len(rows), evaluate)
    result = TaskResult(task.name, records)
    score = result.score
    evaluation.say(
        f"CORE {task.name} ({task.kind}): {score.passed} of {score.n} ="
        f" {score.value:.4f}, centred {result.centred:+.4f}"
    )
    return result


def chosen(tasks: Sequence[CoreTask], names: list[str] | None) -> list[CoreTask]:
    """The CORE tasks that a study names (None: all); UserError for one that the data lacks."""
    have = {task.name: task for task in tasks}
    for name in names or ():
        if name not in have or not have[name].rows:
            with_rows = ", ".join(task.name for task in tasks if task.rows)
            raise UserError(
                f"base_eval.core_tasks names {name!r}, of which there are no rows: the data has"
                f" {with_rows}"
            )
    return list(tasks) if names is None else [have[name] for name in names]


def continue_documents(evaluation: Evaluation) -> None:
    """Prints and records how the model goes on with the first tokens of held-out documents."""
    job, subject = evaluation.job, evaluation.subject
    config, tokenizer = job.config, subject.tokenizer
    documents = islice(evaluation.source.documents("validation"), config.num_samples)
    prompts = [
        [*tokenizer.start, *tokenizer.encode(document.text)[:PROMPT_TOKENS]]
        for document in documents
    ]
    language_model = subject.language_model(config, PROMPT_TOKENS + 1 + config.max_new_tokens)
    sampling = Sampling(
        temperature=SAMPLE_TEMPERATURE, top_k=SAMPLE_TOP_K, max_new_tokens=config.max_new_tokens
    )
    batch = Batch(prompts, config.seed, f"{job.step}/text", rows=config.batch_rows)
    found = baselines.generate(language_model, batch, sampling)
    rows = [
        {
            "prompt": tokenizer.decode(prompt[len(tokenizer.start) :]),
            "completion": chat.completion_text(tokenizer, samples[0].tokens),
        }
        for prompt, samples in zip(prompts, found)
    ]
    for row in rows:
        print(f"--- {row['prompt']}\n>>> {row['completion']}", flush=True)
    evaluation.run.table(rows, "text_samples.json")
