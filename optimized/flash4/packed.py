"""Softmax attention of packed sequences on FlashAttention 4.

Letters: H query heads, G key/value heads, D query/key head width, V value head width.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.checks import Window, check_multiple, check_offsets, check_shape
from optimized.flash4 import kernels
from optimized.flash4.batched import check_window, needs_gradients
from optimized.flash4.key_masks import binding_window
from optimized.flash4.sinks import constant_where_absent, finite_logsumexp
from optimized.flash4.widths import kernel_widths, pad_width, refuse_widths

__all__ = ["VarlenAttentionOutput", "supports_varlen", "varlen_attention"]


class VarlenAttentionOutput(NamedTuple):
    """Result of attention over packed sequences.

    Attributes:
        out: ``(tokens, H, V)`` in the format of query.
        lse: ``(H, tokens)`` float32, natural log of the softmax denominator, sink included.
    """

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
    """Returns ``attention`` of every packed sequence on its own; differentiable once, through both results.

    The offsets are checked, which waits for the GPU if they lie on it.

    Args:
        query: ``(query tokens, H, D)``, bfloat16 or float16, like key and value; widths as in ``attention``.
        key: ``(key tokens, G, D)``.
        value: ``(key tokens, G, V)``.
        cu_seqlens_q: integers ``[0, ..., query tokens]``, one more than there are sequences, on the GPU or on the CPU;
            an empty sequence is legal.
        cu_seqlens_k: the same for keys and values, as many as ``cu_seqlens_q``.
        scale: factor of the scores, positive.
        window: ``(left, right)`` as in ``attention``, aligned at the end of each sequence.
        sinks: ``(H,)``, as in ``attention``.

    Raises:
        ValueError: a shape disagrees, the offsets do not describe the tokens, or ``supports_varlen`` names a reason.

    Source: FlashAttention-4, ``flash_attn.cute.flash_attn_varlen_func``, 4.0.0b36.
    """
    lengths_q, lengths_k = _check(query, key, value, cu_seqlens_q, cu_seqlens_k, window=window, sinks=sinks)
    reason = supports_varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, scale=scale, window=window, sinks=sinks)
    if reason is not None:
        raise ValueError(reason)
    (_, H, D), (_, G, V) = query.shape, value.shape
    arch = kernels.architecture(query.device)
    head_width, value_width = kernel_widths(D, V, arch=arch, is_grouped=H > G)
    sinks = None if sinks is None else constant_where_absent(sinks)
    out, lse = kernels.call_packed(
        pad_width(query, head_width),
        pad_width(key, head_width),
        pad_width(value, value_width),
        cu_seqlens_q=cu_seqlens_q.to(query.device, torch.int32).contiguous(),
        cu_seqlens_k=cu_seqlens_k.to(query.device, torch.int32).contiguous(),
        max_seqlen_q=lengths_q,
        max_seqlen_k=lengths_k,
        scale=scale,
        window=binding_window(window, queries=lengths_q, keys=lengths_k),
        sinks=sinks,
    )
    return VarlenAttentionOutput(out[..., :V], lse if sinks is None else finite_logsumexp(lse, sinks))


def supports_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,  # noqa: ARG001  # the call's own arguments
    cu_seqlens_k: Tensor,  # noqa: ARG001  # the call's own arguments
    *,
    scale: float,
    window: Window = (None, None),  # noqa: ARG001  # the call's own arguments
    sinks: Tensor | None = None,
) -> str | None:
    """Returns None if ``varlen_attention`` computes this call, else a sentence that says why not."""
    reason = kernels.refuse_call(query, key, value, scale=scale, sinks=sinks) or kernels.refuse_machine(query.device)
    if reason is None:
        reason = refuse_widths(
            query.shape[-1],
            value.shape[-1],
            arch=kernels.architecture(query.device),
            needs_gradients=needs_gradients(query, key, value, sinks),
        )
    return reason


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    window: Window,
    sinks: Tensor | None,
) -> tuple[int, int]:
    """Refuses arguments that do not fit each other; returns the longest sequence of queries and of keys."""
    check_shape("query", query, ("tokens", "H", "D"))
    check_shape("key", key, ("tokens", "G", query.shape[2]))
    check_shape("value", value, (*key.shape[:2], "V"))
    check_multiple("query heads", query.shape[1], key.shape[1])
    if len(window) != 2:
        raise ValueError(f"window: got {window!r}, expected a pair (left, right) of integers or None")
    check_window(window)
    if sinks is not None:
        check_shape("sinks", sinks, (query.shape[1],))
    starts_q = check_offsets("cu_seqlens_q", cu_seqlens_q, tokens=query.shape[0])
    starts_k = check_offsets("cu_seqlens_k", cu_seqlens_k, tokens=key.shape[0])
    if len(starts_q) != len(starts_k):
        raise ValueError(f"cu_seqlens_k: got {len(starts_k)} offsets, expected {len(starts_q)} as in cu_seqlens_q")
    return _longest(starts_q), _longest(starts_k)


def _longest(starts: list[int]) -> int:
    return max((end - start for start, end in pairwise(starts)), default=0)
