"""Cross-entropy over softcapped logits, -log softmax(c tanh(h W^T / c))[target], in chunks with
their gradients: nothing of size (tokens, vocabulary) outlives its chunk.
"""

import torch

CHUNK = 1024  # tokens


def _squashed_and_log_p(
    hidden: torch.Tensor, weight: torch.Tensor, softcap: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """tanh(h W^T / c) and the log-probabilities of a chunk, both (tokens, V) float32."""
    squashed = torch.tanh((hidden @ weight.T).float() / softcap)
    return squashed, torch.log_softmax(softcap * squashed, -1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float
    ) -> torch.Tensor:
        with_gradient = any(ctx.needs_input_grad[:2])
        cast = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if with_gradient else None
        d_weight = torch.zeros_like(weight) if with_gradient else None
        for start in range(0, len(hidden), CHUNK):
            part, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            squashed, log_p = _squashed_and_log_p(part, cast, softcap)
            total -= log_p.gather(1, wanted).sum(dtype=torch.float64)
            if with_gradient:
                d_logits = log_p.exp_()
                d_logits.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=d_logits.dtype))
                d_logits = d_logits.mul_(squashed.square_().neg_().add_(1)).to(hidden.dtype)
                d_hidden[start : start + CHUNK] = d_logits @ cast
                d_weight += (d_logits.T @ part).to(weight.dtype)
        if with_gradient:
            ctx.save_for_backward(d_hidden, d_weight)
        return total.float()

    @staticmethod
    def backward(ctx, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * scale.to(d_hidden.dtype), d_weight * scale, None, None


def softcapped_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float
) -> torch.Tensor:
    """hidden (N, D), weight (V, D), targets (N,) int64 -> the sum of the losses, nats, float32
    scalar.
    """
    return _ChunkedCrossEntropy.apply(_as_computed(hidden), weight, targets, softcap)


@torch.no_grad()
def softcapped_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float
) -> torch.Tensor:
    """The loss of each token, (N,) float32 nats, without gradients."""
    hidden = _as_computed(hidden)
    cast = weight.to(hidden.dtype)
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), CHUNK):
        chunk = slice(start, start + CHUNK)
        _, log_p = _squashed_and_log_p(hidden[chunk], cast, softcap)
        losses[chunk] = -log_p.gather(1, targets[chunk, None])[:, 0]
    return losses


def _as_computed(hidden: torch.Tensor) -> torch.Tensor:
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden
