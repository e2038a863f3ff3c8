"""The configuration of a study: one strict, frozen class per stage, the step table.

Every field has a default, a unit in its description and, where it matters, a range. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanolab.schema import setting

ROOT = (
    Path(__file__).resolve().parent.parent
)  # the repository root: every relative path starts here


Source = str  # a key of SOURCE_STEPS, or hf:NAME-or-folder (model_source.py); anything else is refused in experiment.py
Dtype = Literal["auto", "float32", "bfloat16"]
PowerTask = Literal["gsm8k", "humaneval"]
CHAT_TASKS = ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"]


@dataclass(frozen=True)
class DataConfig:
    """Where text, chats and tasks come from."""

    source: Literal["embedded", "local", "hub"] = setting(
        "embedded", "embedded: generated; local: a folder; hub: the published sets"
    )
    root: str | None = setting(
        None, "folder of the local source; when missing, the variable NANOLAB_DATA supplies it"
    )
    seed: int = setting(0, "seed of the embedded world", minimum=0)
    choice_answers: Literal["letter", "line"] = setting(
        "line", "a choice is answered by its letter, or by its whole line (trout=B)"
    )
    row_order: Literal["packed", "shuffled"] = setting(
        "packed", "conversations within a row: as packed (short first), or shuffled"
    )
    short_guesses: float = setting(
        0.0, "share of embedded training solutions that are a bare guess", minimum=0, maximum=1
    )
    rambling_guesses: float = setting(
        0.0, "share of them that draw two random numbers, then guess", minimum=0, maximum=1
    )
    wordy_steps: float = setting(
        0.0, "share of their worked steps with one of 16 idle words", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class LaunchConfig:
    """How a stage's processes are started."""

    nproc: int = setting(1, "processes on this machine; above 1 through torchrun", minimum=1)
    nnodes: int = setting(1, "machines", minimum=1)
    node_rank: int = setting(0, "number of this machine", minimum=0)
    rdzv_endpoint: str | None = setting(None, "host:port of machine 0 when nnodes is above 1")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device of every process")
    threads: int | None = setting(
        None, "CPU threads a process; null: cores divided by nproc", minimum=1
    )


@dataclass(frozen=True)
class TokenizerConfig:
    """Steps tok_train and tok_eval."""

    vocab_size: int = setting(896, "tokens, special ones included", minimum=265)
    max_chars: int = setting(2_000_000, "characters of training text read", minimum=1)
    eval_chars: int = setting(200_000, "held-out characters evaluated", minimum=1)
    overlap_chars: int = setting(
        2_000_000,
        "characters of each training corpus compared with the benchmarks; 0: none",
        minimum=0,
    )


@dataclass(frozen=True)
class BaseTrainConfig:
    """Step base_train. A null value is derived from depth by model/scaling.py."""

    depth: int = setting(4, "layers; the one dial", minimum=1)
    width: int | None = setting(None, "residual width", minimum=8)
    heads: int | None = setting(None, "query heads", minimum=1)
    kv_heads: int | None = setting(None, "key and value heads", minimum=1)
    sequence_length: int = setting(256, "tokens a row", minimum=8)
    steps: int | None = setting(300, "optimizer steps; null: from tokens_per_parameter", minimum=1)
    tokens_per_parameter: float | None = setting(
        None, "horizon in tokens per matrix parameter; give this or steps", above=0
    )
    batch_size: int | None = setting(
        16, "sequences an optimizer step, over all processes", minimum=1
    )
    device_batch_size: int = setting(16, "sequences a process forwards at once", minimum=1)
    matrix_lr: float | None = setting(None, "Muon learning rate", above=0)
    embedding_lr: float | None = setting(
        None, "AdamW learning rate of the token embedding", above=0
    )
    head_lr: float | None = setting(None, "AdamW learning rate of the output head", above=0)
    weight_decay: float = setting(0.0, "weight decay of the matrices", minimum=0)
    warmup_steps: int = setting(10, "optimizer steps of linear warm-up", minimum=0)
    decay_share: float = setting(
        0.5, "final share of the steps with linear decay", minimum=0, maximum=1
    )
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    compile: bool = setting(False, "compile the model with torch.compile")
    eval_every: int = setting(50, "optimizer steps between validations", minimum=1)
    eval_tokens: int = setting(8_192, "validation tokens each time", minimum=1)
    checkpoint_every: int = setting(100, "optimizer steps between checkpoints", minimum=1)


