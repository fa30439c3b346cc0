"""Batched softmax attention on FlashAttention 4.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.checks import Window, check_attention
from optimized.flash4 import kernels
from optimized.flash4.key_masks import binding_window, masked_attention, refuse_key_mask
from optimized.flash4.sinks import constant_where_absent, finite_logsumexp
from optimized.flash4.widths import kernel_widths, pad_width, refuse_widths

__all__ = ["AttentionOutput", "attention", "check_window", "needs_gradients", "supports"]


class AttentionOutput(NamedTuple):
    """Result of attention.

    Attributes:
        out: ``(B, T, H, V)`` in the format of query.
        lse: ``(B, H, T)`` float32, natural log of the softmax denominator, sink included.
    """

    out: Tensor
    lse: Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> AttentionOutput:
    """Returns softmax attention and its logsumexp; differentiable once in query, key, value and sinks, through both.

    Query head ``h`` reads key/value head ``h // (H / G)``. A row that sees no key has ``out = 0``, ``lse = -inf`` (with
    a sink: ``lse = sink``) and zero gradients. A key hidden by ``key_mask`` has no influence, even if it is NaN; a NaN
    that only the window hides can reach rows near it. Gradients of query, key and value are sums in no fixed order,
    unless ``torch.use_deterministic_algorithms`` is on.

    Args:
        query: ``(B, T, H, D)``, bfloat16 or float16, like key and value. Widths other than 64, 96, 128, 192 and 256 are
            padded with zeros, which copies the tensor.
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``; V may differ from D.
        scale: factor of the scores, positive.
        window: ``(left, right)``: query ``t`` stands at key position ``t + S - T`` and sees the keys from ``left``
            before to ``right`` after it; None is unbounded, causal is ``(None, 0)``.
        sinks: ``(H,)``, one logit per head that enters the denominator, not multiplied by ``scale``.
        key_mask: ``(B, S)`` bool, True where a key may be seen; copies key and value. In a window that hides anything,
            hidden keys may stand at the start only, in a causal one also at the end, and the mask is read, which waits
            for the GPU.
        bias: refused, see ``supports``.

    Raises:
        ValueError: an argument does not fit the others, or ``supports`` names a reason.
        TypeError: ``key_mask`` is not boolean.

    Source: FlashAttention-4, ``flash_attn.cute.flash_attn_func`` and ``flash_attn_varlen_func``, 4.0.0b36.
    """
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    check_window(window)
    reason = supports(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if reason is not None:
        raise ValueError(reason)
    (_, T, H, D), (_, S, G, V) = query.shape, value.shape
    window = binding_window(window, queries=T, keys=S)
    head_width, value_width = kernel_widths(D, V, arch=kernels.architecture(query.device), is_grouped=H > G)
    query, key, value = pad_width(query, head_width), pad_width(key, head_width), pad_width(value, value_width)
    sinks = None if sinks is None else constant_where_absent(sinks)
    if key_mask is None:
        out, lse = kernels.call_dense(query, key, value, scale=scale, window=window, sinks=sinks)
    else:
        out, lse = masked_attention(query, key, value, key_mask, scale=scale, window=window, sinks=sinks)
    return AttentionOutput(out[..., :V], lse if sinks is None else finite_logsumexp(lse, sinks))


def supports(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> str | None:
    """Returns None if ``attention`` computes this call, else a sentence that says why not; arguments as there.

    Gradients count as wanted where gradients are recorded and one of the tensors requires one.
    """
    if bias is not None:
        return "bias: got a tensor, expected None: FlashAttention 4 adds no bias"
    if key_mask is not None and key_mask.device != query.device:
        return f"key_mask: got one on {key_mask.device}, expected {query.device} as for query"
    reason = kernels.refuse_call(query, key, value, scale=scale, sinks=sinks) or kernels.refuse_machine(query.device)
    if reason is None:
        reason = refuse_widths(
            query.shape[-1],
            value.shape[-1],
            arch=kernels.architecture(query.device),
            needs_gradients=needs_gradients(query, key, value, sinks),
        )
    if reason is None and key_mask is not None:
        reason = refuse_key_mask(key_mask, binding_window(window, queries=query.shape[1], keys=key.shape[1]))
    return reason


def needs_gradients(*tensors: Tensor | None) -> bool:
    """Returns whether torch records what is done with one of the tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def check_window(window: Window) -> None:
    """Refuses a window with a negative bound.

    Raises:
        ValueError: a bound is below 0.
    """
    if any(side is not None and side < 0 for side in window):
        raise ValueError(f"window: got {tuple(window)}, expected (left, right), each None or at least 0")
