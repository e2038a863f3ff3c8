"""The settings of the stages that train from text and conversations. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from nanolab.errors import UserError
from nanolab.settings.kinds import Count, Natural, NotNegative, Positive, Range, Share
from nanolab.settings.schema import Settings, setting

Dtype = Literal["auto", "float32", "bfloat16"]
VocabSize = Annotated[int, Range(minimum=265)]  # 256 bytes and the special tokens
Width = Annotated[int, Range(minimum=8)]
TokensPerParameter = Annotated[float, Range(above=0, maximum=1_000_000)]


@dataclass(frozen=True)
class TokenizerConfig(Settings):
    """Steps tok_train and tok_eval."""

    vocab_size: VocabSize = setting(896, "tokens, special ones included")
    max_chars: Count = setting(2_000_000, "characters of training text read")
    eval_chars: Count = setting(200_000, "held-out characters evaluated")
    overlap_chars: Natural = setting(
        2_000_000, "characters of each training corpus compared with the benchmarks; 0: none"
    )


@dataclass(frozen=True)
class BaseTrainConfig(Settings):
    """Step base_train. A null value is derived from depth by model/scaling.py."""

    depth: Count = setting(4, "layers; the one dial")
    width: Width | None = setting(None, "residual width")
    heads: Count | None = setting(None, "query heads")
    kv_heads: Count | None = setting(None, "key and value heads")
    sequence_length: Width = setting(256, "tokens a row")
    steps: Count | None = setting(300, "optimizer steps; null: from tokens_per_parameter")
    tokens_per_parameter: TokensPerParameter | None = setting(
        None, "horizon in tokens per matrix parameter; give this or steps"
    )
    batch_size: Count | None = setting(16, "sequences an optimizer step, over all processes")
    device_batch_size: Count = setting(16, "sequences a process forwards at once")
    matrix_lr: Positive | None = setting(None, "Muon learning rate")
    embedding_lr: Positive | None = setting(None, "AdamW learning rate of the token embedding")
    head_lr: Positive | None = setting(None, "AdamW learning rate of the output head")
    weight_decay: NotNegative = setting(0.0, "weight decay of the matrices")
    warmup_steps: Natural = setting(10, "optimizer steps of linear warm-up")
    decay_share: Share = setting(0.5, "final share of the steps with linear decay")
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    compile: bool = setting(False, "compile the model with torch.compile")
    eval_every: Count = setting(50, "optimizer steps between validations")
    eval_tokens: Count = setting(12_288, "validation tokens each time")
    checkpoint_every: Count = setting(100, "optimizer steps between checkpoints")

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.tokens_per_parameter is None):
            raise UserError(
                f"steps = {self.steps} and tokens_per_parameter = {self.tokens_per_parameter}:"
                " give exactly one of steps and tokens_per_parameter"
            )


@dataclass(frozen=True)
class MidTrainConfig(Settings):
    """Step mid_train: chat format, tool use and multiple choice."""

    steps: Count = setting(350, "optimizer steps")
    batch_size: Count | None = setting(None, "sequences an optimizer step; null: the base model's")
    device_batch_size: Count = setting(16, "sequences a process forwards at once")
    learning_rate_scale: Positive = setting(1.0, "learning rates as a multiple of base training's")
    warmup_steps: Natural = setting(5, "optimizer steps of linear warm-up")
    decay_share: Share = setting(0.5, "final share of the steps with linear decay")
    share_text: Share = setting(0.05, "share of rows of pretraining text")
    share_chats: Share = setting(0.1, "share of conversations that are chats")
    share_problems: Share = setting(
        0.35, "share of conversations that are word problems with tools"
    )
    share_choices: Share = setting(0.35, "share of conversations that are multiple choice")
    share_programs: Share = setting(0.15, "share of conversations that are Python functions")
    dtype: Dtype = setting("auto", "compute type; auto: bfloat16 where the processor has it")
    compile: bool = setting(False, "compile the model with torch.compile")
    eval_every: Count = setting(50, "optimizer steps between validations")
    eval_tokens: Count = setting(8_192, "validation tokens each time")
    checkpoint_every: Count = setting(100, "optimizer steps between checkpoints")

    def __post_init__(self) -> None:
        total = self.share_chats + self.share_problems + self.share_choices + self.share_programs
        if total <= 0:
            raise UserError(
                "share_chats, share_problems, share_choices and share_programs are the shares of"
                f" conversations and sum to {total}; at least one must be above 0"
            )


@dataclass(frozen=True)
class SftConfig(MidTrainConfig):
    """Step sft: loss on the assistant's tokens only, one conversation after another."""

    steps: Count = setting(500, "optimizer steps")
    share_text: Share = setting(0.0, "share of rows of pretraining text")
    share_choices: Share = setting(0.42, "share of conversations that are multiple choice")
    share_programs: Share = setting(0.13, "share of conversations that are Python functions")
