"""Softmax attention over packed sequences of different lengths, without padding.

Legend: H query heads, G key/value heads, D query/key width, V value width.

Source: the packed layout is that of FlashAttention's variable-length interface (Dao et al.); the mathematics is
``attention``.
"""

from itertools import pairwise

import torch
from torch import Tensor

from reference.attention import AttentionOutput, attention
from reference.checks import require_bounds, require_divisible, require_floats, require_shape
from reference.masks import Window, require_window

__all__ = ["varlen_attention"]


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
) -> AttentionOutput:
    """Returns ``attention`` of every sequence on its own, packed again.

    Definition:
        Sequence n has the queries ``cu_seqlens_q[n] .. cu_seqlens_q[n + 1] - 1`` and the keys and values
        ``cu_seqlens_k[n] .. cu_seqlens_k[n + 1] - 1``; the window is aligned bottom-right within it.

    Conventions:
        A sequence may have no queries, no keys or neither; queries without keys see nothing.

    Args:
        query: ``(query tokens, H, D)``.
        key: ``(key tokens, G, D)``.
        value: ``(key tokens, G, V)``.
        cu_seqlens_q: ``(sequences + 1,)`` int32 or int64, from 0 to the number of query tokens.
        cu_seqlens_k: the same for keys.
        scale: factor of the dot products.
        window: keys before and after the query's own position that it sees.
        sinks: ``(H,)``, one logit per query head.

    Returns:
        ``AttentionOutput(out, lse)``: ``(query tokens, H, V)`` and ``(H, query tokens)``, in the dtype of query.

    Raises:
        TypeError: an argument is no tensor of the dtype of query, or offsets are not integers.
        ValueError: shapes or devices disagree, offsets are no bounds of sequences, or the window is negative.
    """
    require_floats(query=query, key=key, value=value)
    require_shape("query", query, tokens=None, H=None, D=None)
    num_queries, H, D = query.shape
    require_shape("key", key, tokens=None, G=None, D=D)
    num_keys, G, _ = key.shape
    require_shape("value", value, tokens=num_keys, G=G, V=None)
    require_divisible("query", H, by=G, divisor="key")
    if sinks is not None:
        require_floats(query=query, sinks=sinks)
        require_shape("sinks", sinks, H=H)
    require_window("window", window)
    q_bounds = require_bounds("cu_seqlens_q", cu_seqlens_q, num_tokens=num_queries, device=query.device)
    k_bounds = require_bounds("cu_seqlens_k", cu_seqlens_k, num_tokens=num_keys, device=query.device)
    if len(q_bounds) != len(k_bounds):
        raise ValueError(f"cu_seqlens_k: got {len(k_bounds)} entries, expected {len(q_bounds)} as in cu_seqlens_q")

    parts = [
        attention(query[None, q0:q1], key[None, k0:k1], value[None, k0:k1], scale=scale, window=window, sinks=sinks)
        for (q0, q1), (k0, k1) in zip(pairwise(q_bounds), pairwise(k_bounds), strict=True)
    ]
    return AttentionOutput(torch.cat([p.out[0] for p in parts]), torch.cat([p.lse[0] for p in parts], -1))
