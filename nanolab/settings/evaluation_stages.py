"""The settings of the stages that ask a trained model: evaluation, power sampling, and
reinforcement learning. Imports no torch.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nanolab.data.tasks.catalogue import TASKS
from nanolab.errors import UserError
from nanolab.settings import grid
from nanolab.settings.kinds import (
    Alpha,
    Count,
    Distinct,
    Name,
    Natural,
    NotNegative,
    Positive,
    Range,
    Seconds,
    Several,
    Share,
    Temperature,
    Text,
    check_blocks,
    range_of,
)
from nanolab.settings.model_source import FORMS, SOURCE_STEPS, check_outside, is_outside
from nanolab.settings.schema import Settings, setting
from nanolab.settings.training_stages import Dtype
from nanolab.settings.vllm_options import VLLMValues

Task = Literal[*TASKS]
CHAT_TASKS: list[str] = [name for name, task in TASKS.items() if task.usual]
PowerTask = Literal[*(name for name, task in TASKS.items() if task.generates)]
SamplingDtype = Literal["float32", "bfloat16"]
ChoiceForm = Literal["letter", "line", "continuation"]
GroupSize = Annotated[int, Range(minimum=2)]


@dataclass(frozen=True)
class Asked(Settings):
    """Which checkpoint answers, and how its answers are generated."""

    model_tag: Name = setting(
        "default", "default: this study; else another study of the same store"
    )
    step: Natural | None = setting(None, "checkpoint step; null: the finished one")
    max_new_tokens: Count = setting(128, "tokens generated at most, forced ones included")
    batch_rows: Count = setting(64, "rows decoded at once")
    tool_timeout: Seconds = setting(5.0, "seconds a tool call or test program may run")
    tool_max_output_tokens: Count = setting(128, "tokens of tool output kept")
    dtype: SamplingDtype = setting("float32", "of the weights and the cache while it answers")
    system_prompt: Text | None = setting(
        None, "system message of each conversation; null: what the model's template puts"
    )
    seed: Natural = setting(0, "sampling seed of this stage")
    engine: Literal["nanolab", "vllm"] = setting(
        "nanolab", "what computes; vllm: a model from outside alone (docs/how_to/use_vllm.md)"
    )
    vllm: VLLMValues = setting({}, "vLLM's settings (nanolab/settings/vllm_options.py)")

    def __post_init__(self) -> None:
        if self.engine == "nanolab" and self.vllm:
            raise UserError("vllm is read with engine: vllm alone; leave it out, or set engine")
        source = getattr(self, "source", "base")
        if self.engine == "vllm" and not is_outside(source):
            raise UserError(
                f"engine = 'vllm' serves models from outside ({FORMS}), and {source!r} is a"
                " model of a study; leave engine out"
            )


@dataclass(frozen=True)
class ChatTasks(Asked):
    """The chat tasks that an evaluation asks."""

    tasks: Distinct[Task] = setting(CHAT_TASKS, "chat tasks that are asked")
    max_examples: Count | None = setting(200, "problems a task; null: all")
    gsm8k_examples: Count | None = setting(400, "GSM8K problems; null: as max_examples")
    num_shots: Natural = setting(0, "solved examples before each question")
    choice_form: ChoiceForm | None = setting(
        None,
        "what competes in multiple choice: the letters, each choice's line, or, in plain text, each"
        " choice's own text behind the question; null: data.choice_answers",
    )
    num_samples: Natural = setting(4, "generated samples shown")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            raise UserError("tasks is empty; leave the step out of steps instead")


@dataclass(frozen=True)
class ModelChoice(Asked):
    """Which checkpoint of which model a stage works on."""

    source: Text = setting("sft", "the model evaluated, sampled or trained further")

    def __post_init__(self) -> None:
        Asked.__post_init__(self)
        if self.source in SOURCE_STEPS:
            return
        if not is_outside(self.source):
            raise UserError(
                f"source = {self.source!r} must be one of {', '.join(SOURCE_STEPS)}, or a model"
                f" from outside: {FORMS}"
            )
        check_outside(self.source)
        if self.step is not None or self.model_tag != "default":
            raise UserError(
                "step and model_tag choose a checkpoint of a study; leave them out with"
                f" source = {self.source!r}"
            )


@dataclass(frozen=True)
class BaseEvalConfig(ModelChoice, ChatTasks):
    """Steps base_loss and base_eval."""

    source: Text = setting("base", "the model evaluated, asked in plain text")
    loss_tokens: Count = setting(12_288, "tokens of each split for bits per byte")
    core_examples: Count | None = setting(100, "examples a CORE task; null: all")
    core_tasks: Several[Text] | None = setting(
        None, "CORE tasks that are asked; null: all, whose mean is CORE"
    )
    num_shots: Natural = setting(2, "solved examples before each question")

    def __post_init__(self) -> None:
        ModelChoice.__post_init__(self)
        ChatTasks.__post_init__(self)


@dataclass(frozen=True)
class ChatEvalConfig(ModelChoice, ChatTasks):
    """Steps chat_eval_mid, chat_eval_sft and chat_eval_rl."""

    temperature: NotNegative = setting(0.0, "sampling temperature; 0 is greedy")
    top_k: Count | None = setting(None, "tokens kept by the proposal; null: all")
    answers: Count = setting(1, "answers drawn for each generated problem; above 1 also pass@k")

    def __post_init__(self) -> None:
        ModelChoice.__post_init__(self)
        ChatTasks.__post_init__(self)
        if self.temperature > 0 and self.temperature not in range_of(Temperature):
            raise UserError(
                f"temperature = {self.temperature} is out of range: it must be 0 (greedy) or"
                f" {range_of(Temperature)}"
            )


@dataclass(frozen=True)
class PowerSampling(ModelChoice):
    """What a power evaluation and the points of a grid have in common."""

    max_new_tokens: Count = setting(256, "tokens of a completion at most, forced ones included")
    task: PowerTask = setting("gsm8k", "task that is answered: any that generates")
    subset: Text = setting("main", "GSM8K config")
    split: Text = setting("test", "split of the task")
    max_examples: Count | None = setting(400, "problems; null: all")
    top_k: Count | None = setting(50, "tokens kept by the proposal; null: all")
    restart_prob: Share = setting(0.5, "share of cuts at the first model token")
    num_blocks: Count = setting(1, "blocks of the schedule")
    num_shots: Natural = setting(
        2, "solved examples before each question where a base model is asked"
    )


@dataclass(frozen=True)
class PowerEvalConfig(PowerSampling):
    """Step power_eval: Metropolis-Hastings on p^alpha beside the baselines, on the same
    problems.
    """

    alpha: Alpha = setting(4.0, "exponent of the target p^alpha")
    num_steps: Natural = setting(10, "Metropolis-Hastings steps a block")
    temperature: Temperature = setting(0.7, "temperature of the proposal")
    chains: Count = setting(
        1, "independent chains a problem; their answers vote, and R-hat compares them"
    )
    best_of: Count = setting(11, "samples of best-of-n and majority vote")
    low_temperature: Temperature = setting(0.25, "temperature of the low-temperature baseline")
    particles: Natural = setting(0, "particles of sequential Monte Carlo beside it; 0: left out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles == 1:
            raise UserError("particles = 1 is a plain sample: give 0 (left out) or at least 2")
        check_blocks(self.num_blocks, self.max_new_tokens)


@dataclass(frozen=True)
class PowerAblationConfig(PowerSampling):
    """Step power_ablation: a grid of power-sampling settings, each point a grandchild run."""

    grid: Several[dict[Text, Distinct[Any]]] = setting(
        [
            {"alpha": [1.0, 2.0, 4.0, 8.0], "temperature": [0.7]},
            {"alpha": [4.0], "temperature": [0.25, 1.0]},
            {"sampler": ["smc"], "alpha": [4.0], "temperature": [0.7], "particles": [4, 16]},
        ],
        "products of values, joined; sampler power, smc or rollout (nanolab/settings/grid.py)",
    )
    num_steps: Several[Natural] = setting([0, 2, 5, 10], "steps at which each trajectory is read")
    max_examples: Count | None = setting(100, "problems a point; null: all")
    ess_threshold: Share = setting(
        0.5, "resample when the effective particles are below this share"
    )
    particles: Count = setting(16, "particles of sequential Monte Carlo")
    ramp_tokens: Natural = setting(
        0, "tokens over which the exponent of sequential Monte Carlo rises to alpha"
    )
    candidates: Count = setting(4, "tokens weighed at each position of the rollout sampler")
    rollouts: Count = setting(4, "futures drawn for each of them")
    horizon: Count = setting(16, "tokens of a future at most")
    best_of: Several[Count] = setting(
        [1, 2, 4, 8], "sample counts of the best-of-n and majority baselines"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for point in grid.expand(self.grid, self):
            check_blocks(point.get("num_blocks", 1), self.max_new_tokens)


@dataclass(frozen=True)
class RlConfig(ModelChoice):
    """Step rl: GRPO on the word problems with tools, on-policy, group-mean baseline, no KL term."""

    batch_rows: Count = setting(96, "rows decoded at once")
    steps: Count = setting(30, "policy updates")
    problems_per_step: Count = setting(12, "problems an update")
    group_size: GroupSize = setting(8, "rollouts a problem")
    temperature: Temperature = setting(1.0, "sampling temperature of the rollouts")
    learning_rate_scale: Positive = setting(0.1, "learning rates as a multiple of base training's")
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    device_batch_size: Count = setting(32, "rollouts a process forwards at once in the update")
    checkpoint_every: Count = setting(20, "policy updates between checkpoints")
    max_examples: Count | None = setting(
        200, "test problems of the comparison before and after; null: all"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_outside(self.source):
            raise UserError(
                f"source = {self.source!r}: only a model trained here can be trained further;"
                f" choose one of {', '.join(SOURCE_STEPS)}"
            )
