"""Softmax attention in one pass over blocks of keys, and its backward from the stored output and log denominator.

Source: Dao et al., "FlashAttention" (2022), algorithms 1 and 4; visibility is decided pair by pair.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Problem", "backward", "forward"]


class Problem(NamedTuple):
    """The arguments of attention; key mask and bias are given in full."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    window: tuple[int | None, int | None]
    sinks: Tensor | None
    key_mask: Tensor
    bias: Tensor


def _sees(problem: Problem, b: int, t: int, s: int) -> bool:
    position = t + problem.key.shape[1] - problem.query.shape[1]
    left, right = problem.window
    near = (left is None or position - s <= left) and (right is None or s - position <= right)
    return near and bool(problem.key_mask[b, s])


def _logits(problem: Problem, b: int, h: int, g: int) -> Tensor:
    logits = problem.scale * (problem.query[b, :, h] @ problem.key[b, :, g].T) + problem.bias[b, h]
    T, S = logits.shape
    seen = torch.tensor([[_sees(problem, b, t, s) for s in range(S)] for t in range(T)])
    return torch.where(seen, logits, torch.full_like(logits, -torch.inf))


def forward(problem: Problem, *, block: int) -> tuple[Tensor, Tensor]:
    """Returns out and lse with a running maximum and a running sum over blocks of keys."""
    B, T, H, _ = problem.query.shape
    S, G, V = problem.value.shape[1:]
    out = torch.zeros(B, T, H, V, dtype=torch.float64)
    lse = torch.zeros(B, H, T, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            logits = _logits(problem, b, h, g)
            largest = torch.full((T,), -torch.inf, dtype=torch.float64)
            total = torch.zeros(T, dtype=torch.float64)
            if problem.sinks is not None:
                largest, total = problem.sinks[h].expand(T).clone(), torch.ones(T, dtype=torch.float64)
            sums = torch.zeros(T, V, dtype=torch.float64)
            for start in range(0, S, block):
                tile = logits[:, start : start + block]
                new = torch.maximum(largest, tile.amax(1))
                safe = torch.where(new.isinf(), torch.zeros_like(new), new)
                shrink, weights = (largest - safe).exp(), (tile - safe[:, None]).exp()
                total = total * shrink + weights.sum(1)
                sums = sums * shrink[:, None] + weights @ problem.value[b, start : start + block, g]
                largest = new
            seen = total > 0
            out[b, :, h] = torch.where(seen[:, None], sums / total[:, None], torch.zeros_like(sums))
            lse[b, h] = torch.where(seen, largest + total.log(), torch.full_like(total, -torch.inf))
    return out, lse


def backward(problem: Problem, out: Tensor, lse: Tensor, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor, ...]:
    """Returns the gradients of query, key, value, bias and, if there are any, sinks."""
    H, G = problem.query.shape[2], problem.key.shape[2]
    d_query, d_key = torch.zeros_like(problem.query), torch.zeros_like(problem.key)
    d_value, d_bias = torch.zeros_like(problem.value), torch.zeros_like(problem.bias)
    d_sinks = torch.zeros(H, dtype=torch.float64)
    for b in range(problem.query.shape[0]):
        for h in range(H):
            g = h // (H // G)
            safe = torch.where(lse[b, h].isinf(), torch.zeros_like(lse[b, h]), lse[b, h])
            weights = (_logits(problem, b, h, g) - safe[:, None]).exp()
            delta = (d_out[b, :, h] * out[b, :, h]).sum(1) - d_lse[b, h]
            d_logits = weights * (d_out[b, :, h] @ problem.value[b, :, g].T - delta[:, None])
            d_value[b, :, g] += weights.T @ d_out[b, :, h]
            d_query[b, :, h] += problem.scale * d_logits @ problem.key[b, :, g]
            d_key[b, :, g] += problem.scale * d_logits.T @ problem.query[b, :, h]
            d_bias[b, h] += d_logits
            if problem.sinks is not None:
                d_sinks[h] -= ((problem.sinks[h] - safe).exp() * delta).sum()
    gradients = (d_query, d_key, d_value, d_bias)
    return gradients if problem.sinks is None else (*gradients, d_sinks)
