"""Softmax attention over packed sequences on the Triton kernels of ``attention``, forward and backward.

Every sequence is an ``attention`` of its own: its queries see its keys and no others, its window is aligned at its end.
Source: the packed layout of FlashAttention. Letters: H query heads, G key/value heads, D query/key head width, V value
head width.
"""

from typing import NamedTuple

import torch

from optimized.eager.checks import check_offsets, check_shape
from optimized.kernels.attention.autograd import attend
from optimized.kernels.attention.call import AttentionCall
from optimized.kernels.attention.packing import Packing
from optimized.kernels.attention.refusals import check_heads, check_window, refuse

__all__ = ["VarlenAttentionOutput", "supports", "varlen_attention"]


class VarlenAttentionOutput(NamedTuple):
    """Result of packed attention.

    Attributes:
        out: ``(query tokens, H, V)`` in the format of query.
        lse: ``(H, query tokens)`` float32, natural log of the softmax denominator, sink included.
    """

    out: torch.Tensor
    lse: torch.Tensor


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    *,
    scale: float,
    window: tuple[int | None, int | None] = (None, None),
    sinks: torch.Tensor | None = None,
) -> VarlenAttentionOutput:
    """Returns attention of every sequence and its logsumexp; differentiable once in every floating-point tensor.

    All sequences run in the same launches. The host reads the offsets, which waits for the GPU if they lie there:
    offsets on the CPU are legal and do not. A sequence of length 0 is legal on either side; queries without keys give
    ``out = 0``, ``lse = -inf`` (with a sink: ``lse = sink``) and zero gradients. Gradients repeat bit by bit.

    Args:
        query: ``(query tokens, H, D)``, float32, bfloat16 or float16, any strides, like key and value.
        key: ``(key tokens, G, D)``; query head ``h`` reads key/value head ``h // (H / G)``.
        value: ``(key tokens, G, V)``; V may differ from D.
        cu_seqlens_q: integers ``[0, ..., query tokens]``, one more than there are sequences, on any device.
        cu_seqlens_k: the same for keys and values, as many.
        scale: factor of the logits.
        window: ``(left, right)`` as in ``attention``, with the lengths of each sequence.
        sinks: ``(H,)``, one logit per head that enters the denominator, not multiplied by ``scale``.

    Raises:
        ValueError: an argument does not fit the others, or ``supports`` names a reason.
        TypeError: the offsets are not integers.
    """
    _check(query, key, value, sinks)
    check_window(window)
    starts_q = _offsets("cu_seqlens_q", cu_seqlens_q, tokens=query.shape[0])
    starts_k = _offsets("cu_seqlens_k", cu_seqlens_k, tokens=key.shape[0])
    if len(starts_q) != len(starts_k):
        raise ValueError(f"cu_seqlens_k: got {len(starts_k)} offsets, expected {len(starts_q)} as in cu_seqlens_q")
    reason = supports(query, key, value, cu_seqlens_q, cu_seqlens_k, scale=scale, window=window, sinks=sinks)
    if reason is not None:
        raise ValueError(reason)
    call = AttentionCall(
        query=query[None],
        key=key[None],
        value=value[None],
        sinks=sinks,
        key_mask=None,
        bias=None,
        scale=float(scale),
        window=window,
        packing=Packing(query_offsets=starts_q, key_offsets=starts_k),
    )
    out, lse = attend(call)
    return VarlenAttentionOutput(out[0], lse[0])


def supports(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,  # noqa: ARG001  # the call's own arguments
    cu_seqlens_k: torch.Tensor,  # noqa: ARG001  # the call's own arguments
    *,
    scale: float,  # noqa: ARG001  # the call's own arguments
    window: tuple[int | None, int | None] = (None, None),  # noqa: ARG001  # the call's own arguments
    sinks: torch.Tensor | None = None,
) -> str | None:
    """Returns None if ``varlen_attention`` computes this call, else a sentence that says why not."""
    return refuse(query, key, value, sinks=sinks, key_mask=None, bias=None)


def _check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None) -> None:
    """Refuses tensors that do not fit each other."""
    check_shape("query", query, ("tokens", "H", "D"))
    check_shape("key", key, ("tokens", "G", query.shape[2]))
    check_shape("value", value, (key.shape[0], key.shape[1], "V"))
    check_heads(query, key, value)
    if sinks is not None:
        check_shape("sinks", sinks, (query.shape[1],))


def _offsets(name: str, offsets: torch.Tensor, *, tokens: int) -> tuple[int, ...]:
    """Returns checked offsets as numbers."""
    if offsets.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: got {offsets.dtype}, expected int32 or int64")
    return tuple(check_offsets(name, offsets, tokens=tokens))
