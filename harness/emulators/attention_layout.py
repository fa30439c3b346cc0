"""Layout of the attention emulator: query heads of one group as rows of one matrix, masks, and the way back.

Letters as in ``attention.py``. Every function keeps the sample axis first and uses one sample where all share a value.
"""

import torch
from torch import Tensor

from harness.emulators.arithmetic import shared

__all__ = ["bias_rows", "per_head", "rows", "sink_rows", "unrows", "visible"]


def rows(value: Tensor, groups: int) -> Tensor:
    """Returns (K,B,T,H,W) as (K,B,G,R*T,W); one sample if all share it."""
    value = shared(value)
    samples, batch, tokens, heads, width = value.shape
    return value.transpose(2, 3).reshape(samples, batch, groups, heads // groups * tokens, width)


def unrows(value: Tensor, tokens: int) -> Tensor:
    """Returns (K,B,G,R*T,W) as (K,B,T,H,W); ``tokens`` -1 means one head per group."""
    samples, batch, groups, count, width = value.shape
    tokens = count if tokens == -1 else tokens
    heads = groups * (count // tokens) if tokens else groups
    return value.reshape(samples, batch, heads, tokens, width).transpose(2, 3)


def sink_rows(sinks: Tensor, query: Tensor, groups: int) -> Tensor:
    """Returns one logit per row, (K,1,G,R*T,1)."""
    sinks = shared(sinks)
    samples, heads = sinks.shape
    tokens = query.shape[2]
    return sinks[:, :, None].expand(samples, heads, tokens).reshape(samples, 1, groups, heads // groups * tokens, 1)


def bias_rows(bias: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Returns the bias as (K,B,G,R*T,S)."""
    bias = shared(bias)
    _, batch, tokens, heads = query.shape[:4]
    keys, groups = key.shape[2], key.shape[3]
    samples = bias.shape[0]
    padded = bias.reshape(samples, *([1] * (5 - bias.dim())), *bias.shape[1:])
    full = padded.expand(samples, batch, heads, tokens, keys)
    return full.reshape(samples, batch, groups, heads // groups * tokens, keys)


def visible(
    query: Tensor, key: Tensor, key_mask: Tensor | None, window: tuple[int | None, int | None]
) -> Tensor:  # fmt: skip
    """Returns which row sees which key, (1,B or 1,1,R*T,S); queries stand at the bottom right of the keys."""
    tokens, heads, keys, groups = query.shape[2], query.shape[3], key.shape[2], key.shape[3]
    distance = torch.arange(keys, device=query.device) - (torch.arange(tokens, device=query.device)[:, None])
    distance = distance - (keys - tokens)
    seen = torch.ones_like(distance, dtype=torch.bool)
    left, right = window
    if left is not None:
        seen &= distance >= -left
    if right is not None:
        seen &= distance <= right
    every = seen.repeat(heads // groups, 1)[None, None, None]
    return every if key_mask is None else every & key_mask[None, :, None, None, :]


def per_head(value: Tensor, tokens: int) -> Tensor:
    """Returns (K,B,G,R*T,W) as (K,B,G,R,T,W)."""
    samples, batch, groups, count, width = value.shape
    return value.reshape(samples, batch, groups, count // tokens, tokens, width)
