"""The GPT: a decoder of pre-norm blocks with an untied head.

Shapes: B rows, T positions, D width, H query heads, K key/value heads, hd = D / H, V vocabulary.
Weights are float32; the trunk computes in the dtype that autocast sets.

Sources: rotary positions, Su et al. 2021 (arXiv 2104.09864); RMSNorm, here without parameters,
Zhang and Sennrich 2019 (arXiv 1910.07467); grouped-query attention, Ainslie et al. 2023 (arXiv
2305.13245); normalised queries and keys, Henry et al. 2020 (arXiv 2010.04245); ReLU^2, So et al.
2021 (arXiv 2109.08668); softcapped logits, Gemma 2 (arXiv 2408.00118).
"""

import torch
from torch import nn
from torch.nn import functional

from nanolab.model.attention import causal_attention
from nanolab.model.linear import Linear
from nanolab.model.loss import softcapped_cross_entropy, softcapped_losses
from nanolab.model.scaling import GPTConfig

SOFTCAP = 15.0  # logits are softcap * tanh(logits / softcap)
# of every norm, in every dtype. Stated: torch's own is documented as the input dtype's, 0.0078 in
# bfloat16, and its fused kernel on CUDA need not agree with its operators on a CPU
NORM_EPSILON = torch.finfo(torch.float32).eps


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension, without parameters."""
    return functional.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions for x (B, S, heads, hd); cos and sin (S, hd/2) or (B, S, hd/2)."""
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], -1)


class Attention(nn.Module):
    """Causal grouped-query self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads
        self.head_dim = config.head_dim
        self.qkv = Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_dim)
        self.output = Linear(config.width, config.width)

    def queries_keys_values(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (B, S, D) -> q (B, H, S, hd), k and v (B, K, S, hd), rotated and normalised."""
        rows, length, _ = x.shape
        mixed = self.qkv(x).view(rows, length, self.heads + 2 * self.kv_heads, self.head_dim)
        queries_keys, v = mixed.split([self.heads + self.kv_heads, self.kv_heads], 2)
        queries_keys = norm(rotate(queries_keys, cos, sin))
        q, k = queries_keys.split([self.heads, self.kv_heads], 2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def project(self, y: torch.Tensor) -> torch.Tensor:
        """y (B, H, S, hd) -> (B, S, D)."""
        return self.output(y.transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return self.project(causal_attention(*self.queries_keys_values(x, cos, sin)))


class _SquaredRelu(torch.autograd.Function):
    """relu(x)^2 with a backward pass of two products; autograd's takes twice as many."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        positive = functional.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx, d_out: torch.Tensor) -> torch.Tensor:
        (positive,) = ctx.saved_tensors
        return (d_out * positive).mul_(2)


class FeedForward(nn.Module):
    """Two linear maps with ReLU^2 between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, 4 * config.width)
        self.down = Linear(4 * config.width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return self.down(_SquaredRelu.apply(self.up(x)))
        return self.down(self.up(x, "relu").square_())


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(norm(x), cos, sin)
        return x + self.feed_forward(norm(x))


class GPT(nn.Module):
    """The language model; `GPT(config)` initialises the weights from torch's current seed."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Linear(config.width, config.vocab_size)
        self._initialise()

    def _initialise(self) -> None:
        bound = 3**0.5 * self.config.width**-0.5  # uniform with the standard deviation width^-1/2
        nn.init.normal_(self.embedding.weight)
        nn.init.zeros_(self.head.weight)  # the first loss is log V
        for block in self.blocks:
            nn.init.uniform_(block.attention.qkv.weight, -bound, bound)
            nn.init.uniform_(block.feed_forward.up.weight, -bound, bound)
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.feed_forward.down.weight)

    def rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (..., hd/2) float32 of integer positions (...)."""
        half = self.config.head_dim // 2
        exponents = -torch.arange(half, device=positions.device, dtype=torch.float32) / half
        angles = positions.float().unsqueeze(-1) * 10_000.0**exponents
        return angles.cos(), angles.sin()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T) int64 -> the normalised embeddings (B, T, D)."""
        return norm(self.embedding(ids))

    def trunk(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T) int64 -> the final normalised hidden states (B, T, D)."""
        cos, sin = self.rotary(torch.arange(ids.shape[1], device=ids.device))
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (..., D) -> softcapped logits (..., V) float32."""
        if hidden.dtype == self.head.weight.dtype == torch.float32:
            return SOFTCAP * self.head(hidden / SOFTCAP, "tanh")
        # in bfloat16 the tanh is rounded less than its result
        return SOFTCAP * torch.tanh(self.head(hidden).float() / SOFTCAP)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, int]:
        """ids and targets (B, T) int64, target -1 without loss -> (sum of the losses in nats,
        number of targets).
        """
        chosen = targets >= 0
        hidden = self.trunk(ids)[chosen]
        loss = softcapped_cross_entropy(hidden, self.head.weight, targets[chosen], SOFTCAP)
        return loss, int(chosen.sum())

    def losses(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The losses of `forward`, each by itself: (B, T) float32 nats, without gradients."""
        chosen = targets >= 0
        losses = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        hidden = self.trunk(ids)[chosen]
        losses[chosen] = softcapped_losses(hidden, self.head.weight, targets[chosen], SOFTCAP)
        return losses