@dataclass(frozen=True)
class BaseEvalConfig:
    """Steps base_loss and base_eval."""

    model_tag: str = setting("default", "default: this study; else another study of the same store")
    step: int | None = setting(None, "checkpoint step; null: the finished one", minimum=0)
    loss_tokens: int = setting(12_288, "tokens of each split for bits per byte", minimum=1)
    core_examples: int | None = setting(100, "examples a CORE task; null: all", minimum=1)
    tasks: list[str] = setting(CHAT_TASKS, "chat tasks asked in plain text")
    max_examples: int | None = setting(200, "problems a chat task; null: all", minimum=1)
    num_shots: int = setting(2, "solved examples before each question", minimum=0)
    max_new_tokens: int = setting(128, "tokens generated at most", minimum=1)
    num_samples: int = setting(4, "generated samples shown", minimum=0)
    batch_rows: int = setting(64, "rows decoded at once", minimum=1)
    tool_timeout: float = setting(5.0, "seconds a tool call or test program may run", above=0)
    tool_max_output_tokens: int = setting(128, "tokens of tool output kept", minimum=1)
    seed: int = setting(0, "sampling seed of this stage", minimum=0)


@dataclass(frozen=True)
class MidTrainConfig:
    """Step mid_train: chat format, tool use and multiple choice."""

    steps: int = setting(350, "optimizer steps", minimum=1)
    batch_size: int | None = setting(
        None, "sequences an optimizer step; null: the base model's", minimum=1
    )
    device_batch_size: int = setting(16, "sequences a process forwards at once", minimum=1)
    learning_rate_scale: float = setting(
        1.0, "learning rates as a multiple of base training's", above=0
    )
    warmup_steps: int = setting(5, "optimizer steps of linear warm-up", minimum=0)
    decay_share: float = setting(
        0.5, "final share of the steps with linear decay", minimum=0, maximum=1
    )
    share_text: float = setting(0.05, "share of rows of pretraining text", minimum=0, maximum=1)
    share_chats: float = setting(0.1, "share of conversations that are chats", minimum=0, maximum=1)
    share_problems: float = setting(
        0.35, "share of conversations that are word problems with tools", minimum=0, maximum=1
    )
    share_choices: float = setting(
        0.35, "share of conversations that are multiple choice", minimum=0, maximum=1
    )
    share_programs: float = setting(
        0.15, "share of conversations that are Python functions", minimum=0, maximum=1
    )
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    compile: bool = setting(False, "compile the model with torch.compile")
    eval_every: int = setting(50, "optimizer steps between validations", minimum=1)
    eval_tokens: int = setting(8_192, "validation tokens each time", minimum=1)
    checkpoint_every: int = setting(100, "optimizer steps between checkpoints", minimum=1)


