"""Softmax attention on Triton kernels, forward and backward: windows, sinks, key masks, bias and the logsumexp.

Per query ``t`` of head ``h``, over the keys ``s`` that it sees, with ``a_ts = scale <q_t, k_s> + bias_ts``::

    lse_t = log(exp(sink_h) + sum_s exp(a_ts))        out_t = sum_s exp(a_ts - lse_t) v_s

Source: FlashAttention-2 (Dao 2023) for the order of computation; see ``kernels/attention``
for the kernels and their roundings. Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads,
D query/key head width, V value head width.
"""

from typing import NamedTuple

import torch

from optimized.eager.checks import check_attention
from optimized.kernels.attention.autograd import attend
from optimized.kernels.attention.call import AttentionCall
from optimized.kernels.attention.refusals import check_heads, check_window, refuse

__all__ = ["AttentionOutput", "attention", "supports"]


class AttentionOutput(NamedTuple):
    """Result of attention.

    Attributes:
        out: ``(B, T, H, V)`` in the format of query.
        lse: ``(B, H, T)`` float32, natural log of the softmax denominator, sink included.
    """

    out: torch.Tensor
    lse: torch.Tensor


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    window: tuple[int | None, int | None] = (None, None),
    sinks: torch.Tensor | None = None,
    key_mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> AttentionOutput:
    """Returns softmax attention and its logsumexp; differentiable once in every floating-point tensor, through both.

    Query head ``h`` reads key/value head ``h // (H / G)``. A row that sees no key has ``out = 0``, ``lse = -inf`` (with
    a sink: ``lse = sink``) and zero gradients. A hidden key has no influence, even if its key or value is NaN, where
    ``key_mask`` hides it; a NaN that only the window or the bias hides can reach rows of its own tile. Gradients repeat
    bit by bit.

    Memory beyond inputs and results: two float32 ``(B, H, T)`` in the backward pass. The gradient of a bias that has
    one row for all queries (one column for all keys) takes a float32 buffer with a row (column) for every 16 to 64 of
    them; no ``(B, H, T, S)`` is stored unless it is the shape of the bias.

    Args:
        query: ``(B, T, H, D)``, float32, bfloat16 or float16, any strides, like key, value and bias.
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``; V may differ from D.
        scale: factor of the logits.
        window: ``(left, right)``: query ``t`` stands at key position ``t + S - T`` and sees the keys from ``left``
            before to ``right`` after it; None is unbounded, causal is ``(None, 0)``.
        sinks: ``(H,)``, one logit per head that enters the denominator, not multiplied by ``scale``.
        key_mask: ``(B, S)`` bool, True where a key may be seen.
        bias: broadcasts to ``(B, H, T, S)``, in the format of query or float32; added to the scaled logits, ``-inf``
            hides. Its gradient has its shape and format and is summed in float32.

    Raises:
        ValueError: an argument does not fit the others, or ``supports`` names a reason.
        TypeError: ``key_mask`` is not boolean.
    """
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    check_heads(query, key, value)
    check_window(window)
    reason = supports(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if reason is not None:
        raise ValueError(reason)
    call = AttentionCall(
        query=query,
        key=key,
        value=value,
        sinks=sinks,
        key_mask=key_mask,
        bias=bias,
        scale=float(scale),
        window=window,
        packing=None,
    )
    return AttentionOutput(*attend(call))


def supports(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,  # noqa: ARG001  # the call's own arguments
    window: tuple[int | None, int | None] = (None, None),  # noqa: ARG001  # the call's own arguments
    sinks: torch.Tensor | None = None,
    key_mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> str | None:
    """Returns None if ``attention`` computes this call, else a sentence that says why not; arguments as there."""
    return refuse(query, key, value, sinks=sinks, key_mask=key_mask, bias=bias)
