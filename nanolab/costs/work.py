"""What each step of a study will do, counted from its settings: tokens, operations, memory and
disk. Imports no torch.

Training is exact; evaluation and sampling of a model trained here take the typical lengths of
prompts and answers in the table of tasks, for the true ones are known only once a study has run. A
model from outside is taken to fill `max_new_tokens` with every answer, and no proposal to be given
up early: an upper bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nanolab.costs.shapes import Shape, shape_of
from nanolab.data.tasks.catalogue import TASKS
from nanolab.model import scaling
from nanolab.model.scaling import GPTConfig, derive
from nanolab.settings import grid
from nanolab.settings.config import STEPS, StudyConfig, asked_examples
from nanolab.settings.model_source import is_outside

EMBEDDED_PROBLEMS = 1000  # of each generated test set
# rows of the CORE tasks: embedded, public
EMBEDDED_CORE = (120, 120, 120, 120, 60, 120)
PUBLIC_CORE = (
    *(10042, 2117, 20321, 2376, 1172, 100, 1221, 1838, 500, 5153, 10042),
    *(273, 1267, 1000, 230, 1320, 210, 32, 10570, 7983, 3270, 10000),
)
# token positions of an example; public ones have 10 shots, read once for all
CORE_POSITIONS = (60, 600)
CHARACTERS_PER_TOKEN = (2.7, 4.0)
# positions that vLLM forwards again at a cut: half of a block of its cache on a CPU
REFORWARDED = 16
# bytes that an answer, and a problem of power sampling with all its chains, leave on the disk
RECORD, CHAIN_RECORD = 500, 16_000


@dataclass(frozen=True)
class Decoding:
    """Sequences that are generated side by side."""

    rows: float
    tokens: float  # of each, one after the other
    length: int  # positions of the cache of a row at most


@dataclass
class Work:
    """What a step will do, all processes together; tokens count each time they are read, trained on
    or generated.
    """

    study: StudyConfig
    step: str
    config: Any  # of the step
    kind: str  # whose measured speed is like its own: training, sampling, ...
    device: str
    model: GPTConfig | None = None  # None for a tokenizer, and for ...
    outside: Shape | None = None  # ... a model from outside; both None where nothing is known of it
    tokens_read: float = 0.0
    tokens_trained: float = 0.0
    tokens_generated: float = 0.0
    characters: float = 0.0  # of a tokenizer's training and evaluation
    memory_bytes: float = 0.0  # of one process, without Python and torch themselves
    disk_bytes: float = 0.0  # what it leaves, and what it needs meanwhile
    decodings: list[Decoding] = field(default_factory=list)
    bytes_per_value: int = 4  # of weights and cache while sampling

    @property
    def public(self) -> bool:
        """Public data, no embedded world: which of two numbers in the tables above counts."""
        return self.study.data.source != "embedded"

    @property
    def width(self) -> int:
        """Of the model; 0 without one."""
        of = self.model or self.outside
        return of.width if of else 0

    @property
    def engine(self) -> str:
        """What decodes a model from outside: nanolab (through transformers) or vllm."""
        return getattr(self.config, "engine", "nanolab")

    @property
    def context(self) -> int:
        """Tokens of a row at most."""
        return self.outside.context if self.outside else self.study.base_train.sequence_length

    @property
    def parameters(self) -> int | None:
        """Of the model."""
        if self.outside:
            return self.outside.parameters
        return scaling.parameters(self.model) if self.model else None

    @property
    def forward_flops(self) -> float:
        """Operations on one token; with its gradients they are three times as many."""
        if self.outside:
            longest = max((one.length for one in self.decodings), default=CORE_POSITIONS[1])
            return self.outside.forward_flops(longest)
        return scaling.flops_per_token(self.model) / 3 if self.model else 0.0

    @property
    def flops(self) -> float:
        """Operations of the step."""
        passes = 3 * self.tokens_trained + self.tokens_read + self.tokens_generated
        return self.forward_flops * passes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of one position."""
        model = self.model
        if self.outside:
            return self.outside.cache_values * self.bytes_per_value
        return 2 * model.depth * model.kv_heads * model.head_dim * self.bytes_per_value

    def decode(self, rows: float, tokens: float, prompt: float, length: int) -> None:
        """Counts a `Decoding`, with its prompts."""
        self.decodings.append(Decoding(rows, tokens, length))
        self.tokens_generated += rows * tokens
        self.tokens_read += rows * prompt

    def problems(self, task: str, wanted: int | None) -> int:
        """Problems of a task's test set, at most `wanted`."""
        have = TASKS[task].problems if self.public else EMBEDDED_PROBLEMS
        return have if wanted is None else min(wanted, have)

    def lengths(self, task: str, shots: int = 0) -> tuple[int, int, int]:
        """Tokens of a prompt with its solved examples, cut to the context, of an answer, and of
        both at most.
        """
        of, longest = TASKS[task], self.config.max_new_tokens
        prompt, answer = (None if self.public else of.embedded_tokens) or of.public_tokens
        prompt = min(prompt + shots * (prompt + answer) // 2, self.context)
        if self.outside and of.generates:
            return prompt, longest, prompt + longest
        return prompt, min(answer, longest) if of.generates else answer, prompt + longest


def step_work(study: StudyConfig, step: str, device: str, processes: int) -> Work:
    """The work of one step that `processes` share, on "cuda" or "cpu"."""
    stage = STEPS[step].stage
    config = replace(study.stage(stage), **STEPS[step].fixed)
    kind, count = ("evaluation", _losses) if step == "base_loss" else COUNTED[stage]
    work = Work(study, step, config, kind, device)
    if is_outside(source := getattr(config, "source", None)):
        work.outside = shape_of(source)
        if work.outside is None:
            return work  # its size is known only when it is loaded
        work.kind = f"{kind} through {work.engine}"
    elif stage != "tokenizer":
        work.model = derive(study.base_train, study.tokenizer.vocab_size).model
    if stage != "rl" and getattr(config, "dtype", "") == "bfloat16":
        work.bytes_per_value = 2  # of what only answers; training holds float32
    count(work, config)
    if work.outside:
        work.memory_bytes = max(work.memory_bytes, work.parameters * work.bytes_per_value)
    if work.decodings:  # the weights, and the cache of as many rows as are decoded at once
        rows = max(
            min(config.batch_rows, one.rows / processes) * one.length for one in work.decodings
        )
        sampling = work.parameters * work.bytes_per_value + rows * work.cache_bytes
        work.memory_bytes = max(work.memory_bytes, sampling)
    return work


def _tokenizer(work: Work, config: Any) -> None:
    trains = work.step == "tok_train"
    read = config.max_chars if trains else config.eval_chars + 3 * config.overlap_chars
    work.characters = read
    work.tokens_read = read / CHARACTERS_PER_TOKEN[work.public]
    work.disk_bytes = 40 * config.vocab_size if trains else 50_000
    work.memory_bytes = 8 * min(read, 50_000_000)  # text is read in lots


def _training(work: Work, config: Any) -> None:
    base, model = work.step == "base_train", work.model
    scale = derive(work.study.base_train, model.vocab_size)
    steps = scale.steps if base else config.steps
    batch = scale.batch_size if base else config.batch_size or scale.batch_size
    work.tokens_trained = steps * batch * model.sequence_length
    work.tokens_read = config.eval_tokens * math.ceil(steps / config.eval_every)
    work.memory_bytes = scaling.memory_bytes(model, config.device_batch_size, work.device)
    text = work.tokens_trained * (1.0 if base else config.share_text)
    checkpoints = math.ceil(steps / config.checkpoint_every)
    work.disk_bytes = checkpoints * checkpoint_bytes(model) + 2 * text


def checkpoint_bytes(model: GPTConfig) -> int:
    """Bytes of a checkpoint: float32 weights, Muon's momentum for the blocks, Adam's two moments
    for embedding and head.
    """
    ends = 2 * model.vocab_size * model.width
    return 8 * scaling.parameters(model) + 4 * ends


def _losses(work: Work, config: Any) -> None:
    work.tokens_read = 2 * config.loss_tokens
    base = work.study.base_train
    positions = base.device_batch_size * base.sequence_length
    work.memory_bytes = 4 * work.parameters + positions * work.width * 40


def _evaluation(work: Work, config: Any) -> None:
    base = work.step == "base_eval" or config.source == "base"
    for task in config.tasks:
        count = work.problems(task, asked_examples(config, task))
        prompt, answer, length = work.lengths(task, config.num_shots if base else 0)
        if TASKS[task].generates:
            answers = getattr(config, "answers", 1)
            work.decode(count * answers, answer, prompt / answers, length)
        else:
            work.tokens_read += count * (prompt + 4 * answer)
        work.disk_bytes += RECORD * count
    if base:
        sizes = PUBLIC_CORE if work.public else EMBEDDED_CORE
        named = getattr(config, "core_tasks", None)
        if named is not None:  # counted as the largest are
            sizes = sorted(sizes, reverse=True)[: len(named)]
        examples = sum(min(size, config.core_examples or size) for size in sizes)
        work.tokens_read += examples * CORE_POSITIONS[work.public]
        work.disk_bytes += 200 * examples


def _sampling(work: Work, config: Any) -> None:
    ablation = work.step == "power_ablation"
    count = work.problems(config.task, config.max_examples)
    shots = config.num_shots if config.source == "base" else 0
    prompt, answer, length = work.lengths(config.task, shots)

    def population(size: int) -> None:  # answers to the same prompt, which is read once
        work.decode(count * size, answer, prompt / size, length)

    def chains(size: int, steps: int, restart_prob: float, num_blocks: int) -> None:
        tokens = chain_tokens(answer, steps, restart_prob, num_blocks)
        again = steps * num_blocks * REFORWARDED if work.engine == "vllm" else 0
        work.decode(count * size, tokens, prompt + again, length)

    work.decode(2 * count, answer, prompt, length)  # greedy, and a low temperature
    population(max(config.best_of) if ablation else config.best_of)
    if not ablation:
        chains(config.chains, config.num_steps, config.restart_prob, config.num_blocks)
        if config.particles:
            population(config.particles)
    for point in grid.expand(config.grid, config) if ablation else ():
        if point["sampler"] == "power":
            chains(1, max(config.num_steps), point["restart_prob"], point["num_blocks"])
        elif point["sampler"] == "smc":
            population(point["particles"])
        else:
            looks_ahead = min(point["horizon"], answer / 2)
            weighed = 1 + point["candidates"] * point["rollouts"] * looks_ahead
            work.decode(count, answer * weighed, prompt, length)
    records = RECORD * len(work.decodings) if ablation else CHAIN_RECORD * config.chains
    work.disk_bytes = count * records


def chain_tokens(answer: float, steps: int, restart_prob: float, blocks: int) -> float:
    """Tokens that a chain decodes: its first state, then a proposal a step, half of what is there
    or (a restart) all of it.

    Early rejections, which save 3 to 21%, are not counted.
    """
    # share of the answer; earlier blocks are shorter
    proposal = (1 + restart_prob) / 2 * (blocks + 1) / (2 * blocks)
    return answer * (1 + steps * blocks * proposal)


def _reinforcement(work: Work, config: Any) -> None:
    prompt, answer, length = work.lengths("gsm8k")
    rollouts = config.steps * config.problems_per_step * config.group_size
    work.decode(rollouts, answer, prompt / config.group_size, length)
    work.decode(4 * work.problems("gsm8k", config.max_examples), answer, prompt, length)
    work.tokens_trained = rollouts * (prompt + answer)
    rows = max(1, config.device_batch_size * length // work.model.sequence_length)
    work.memory_bytes = scaling.memory_bytes(work.model, rows, work.device)
    checkpoints = math.ceil(config.steps / config.checkpoint_every)
    work.disk_bytes = checkpoints * checkpoint_bytes(work.model)


# of each stage: the kind of work, and what counts it
COUNTED: dict[str, tuple[str, Callable[[Work, Any], None]]] = {
    "tokenizer": ("tokenizer", _tokenizer),
    "base_train": ("training", _training),
    "mid_train": ("chat training", _training),
    "sft": ("chat training", _training),
    "base_eval": ("evaluation", _evaluation),
    "chat_eval": ("evaluation", _evaluation),
    "power_eval": ("sampling", _sampling),
    "power_ablation": ("sampling", _sampling),
    "rl": ("sampling", _reinforcement),
}