@dataclass(frozen=True)
class SftConfig(MidTrainConfig):
    """Step sft: loss on the assistant's tokens only, one conversation after another."""

    steps: int = setting(500, "optimizer steps", minimum=1)
    share_text: float = setting(0.0, "share of rows of pretraining text", minimum=0, maximum=1)
    share_choices: float = setting(
        0.42, "share of conversations that are multiple choice", minimum=0, maximum=1
    )
    share_programs: float = setting(
        0.13, "share of conversations that are Python functions", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class ModelChoice:
    """Which checkpoint a stage works on."""

    source: Source = setting("sft", "the model evaluated, sampled or trained further")
    model_tag: str = setting("default", "default: this study; else another study of the same store")
    step: int | None = setting(None, "checkpoint step; null: the finished one", minimum=0)


@dataclass(frozen=True)
class ChatEvalConfig(ModelChoice):
    """Steps chat_eval_mid, chat_eval_sft and chat_eval_rl."""

    tasks: list[str] = setting(CHAT_TASKS, "tasks evaluated")
    max_examples: int | None = setting(200, "problems a task; null: all", minimum=1)
    temperature: float = setting(0.0, "sampling temperature; 0 is greedy", minimum=0)
    top_k: int | None = setting(None, "tokens kept by the proposal; null: all", minimum=1)
    answers: int = setting(
        1, "answers drawn for each generated problem; above 1 also pass@k", minimum=1
    )
    max_new_tokens: int = setting(128, "tokens generated at most", minimum=1)
    num_samples: int = setting(4, "generated samples shown", minimum=0)
    batch_rows: int = setting(64, "rows decoded at once", minimum=1)
    tool_timeout: float = setting(5.0, "seconds a tool call or test program may run", above=0)
    tool_max_output_tokens: int = setting(128, "tokens of tool output kept", minimum=1)
    seed: int = setting(0, "sampling seed of this stage", minimum=0)


@dataclass(frozen=True)
class PowerEvalConfig(ModelChoice):
    """Step power_eval: Metropolis-Hastings on p^alpha beside the baselines, on the same problems."""

    alpha: float = setting(4.0, "exponent of the target p^alpha", minimum=1)
    num_steps: int = setting(10, "Metropolis-Hastings steps a block", minimum=0)
    temperature: float = setting(0.7, "temperature of the proposal", above=0)
    top_k: int | None = setting(50, "tokens kept by the proposal; null: all", minimum=1)
    max_new_tokens: int = setting(
        256, "tokens of a completion at most, forced ones included", minimum=1
    )
    seed: int = setting(0, "sampling seed of this stage", minimum=0)
    tool_timeout: float = setting(
        5.0, "seconds a tool may run (the calculator ends by its own step limits)", above=0
    )
    tool_max_output_tokens: int = setting(128, "tokens of tool output kept", minimum=1)
    max_examples: int | None = setting(400, "problems; null: all", minimum=1)
    subset: str = setting("main", "GSM8K config")
    split: str = setting("test", "GSM8K split")
    restart_prob: float = setting(
        0.5, "share of cuts at the first model token", minimum=0, maximum=1
    )
    num_blocks: int = setting(1, "blocks of the schedule", minimum=1)
    task: PowerTask = setting("gsm8k", "task that is answered: any that generates")
    chains: int = setting(
        1, "independent chains a problem; their answers vote, and R-hat compares them", minimum=1
    )
    best_of: int = setting(11, "samples of best-of-n and majority vote", minimum=1)
    low_temperature: float = setting(0.25, "temperature of the low-temperature baseline", above=0)
    particles: int = setting(
        0, "particles of sequential Monte Carlo beside it; 0: left out", minimum=0
    )
    num_shots: int = setting(
        2, "solved examples before each question where a base model is asked", minimum=0
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "of the weights and the cache while sampling"
    )
    batch_rows: int = setting(64, "rows decoded at once", minimum=1)


@dataclass(frozen=True)
class PowerAblationConfig(ModelChoice):
    """Step power_ablation: a grid of power-sampling settings, each point a grandchild run."""

    grid: list[dict[str, list[Any]]] = setting(
        [
            {"alpha": [1.0, 2.0, 4.0, 8.0], "temperature": [0.7]},
            {"alpha": [4.0], "temperature": [0.25, 1.0]},
            {"sampler": ["smc"], "alpha": [4.0], "temperature": [0.7], "particles": [4, 16]},
        ],
        "products of values, joined; sampler power, smc or rollout (nanolab/grid.py)",
    )
    num_steps: list[int] = setting([0, 2, 5, 10], "steps at which each trajectory is read")
    top_k: int | None = setting(50, "tokens kept by the proposal; null: all", minimum=1)
    max_new_tokens: int = setting(
        256, "tokens of a completion at most, forced ones included", minimum=1
    )
    seed: int = setting(0, "sampling seed of this stage", minimum=0)
    tool_timeout: float = setting(
        5.0, "seconds a tool may run (the calculator ends by its own step limits)", above=0
    )
    tool_max_output_tokens: int = setting(128, "tokens of tool output kept", minimum=1)
    max_examples: int | None = setting(100, "problems a point; null: all", minimum=1)
    subset: str = setting("main", "GSM8K config")
    split: str = setting("test", "GSM8K split")
    restart_prob: float = setting(
        0.5, "share of cuts at the first model token", minimum=0, maximum=1
    )
    num_blocks: int = setting(1, "blocks of the schedule", minimum=1)
    task: PowerTask = setting("gsm8k", "task that is answered: any that generates")
    ess_threshold: float = setting(
        0.5, "resample when the effective particles are below this share", minimum=0, maximum=1
    )
    particles: int = setting(16, "particles of sequential Monte Carlo", minimum=1)
    ramp_tokens: int = setting(
        0, "tokens over which the exponent of sequential Monte Carlo rises to alpha", minimum=0
    )
    candidates: int = setting(
        4, "tokens weighed at each position of the rollout sampler", minimum=1
    )
    rollouts: int = setting(4, "futures drawn for each of them", minimum=1)
    horizon: int = setting(16, "tokens of a future at most", minimum=1)
    best_of: list[int] = setting(
        [1, 2, 4, 8], "sample counts of the best-of-n and majority baselines"
    )
    num_shots: int = setting(
        2, "solved examples before each question where a base model is asked", minimum=0
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "of the weights and the cache while sampling"
    )
    batch_rows: int = setting(64, "rows decoded at once", minimum=1)


@dataclass(frozen=True)
class RlConfig(ModelChoice):
    """Step rl: GRPO on the word problems with tools, on-policy, group-mean baseline, no KL term."""

    steps: int = setting(30, "policy updates", minimum=1)
    problems_per_step: int = setting(12, "problems an update", minimum=1)
    group_size: int = setting(8, "rollouts a problem", minimum=2)
    temperature: float = setting(1.0, "sampling temperature of the rollouts", above=0)
    max_new_tokens: int = setting(128, "tokens generated at most", minimum=1)
    learning_rate_scale: float = setting(
        0.1, "learning rates as a multiple of base training's", above=0
    )
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    device_batch_size: int = setting(
        32, "rollouts a process forwards at once in the update", minimum=1
    )
    batch_rows: int = setting(96, "rows decoded at once", minimum=1)
    checkpoint_every: int = setting(20, "policy updates between checkpoints", minimum=1)
    max_examples: int | None = setting(
        200, "test problems of the comparison before and after; null: all", minimum=1
    )
    tool_timeout: float = setting(
        5.0, "seconds a tool may run (the calculator ends by its own step limits)", above=0
    )
    tool_max_output_tokens: int = setting(128, "tokens of tool output kept", minimum=1)
    seed: int = setting(0, "sampling seed of this stage", minimum=0)


@dataclass(frozen=True)
class ReportConfig:
    """Step report."""

    title: str = setting("nanolab training report", "first line of the report")


@dataclass(frozen=True)
class StepSpec:
    """One step: its stage, the module that runs it, its notebook, fixed parameters and the steps it reads."""

    stage: str
    notebook: str
    inputs: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    module: str = ""  # nanolab.stages.<module>; empty: the step's own name


STAGES: dict[str, type] = {
    "tokenizer": TokenizerConfig,
    "base_train": BaseTrainConfig,
    "base_eval": BaseEvalConfig,
    "mid_train": MidTrainConfig,
    "chat_eval": ChatEvalConfig,
    "sft": SftConfig,
    "power_eval": PowerEvalConfig,
    "power_ablation": PowerAblationConfig,
    "rl": RlConfig,
    "report": ReportConfig,
}

STEPS: dict[
    str, StepSpec
] = {  # in the order of a run; inputs of steps with a `source` field follow it (pipeline.py)
    "tok_train": StepSpec("tokenizer", "01_tokenizer"),
    "tok_eval": StepSpec("tokenizer", "01_tokenizer", ("tok_train",)),
    "base_train": StepSpec("base_train", "02_base_train", ("tok_train",)),
    "base_loss": StepSpec("base_eval", "03_base_eval", ("tok_train", "base_train")),
    "base_eval": StepSpec("base_eval", "03_base_eval", ("tok_train", "base_train")),
    "mid_train": StepSpec("mid_train", "04_mid_train", ("tok_train", "base_train")),
    "chat_eval_mid": StepSpec(
        "chat_eval", "05_chat_eval", ("tok_train",), {"source": "mid"}, "chat_eval"
    ),
    "sft": StepSpec("sft", "06_sft", ("tok_train", "mid_train")),
    "chat_eval_sft": StepSpec(
        "chat_eval", "05_chat_eval", ("tok_train",), {"source": "sft"}, "chat_eval"
    ),
    "power_eval": StepSpec("power_eval", "07_power_eval", ("tok_train",)),
    **{
        f"power_eval_{source}": StepSpec(
            "power_eval", "07_power_eval", ("tok_train",), {"source": source}, "power_eval"
        )
        for source in ("base", "mid", "rl")
    },
    "power_eval_code": StepSpec(
        "power_eval", "07_power_eval", ("tok_train",), {"task": "humaneval"}, "power_eval"
    ),
    "power_ablation": StepSpec("power_ablation", "08_power_ablation", ("tok_train",)),
    "rl": StepSpec("rl", "09_rl", ("tok_train",)),
    "chat_eval_rl": StepSpec(
        "chat_eval", "05_chat_eval", ("tok_train",), {"source": "rl"}, "chat_eval"
    ),
    "chat_eval_hf": StepSpec(
        "chat_eval", "05_chat_eval", (), {}, "chat_eval"
    ),  # of chat_eval.source = hf:..., and of no other
    "report": StepSpec("report", "10_report"),
}

SOURCE_STEPS = {
    "base": "base_train",
    "mid": "mid_train",
    "sft": "sft",
    "rl": "rl",
}  # which step makes which model


@dataclass(frozen=True)
class StudyConfig:
    """A whole study, as its YAML file states it."""

    experiment: str = setting("smoke", "name of the study: its MLflow experiment and its folder")
    description: str = setting("", "one sentence for the people who read the runs")
    seed: int = setting(0, "seed of initialisation and data order", minimum=0)
    seeds: list[int] = setting(
        [], "run the whole study once for each of these seeds; empty: for seed alone"
    )
    data: DataConfig = field(default_factory=DataConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    hourly_rates: dict[str, float] = setting(
        {"H100": 3.0, "H200": 3.8, "A100": 1.8},
        "dollars an hour of one device, by part of its name",
    )
    steps: list[str] = setting(
        [name for name in STEPS if not name.startswith(("power_eval_", "chat_eval_hf"))],
        "steps of a run, in order",
    )
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    base_train: BaseTrainConfig = field(default_factory=BaseTrainConfig)
    base_eval: BaseEvalConfig = field(default_factory=BaseEvalConfig)
    mid_train: MidTrainConfig = field(default_factory=MidTrainConfig)
    chat_eval: ChatEvalConfig = field(default_factory=ChatEvalConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    power_eval: PowerEvalConfig = field(default_factory=PowerEvalConfig)
    power_ablation: PowerAblationConfig = field(default_factory=PowerAblationConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def stage(self, name: str) -> Any:
        """The config of stage `name`."""
        return getattr(self, name)


@dataclass(frozen=True)
class Job:
    """What a launched stage process needs to know; written to job.json in the step's work folder."""

    step: str
    study: StudyConfig
    config: Any  # the stage's config class, final
    folder: Path  # the step's work folder, absolute
    inputs: dict[str, Path]  # finished steps it reads: step name -> work folder
