"""What each step of a study will do, counted from its settings: tokens, operations, memory and disk. Imports no torch.

Training is exact; how long prompts and answers are is known only once a study has run, so that evaluation and sampling take the typical
lengths below. nanolab/costs.py turns this into hours and dollars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from nanolab import grid
from nanolab.config import STEPS, StudyConfig
from nanolab.model.scaling import (
    GPTConfig,
    derive,
    flops_per_token,
    matrix_parameters,
    memory_bytes,
    parameters,
)
from nanolab.model_source import is_outside

PROBLEMS = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "mmlu": 14042,
    "gsm8k": 1319,
    "humaneval": 164,
}  # of the public test sets
EMBEDDED_PROBLEMS = 1000  # of each generated test set
GENERATED = ("gsm8k", "humaneval")
# tokens of a prompt and of an answer. Embedded: measured in the default study (vocabulary of 896). Public: word problems and programs as
# measured in experiments/results/local_real (vocabulary of 4,096); a larger vocabulary makes them shorter.
LENGTHS = {
    True: {
        "gsm8k": (46, 50),
        "humaneval": (33, 21),
        "arc_easy": (60, 16),
        "arc_challenge": (60, 16),
        "mmlu": (60, 16),
    },
    False: {
        "gsm8k": (95, 110),
        "humaneval": (150, 150),
        "arc_easy": (60, 4),
        "arc_challenge": (60, 4),
        "mmlu": (140, 4),
    },
}
CORE_POSITIONS = {
    True: 60,
    False: 600,
}  # token positions an example; public: bench_core's 10-shot examples, their common start read once
CORE_SMALL = (
    100,
    273,
    230,
    210,
    32,
)  # examples of the five public CORE tasks that have fewer than 500; 17 tasks have more
EMBEDDED_CORE = 6  # CORE tasks of the embedded world
CHARACTERS_PER_TOKEN = {True: 2.7, False: 4.0}
RECORD, CHAIN_RECORD = (
    500,
    16_000,
)  # bytes that an answer, and a problem of power sampling with all its chains, leave on the disk


@dataclass(frozen=True)
class Decoding:
    """Sequences that are generated side by side: `rows` of them, each `tokens` decoded one after the other after `prompt` positions."""

    rows: float
    tokens: float
    prompt: float
    length: int  # positions of the cache of a row at most


@dataclass
class Work:
    """What a step will do, all processes together; tokens count each time they are read, trained on or generated."""

    step: str
    parameters: int | None = None  # of its model; None for a tokenizer, or a model from outside
    tokens_read: float = 0.0
    tokens_trained: float = 0.0
    tokens_generated: float = 0.0
    training_flops: float = 0.0  # forward and backward
    reading_flops: float = 0.0  # forward only
    decoding_flops: float = 0.0
    characters: float = 0.0  # of a tokenizer's training and evaluation
    memory_bytes: float = 0.0  # of one process, without Python and torch themselves
    disk_bytes: float = 0.0  # what it leaves, and what it needs meanwhile
    decodings: list[Decoding] = field(default_factory=list)
    model: GPTConfig | None = None
    bytes_per_value: int = 4  # of weights and cache while sampling
    batch_rows: int = 1
    compiled: bool = False
    kind: str = ""  # whose measured speed is like its own: "tokenizer", "training", "chat training", "evaluation", "sampling"

    @property
    def flops(self) -> float:
        """Operations of the step."""
        return self.training_flops + self.reading_flops + self.decoding_flops


def study_work(
    study: StudyConfig, device: str = "cuda", processes: int | None = None
) -> list[Work]:
    """The work of each step of a study, in its order, on "cuda" or "cpu"; the report, which is a matter of seconds, is left out."""
    shares = processes or study.launch.nproc * study.launch.nnodes
    return [step_work(study, step, device, shares) for step in study.steps if step != "report"]


def step_work(study: StudyConfig, step: str, device: str, processes: int) -> Work:
    """The work of one step that `processes` share."""
    config = replace(study.stage(STEPS[step].stage), **STEPS[step].fixed)
    work = Work(
        step,
        kind={
            "base_train": "training",
            "mid_train": "chat training",
            "sft": "chat training",
            "base_loss": "evaluation",
            "base_eval": "evaluation",
        }.get(step, "evaluation" if step.startswith("chat_eval") else "sampling"),
    )
    if STEPS[step].stage == "tokenizer":
        return _tokenizer(work, study, config)
    if is_outside(getattr(config, "source", None)):
        return work  # its size is known only when it is loaded
    work.model = derive(study.base_train, study.tokenizer.vocab_size).model
    work.parameters = parameters(work.model)
    if step in ("base_train", "mid_train", "sft"):
        _training(work, study, config, device)
    elif step == "base_loss":
        _read(work, 2 * config.loss_tokens)
        work.memory_bytes = (
            4 * work.parameters
            + study.base_train.device_batch_size
            * work.model.sequence_length
            * work.model.width
            * 40
        )
    elif STEPS[step].stage in ("base_eval", "chat_eval"):
        _evaluation(work, study, config, "base" if step == "base_eval" else config.source)
    elif STEPS[step].stage == "rl":
        _reinforcement(work, study, config, device)
    else:
        _sampling(work, study, config, step == "power_ablation")
    if work.decodings:
        _finish_decoding(work, processes)
    return work


def _tokenizer(work: Work, study: StudyConfig, config: Any) -> Work:
    work.kind = "tokenizer"
    work.characters = (
        config.max_chars
        if work.step == "tok_train"
        else config.eval_chars + 3 * config.overlap_chars
    )
    work.tokens_read = work.characters / CHARACTERS_PER_TOKEN[study.data.source == "embedded"]
    work.disk_bytes = 40 * config.vocab_size if work.step == "tok_train" else 50_000
    work.memory_bytes = 8 * min(work.characters, 50_000_000)  # text is read in lots
    return work


def _training(work: Work, study: StudyConfig, config: Any, device: str) -> None:
    assert work.model is not None and work.parameters is not None
    scale = derive(study.base_train, study.tokenizer.vocab_size)
    steps = scale.steps if work.step == "base_train" else config.steps
    batch = scale.batch_size if work.step == "base_train" else config.batch_size or scale.batch_size
    work.tokens_trained = steps * batch * work.model.sequence_length
    work.training_flops = work.tokens_trained * flops_per_token(work.model)
    _read(work, config.eval_tokens * (math.ceil(steps / config.eval_every)))
    work.memory_bytes = training_memory(work.model, config.device_batch_size, device)
    text = work.tokens_trained * (1.0 if work.step == "base_train" else config.share_text)
    work.disk_bytes = (
        math.ceil(steps / config.checkpoint_every) * checkpoint_bytes(work.model) + 2 * text
    )
    work.compiled = config.compile


def training_memory(model: GPTConfig, device_batch_size: int, device: str) -> float:
    """Bytes of a training process; on a GPU attention keeps no probabilities for the backward pass."""
    kept = (
        device_batch_size
        * model.sequence_length
        * model.depth
        * (model.heads * model.sequence_length * 5 // 8)
        * 2
    )
    return memory_bytes(model, device_batch_size) - (kept if device == "cuda" else 0)


def checkpoint_bytes(model: GPTConfig) -> int:
    """Bytes of a checkpoint: float32 weights, Muon's momentum for the blocks, Adam's two moments for embedding and head."""
    ends = 2 * model.vocab_size * model.width
    blocks = matrix_parameters(model) - model.vocab_size * model.width
    return 4 * parameters(model) + 4 * blocks + 8 * ends


def _evaluation(work: Work, study: StudyConfig, config: Any, source: str) -> None:
    embedded, base = study.data.source == "embedded", source == "base"
    for task in config.tasks:
        count = problem_count(study, task, config.max_examples)
        prompt, answer = _lengths(study, task, config.num_shots if base else 0)
        if task in GENERATED:
            answers = getattr(config, "answers", 1)
            _decode(
                work,
                count * answers,
                min(answer, config.max_new_tokens),
                prompt / answers,
                prompt + config.max_new_tokens,
            )
        else:
            _read(work, count * (prompt + 4 * answer))
        work.disk_bytes += RECORD * count
    if base:
        public = [min(config.core_examples, size) for size in CORE_SMALL] + [
            config.core_examples
        ] * 17
        examples = EMBEDDED_CORE * config.core_examples if embedded else sum(public)
        _read(work, examples * CORE_POSITIONS[embedded])
        work.disk_bytes += 200 * examples
    work.batch_rows = config.batch_rows


def _sampling(work: Work, study: StudyConfig, config: Any, ablation: bool) -> None:
    """The methods of power_eval, or the grid of power_ablation with its baselines."""
    count = problem_count(study, config.task, config.max_examples)
    prompt, answer = _lengths(
        study, config.task, config.num_shots if config.source == "base" else 0
    )
    answer = min(answer, config.max_new_tokens)
    length = prompt + config.max_new_tokens
    samples = max(config.best_of) if ablation else config.best_of
    for tokens, rows in (
        (answer, 2),
        (answer, samples),
    ):  # greedy and a low temperature; the samples share their prompt
        _decode(work, count * rows, tokens, prompt if rows == 2 else prompt / rows, length)
    if ablation:
        for point in grid.expand(config.grid, config):
            if point["sampler"] == "power":
                tokens = chain_tokens(
                    answer, max(config.num_steps), point["restart_prob"], point["num_blocks"]
                )
                _decode(work, count, tokens, prompt, length)
            elif point["sampler"] == "smc":
                _decode(
                    work, count * point["particles"], answer, prompt / point["particles"], length
                )
            else:
                weighed = 1 + point["candidates"] * point["rollouts"] * min(
                    point["horizon"], answer / 2
                )
                _decode(work, count, answer * weighed, prompt, length)
    else:
        _decode(
            work,
            count * config.chains,
            chain_tokens(answer, config.num_steps, config.restart_prob, config.num_blocks),
            prompt,
            length,
        )
        if config.particles:
            _decode(work, count * config.particles, answer, prompt / config.particles, length)
    work.batch_rows, work.bytes_per_value = (
        config.batch_rows,
        2 if config.dtype == "bfloat16" else 4,
    )
    work.disk_bytes = count * (
        RECORD * len(work.decodings) if ablation else CHAIN_RECORD * config.chains
    )


def chain_tokens(answer: float, steps: int, restart_prob: float, blocks: int) -> float:
    """Tokens that a chain decodes: its first state, then a proposal a step, half of what is there or (a restart) all of it.

    Early rejections, which save 3 to 21%, are not counted.
    """
    proposal = (
        (1 + restart_prob) / 2 * (blocks + 1) / (2 * blocks)
    )  # of the answer; earlier blocks are shorter
    return answer * (1 + steps * blocks * proposal)


def _reinforcement(work: Work, study: StudyConfig, config: Any, device: str) -> None:
    assert work.model is not None and work.parameters is not None
    prompt, answer = _lengths(study, "gsm8k", 0)
    answer = min(answer, config.max_new_tokens)
    rollouts = config.steps * config.problems_per_step * config.group_size
    _decode(work, rollouts, answer, prompt / config.group_size, prompt + config.max_new_tokens)
    _decode(
        work,
        4 * problem_count(study, "gsm8k", config.max_examples),
        answer,
        prompt,
        prompt + config.max_new_tokens,
    )
    work.tokens_trained = rollouts * (prompt + answer)
    work.training_flops = work.tokens_trained * flops_per_token(work.model)
    work.batch_rows = config.batch_rows
    rows = max(
        1, config.device_batch_size * (prompt + config.max_new_tokens) // work.model.sequence_length
    )
    work.memory_bytes = training_memory(work.model, rows, device)
    work.disk_bytes = math.ceil(config.steps / config.checkpoint_every) * checkpoint_bytes(
        work.model
    )


def problem_count(study: StudyConfig, task: str, wanted: int | None) -> int:
    """Problems of a task's test set, at most `wanted`."""
    have = EMBEDDED_PROBLEMS if study.data.source == "embedded" else PROBLEMS[task]
    return have if wanted is None else min(wanted, have)


