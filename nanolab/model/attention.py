"""Causal attention for training: blocks of matrix products on CPU, the fused kernel elsewhere.

The CPU path keeps the probabilities of each block of queries and cuts the keys at the block's end:
62% of the square at four blocks, a quarter faster than the fused kernel (bfloat16, width 96).
"""

import torch
from torch.nn import functional

QUERIES = 128  # queries a block


class _BlockedAttention(torch.autograd.Function):
    """q (N, G, T, hd), k and v (N, T, hd): N = rows x key/value heads, G query heads for each."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        count, groups, length, width = q.shape
        out = torch.empty_like(q)
        kept = []
        scale = width**-0.5
        for start in range(0, length, QUERIES):
            end = min(start + QUERIES, length)
            block = end - start
            part = q[:, :, start:end].reshape(count, -1, width)
            scores = torch.bmm(part * scale, k[:, :end].transpose(1, 2))
            scores = scores.view(count, groups, block, end)
            scores[..., start:end] += scores.new_full((block, block), float("-inf")).triu(1)
            probabilities = torch.softmax(scores, -1).view(count, -1, end)
            out[:, :, start:end] = torch.bmm(probabilities, v[:, :end]).view(
                count, groups, block, width
            )
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        count, groups, length, width = q.shape
        d_q = torch.empty_like(q)
        d_k = torch.zeros_like(k)
        d_v = torch.zeros_like(v)
        scale = width**-0.5
        for probabilities, start in zip(kept, range(0, length, QUERIES)):
            end = min(start + QUERIES, length)
            d_part = d_out[:, :, start:end].reshape(count, -1, width)
            part = q[:, :, start:end].reshape(count, -1, width)
            d_v[:, :end] += torch.bmm(probabilities.transpose(1, 2), d_part)
            d_probabilities = torch.bmm(d_part, v[:, :end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(
                d_probabilities, probabilities, -1, probabilities.dtype
            )
            d_queries = torch.bmm(d_scores, k[:, :end]) * scale
            d_q[:, :, start:end] = d_queries.view(count, groups, -1, width)
            d_k[:, :end] += torch.bmm(d_scores.transpose(1, 2), part) * scale
        return d_q, d_k, d_v


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q (B, H, T, hd), k and v (B, K, T, hd), H a multiple of K -> (B, H, T, hd)."""
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
    rows, heads, length, width = q.shape
    kv_heads = k.shape[1]
    if torch.is_autocast_enabled("cpu"):  # which does not reach into the function
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    q = q.reshape(rows * kv_heads, heads // kv_heads, length, width)
    k, v = (x.reshape(rows * kv_heads, length, width) for x in (k, v))
    return _BlockedAttention.apply(q, k, v).view(rows, heads, length, width)
