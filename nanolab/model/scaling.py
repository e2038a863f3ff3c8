"""One dial: from `depth` to every hyperparameter of a base training, each of which the field of its
name in BaseTrainConfig overrides. Imports no torch.
"""

import math
from dataclasses import dataclass

from nanolab.errors import UserError
from nanolab.settings.config import BaseTrainConfig

REFERENCE_WIDTH = 96  # the learning rates below were tuned at this width (LOG.md)
MATRIX_LR, EMBEDDING_LR, HEAD_LR = 0.03, 0.1, 0.03
# bfloat16, dense, as the makers state
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model."""

    vocab_size: int
    sequence_length: int
    depth: int  # layers
    width: int
    heads: int  # query heads
    kv_heads: int  # key and value heads; divides heads

    @property
    def head_dim(self) -> int:
        """Dimensions of a head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Scale:
    """Everything base training derives from its config."""

    model: GPTConfig
    batch_size: int  # sequences an optimizer step
    steps: int
    matrix_lr: float
    embedding_lr: float
    head_lr: float
    weight_decay: float


def derive(config: BaseTrainConfig, vocab_size: int) -> Scale:
    """The scale of a base training.

    1. Width: 64 a layer from depth 8 on, 24 a layer below (a small model is better narrow and deep
    on a CPU).
    2. Heads of 128 dimensions from width 512 on, of 32 below; as many key/value heads.
    3. Batch: the power of two nearest to 2^20 tokens times (depth / 20)^3.5, at least one row: 2^20
    tokens at depth 20 (the reference study's), 2^12 at depth 4 (measured on two cores).
    4. Steps: tokens_per_parameter times the matrix parameters, over the batch's tokens.
    5. Learning rates of embedding and head fall with the square root of the width; Muon's steps
    have a size of their own.

    Raises UserError for heads that do not divide the width, or that rotary positions cannot halve.
    """
    width = config.width or config.depth * (64 if config.depth >= 8 else 24)
    heads = config.heads or max(1, width // (128 if width >= 512 else 32))
    kv_heads = config.kv_heads or heads
    if width % heads or (width // heads) % 2:
        raise UserError(
            f"base_train: width {width} must split into {heads} heads of an even size; give width"
            " and heads that do"
        )
    if heads % kv_heads:
        raise UserError(f"base_train: heads = {heads} must be a multiple of kv_heads = {kv_heads}")
    model = GPTConfig(vocab_size, config.sequence_length, config.depth, width, heads, kv_heads)
    tokens = 2 ** max(0, round(20 + 3.5 * math.log2(config.depth / 20)))
    batch_size = config.batch_size or max(1, tokens // config.sequence_length)
    steps = config.steps
    if steps is None:
        assert config.tokens_per_parameter is not None, "a study states one of the two"
        wanted = config.tokens_per_parameter * matrix_parameters(model)
        steps = max(1, round(wanted / (batch_size * config.sequence_length)))
    shrink = (REFERENCE_WIDTH / width) ** 0.5
    return Scale(
        model,
        batch_size,
        steps,
        config.matrix_lr or MATRIX_LR,
        config.embedding_lr or EMBEDDING_LR * shrink,
        config.head_lr or HEAD_LR * shrink,
        config.weight_decay,
    )


def matrix_parameters(model: GPTConfig) -> int:
    """Parameters in matrix products: the blocks and the head, without the embedding table."""
    queries_keys_values = model.width * (model.heads + 2 * model.kv_heads) * model.head_dim
    block = queries_keys_values + 9 * model.width**2
    return model.depth * block + model.vocab_size * model.width


def parameters(model: GPTConfig) -> int:
    """All parameters."""
    return matrix_parameters(model) + model.vocab_size * model.width


def flops_per_token(model: GPTConfig) -> int:
    """Operations of training on one token: 6 a matrix parameter, and causal attention."""
    return 6 * matrix_parameters(model) + 6 * model.depth * model.width * model.sequence_length


def memory_bytes(model: GPTConfig, device_batch_size: int, device: str = "cpu") -> int:
    """Estimated bytes of a training process: weights, gradients, two float32 moments, and the
    bfloat16 activations kept for the backward pass; on a GPU ("cuda") attention keeps none of its
    probabilities.
    """
    positions = device_batch_size * model.sequence_length * model.depth
    probabilities = 0 if device == "cuda" else model.heads * model.sequence_length * 5 // 8
    return 16 * parameters(model) + 2 * positions * (18 * model.width + probabilities)


def peak_flops(device_name: str) -> float | None:
    """The bfloat16 operations a second that a device's maker states; None for other devices."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)