def _lengths(study: StudyConfig, task: str, shots: int) -> tuple[int, int]:
    """Tokens of a prompt with its solved examples, cut to the context, and of an answer."""
    prompt, answer = LENGTHS[study.data.source == "embedded"][task]
    return min(prompt + shots * (prompt + answer) // 2, study.base_train.sequence_length), answer


def _read(work: Work, tokens: float) -> None:
    assert work.model is not None
    work.tokens_read += tokens
    work.reading_flops += tokens * flops_per_token(work.model) / 3


def _decode(work: Work, rows: float, tokens: float, prompt: float, length: int) -> None:
    assert work.model is not None
    work.decodings.append(Decoding(rows, tokens, prompt, length))
    work.tokens_generated += rows * tokens
    work.decoding_flops += rows * tokens * flops_per_token(work.model) / 3
    _read(work, rows * prompt)


def _finish_decoding(work: Work, processes: int) -> None:
    """The weights and the cache of as many rows as are decoded at once."""
    assert work.model is not None and work.parameters is not None
    rows = max(min(work.batch_rows, one.rows / processes) * one.length for one in work.decodings)
    work.memory_bytes = max(
        work.memory_bytes, work.parameters * work.bytes_per_value + rows * cache_bytes(work)
    )


def cache_bytes(work: Work) -> int:
    """Bytes of keys and values of one position."""
    assert work.model is not None
    return (
        2
        * work.model.depth
        * work.model.kv_heads
        * (work.model.width // work.model.heads)
        * work.bytes_per_value
    )
