"""Definitions written out in loops, in float64, for comparison with candidates; letters as in each candidate's file."""

import math

import torch
from torch import Tensor

__all__ = ["attention_by_loops", "convolution_by_loops", "delta_rule_by_loops", "half_ulp", "sees"]

Window = tuple[int | None, int | None]


def sees(query: int, key: int, *, queries: int, keys: int, window: Window) -> bool:
    """Whether a query sees a key: bottom-right alignment, ``left`` keys before it to ``right`` keys after it."""
    distance = key - (query + keys - queries)
    left, right = window
    return (left is None or distance >= -left) and (right is None or distance <= right)


def attention_by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (B, T, H, V) and ``lse`` (B, H, T), row after row."""
    query, key, value = query.double(), key.double(), value.double()
    (B, T, H, _), (S, G) = query.shape, key.shape[1:3]
    out = torch.zeros(B, T, H, value.shape[-1], dtype=torch.float64)
    lse = torch.full((B, H, T), -math.inf, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                kept = [
                    s
                    for s in range(S)
                    if sees(t, s, queries=T, keys=S, window=window) and (key_mask is None or bool(key_mask[b, s]))
                ]
                logits = [
                    scale * float(query[b, t, h] @ key[b, s, h // (H // G)])
                    + (0.0 if bias is None else float(bias.expand(B, H, T, S)[b, h, t, s]))
                    for s in kept
                ]
                every = [*logits, *([] if sinks is None else [float(sinks[h])])]
                if not every:
                    continue
                lse[b, h, t] = torch.logsumexp(torch.tensor(every, dtype=torch.float64), dim=0)
                for s, logit in zip(kept, logits, strict=True):
                    out[b, t, h] += math.exp(logit - float(lse[b, h, t])) * value[b, s, h // (H // G)]
    return out, lse


def delta_rule_by_loops(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns ``out`` (B, T, H, V) and the final state, by ``S <- a (I - b k k^T) S + b k v^T`` as one matrix."""
    (B, T, H, V), (G, D) = value.shape, query.shape[2:]
    out = torch.zeros(B, T, H, V, dtype=torch.float64)
    final = initial_state.double().clone()
    for b in range(B):
        for h in range(H):
            state = final[b, h]
            for t in range(T):
                k, q, rate = key[b, t, h // (H // G)], query[b, t, h // (H // G)], float(beta[b, t, h])
                erase = torch.eye(D, dtype=torch.float64) - rate * torch.outer(k, k)
                state = math.exp(float(log_decay[b, t, h])) * erase @ state + rate * torch.outer(k, value[b, t, h])
                out[b, t, h] = scale * q @ state
            final[b, h] = state
    return out, final


def convolution_by_loops(x: Tensor, weight: Tensor) -> Tensor:
    """Returns ``silu`` of the causal depthwise convolution of (B, T, C) with (C, K)."""
    (B, T, C), K = x.shape, weight.shape[1]
    total = torch.zeros(B, T, C, dtype=torch.float64)
    for t in range(T):
        for j in range(K):
            if t - (K - 1) + j >= 0:
                total[:, t] += weight[:, j] * x[:, t - (K - 1) + j]
    return total / (1 + (-total).exp())


def half_ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns half a unit in the last place of ``dtype`` at each value, for values in its normal range."""
    exponent = torch.frexp(exact).exponent - 1
    return torch.ldexp(torch.full_like(exact, torch.finfo(dtype).eps / 2), exponent)
