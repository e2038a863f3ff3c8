"""The configuration of a study: its stages, the table of its steps, and the study as a whole."""

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from nanolab.errors import UserError
from nanolab.settings.evaluation_stages import (
    BaseEvalConfig,
    ChatEvalConfig,
    PowerAblationConfig,
    PowerEvalConfig,
    RlConfig,
)
from nanolab.settings.kinds import Distinct, Name, Natural, NotNegative, Range, Share, Text
from nanolab.settings.model_source import FORMS, SOURCE_STEPS
from nanolab.settings.schema import Settings, setting
from nanolab.settings.training_stages import (
    BaseTrainConfig,
    MidTrainConfig,
    SftConfig,
    TokenizerConfig,
)

Processes = Annotated[int, Range(minimum=1, maximum=4096)]
Machines = Annotated[int, Range(minimum=1, maximum=65_536)]


@dataclass(frozen=True)
class DataConfig(Settings):
    """Where text, chats and tasks come from."""

    source: Literal["embedded", "local", "hub"] = setting(
        "embedded", "embedded: generated; local: a folder; hub: the published sets"
    )
    root: Text | None = setting(
        None, "folder of the local source; when missing, the variable NANOLAB_DATA supplies it"
    )
    seed: Natural = setting(0, "seed of the embedded world")
    choice_answers: Literal["letter", "line"] = setting(
        "line", "a choice is answered by its letter, or by its whole line (trout=B)"
    )
    row_order: Literal["packed", "shuffled"] = setting(
        "packed", "conversations within a row: as packed (short first), or shuffled"
    )
    short_guesses: Share = setting(
        0.0, "share of embedded training solutions that are a bare guess"
    )
    rambling_guesses: Share = setting(0.0, "share of them that draw two random numbers, then guess")
    wordy_steps: Share = setting(0.0, "share of their worked steps with one of 16 idle words")

    def __post_init__(self) -> None:
        guesses = self.short_guesses + self.rambling_guesses
        if guesses > 1:
            raise UserError(
                f"short_guesses = {self.short_guesses} and rambling_guesses ="
                f" {self.rambling_guesses} are shares of the same solutions: they sum to"
                f" {guesses:g}, which must be at most 1"
            )


@dataclass(frozen=True)
class LaunchConfig(Settings):
    """How a stage's processes are started."""

    nproc: Processes = setting(1, "processes on this machine; above 1 through torchrun")
    nnodes: Machines = setting(1, "machines")
    node_rank: Natural = setting(0, "number of this machine")
    rdzv_endpoint: Text | None = setting(None, "host:port of machine 0 when nnodes is above 1")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device of every process")
    threads: Processes | None = setting(None, "CPU threads a process; null: cores divided by nproc")

    def __post_init__(self) -> None:
        if self.node_rank >= self.nnodes:
            raise UserError(
                f"node_rank = {self.node_rank} is the number of a machine, from 0 to"
                f" launch.nnodes - 1 = {self.nnodes - 1}"
            )
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise UserError(
                f"nnodes = {self.nnodes} needs launch.rdzv_endpoint: host:port of machine 0"
            )


@dataclass(frozen=True)
class ReportConfig(Settings):
    """Step report."""

    title: Text = setting("nanolab training report", "first line of the report")


@dataclass(frozen=True)
class StepSpec:
    """One step of a study."""

    stage: str
    notebook: str  # that fills it
    inputs: tuple[str, ...] = ()  # the steps it reads
    fixed: dict[str, Any] = field(default_factory=dict)  # settings
    module: str = ""  # of nanolab/stages/; empty: the step's own name


def _chat_eval(**fixed: str) -> StepSpec:
    inputs = ("tok_train",) if fixed else ()
    return StepSpec("chat_eval", "05_chat_eval", inputs, fixed, "chat_eval")


def _power_eval(**fixed: str) -> StepSpec:
    return StepSpec("power_eval", "07_power_eval", ("tok_train",), fixed, "power_eval")


# in the order of a run; steps whose config has a `source` also read the step that makes that model
STEPS: dict[str, StepSpec] = {
    "tok_train": StepSpec("tokenizer", "01_tokenizer"),
    "tok_eval": StepSpec("tokenizer", "01_tokenizer", ("tok_train",)),
    "base_train": StepSpec("base_train", "02_base_train", ("tok_train",), module="training"),
    "base_loss": StepSpec("base_eval", "03_base_eval", ("tok_train", "base_train")),
    "base_eval": StepSpec("base_eval", "03_base_eval", ("tok_train", "base_train")),
    "mid_train": StepSpec(
        "mid_train", "04_mid_train", ("tok_train", "base_train"), module="training"
    ),
    "chat_eval_mid": _chat_eval(source="mid"),
    "sft": StepSpec("sft", "06_sft", ("tok_train", "mid_train"), module="training"),
    "chat_eval_sft": _chat_eval(source="sft"),
    "power_eval": _power_eval(),
    "power_eval_base": _power_eval(source="base"),
    "power_eval_mid": _power_eval(source="mid"),
    "power_eval_rl": _power_eval(source="rl"),
    "power_eval_code": _power_eval(task="humaneval"),
    "power_eval_gpqa": _power_eval(task="gpqa_diamond"),
    "power_ablation": StepSpec("power_ablation", "08_power_ablation", ("tok_train",)),
    "rl": StepSpec("rl", "09_rl", ("tok_train",)),
    "chat_eval_rl": _chat_eval(source="rl"),
    "chat_eval_hf": _chat_eval(),  # of an outside chat_eval.source, and of no other
    "report": StepSpec("report", "10_report"),
}


@dataclass(frozen=True)
class StudyConfig(Settings):
    """A whole study, as its YAML file states it."""

    experiment: Name = setting("smoke", "name of the study: its MLflow experiment and its folder")
    description: str = setting("", "one sentence for the people who read the runs")
    seed: Natural = setting(0, "seed of initialisation and data order")
    seeds: Distinct[Natural] = setting(
        [], "run the whole study once for each of these seeds; empty: for seed alone"
    )
    data: DataConfig = field(default_factory=DataConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    hourly_rates: dict[Text, NotNegative] = setting(
        {"H100": 3.0, "H200": 3.8, "A100": 1.8},
        "dollars an hour of one device, by part of its name",
    )
    steps: Distinct[Text] = setting(
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

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                near = difflib.get_close_matches(step, STEPS, 1, 0.0)[0]
                raise UserError(
                    f"unknown step {step!r} in steps; the nearest valid step is {near!r}"
                )
        if "chat_eval_hf" in self.steps and self.chat_eval.source in SOURCE_STEPS:
            raise UserError(
                f"step chat_eval_hf needs chat_eval.source = {FORMS}, not {self.chat_eval.source!r}"
            )

    def stage(self, name: str) -> Any:
        """The config of stage `name`."""
        return getattr(self, name)


# the stages are the groups of a study that have steps
STAGES: dict[str, type] = {
    field.name: field.default_factory
    for field in fields(StudyConfig)
    if field.name in {spec.stage for spec in STEPS.values()}
}


def asked_examples(config: BaseEvalConfig | ChatEvalConfig, task: str) -> int | None:
    """Problems of `task` that an evaluation asks at most; None: all."""
    if task == "gsm8k" and config.gsm8k_examples is not None:
        return config.gsm8k_examples
    return config.max_examples


@dataclass(frozen=True)
class Job:
    """What a stage process needs to know: job.json of the step's work folder."""

    step: str
    study: StudyConfig
    config: Any  # the stage's config class, final
    folder: Path  # the step's work folder, absolute
    inputs: dict[str, Path]  # finished steps it reads: step name -> work folder
