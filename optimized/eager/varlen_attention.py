"""Attention over packed sequences in plain torch, one sequence after the other.

Letters: H query heads, G key/value heads, D query/key head width, V value head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.attention import attention
from optimized.eager.checks import Window, check_offsets, check_shape

__all__ = ["VarlenAttentionOutput", "varlen_attention"]


class VarlenAttentionOutput(NamedTuple):
    """Result (tokens, H, V) and natural log of the softmax denominator (H, tokens)."""

    out: Tensor
    lse: Tensor


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
) -> VarlenAttentionOutput:
    """Computes ``attention`` of every packed sequence on its own, in float32, rounded once.

    Args:
        query: shape (query tokens, H, D).
        key: shape (key tokens, G, D).
        value: shape (key tokens, G, V).
        cu_seqlens_q: integers ``[0, ..., query tokens]``, one more than there are sequences; an empty one is legal.
        cu_seqlens_k: the same for keys and values, as many as ``cu_seqlens_q``.
        scale: factor of the logits.
        window: ``(left, right)`` as in ``attention``, aligned at the end of each sequence.
        sinks: shape (H,), as in ``attention``.

    Returns:
        ``out`` (query tokens, H, V) in the dtype of ``query``; ``lse`` (H, query tokens), float32 for 16-bit inputs.

    Raises:
        ValueError: a shape disagrees or the offsets do not describe the tokens.

    Source: the packed layout of FlashAttention's ``flash_attn_varlen_func``.
    """
    check_shape("query", query, ("tokens", "H", "D"))
    check_shape("key", key, ("tokens", "G", query.shape[2]))
    check_shape("value", value, (key.shape[0], key.shape[1], "V"))
    starts_q = check_offsets("cu_seqlens_q", cu_seqlens_q, tokens=query.shape[0])
    starts_k = check_offsets("cu_seqlens_k", cu_seqlens_k, tokens=key.shape[0])
    if len(starts_q) != len(starts_k):
        raise ValueError(f"cu_seqlens_k: got {len(starts_k)} offsets, expected {len(starts_q)} as in cu_seqlens_q")
    dtype = query.dtype
    # Widened once and not per sequence: the gradients of the sinks would be rounded, sequence by sequence, otherwise.
    query, key, value = widened(query), widened(key), widened(value)
    sinks = None if sinks is None else widened(sinks)
    outs = [query.new_zeros(0, query.shape[1], value.shape[2])]
    lses = [query.new_zeros(query.shape[1], 0)]
    for index in range(len(starts_q) - 1):
        tokens_q = slice(starts_q[index], starts_q[index + 1])
        tokens_k = slice(starts_k[index], starts_k[index + 1])
        out, lse = attention(
            query[None, tokens_q], key[None, tokens_k], value[None, tokens_k], scale=scale, window=window, sinks=sinks
        )
        outs.append(out[0])
        lses.append(lse[0])
    return VarlenAttentionOutput(out=torch.cat(outs).to(dtype), lse=torch.cat(lses, dim=-1))
