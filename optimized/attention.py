"""Softmax attention on Triton kernels, forward and backward, with windows, sinks, key masks and the logsumexp.

Per query ``t`` of head ``h``, over the keys ``s`` that it sees, with ``a_ts = scale <q_t, k_s>``::

    lse_t = log(exp(sink_h) + sum_s exp(a_ts))        out_t = sum_s exp(a_ts - lse_t) v_s

Source: FlashAttention-2 (Dao 2023) for the order of computation; see ``kernels/attention``
for the kernels and their roundings. Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads,
D query/key head width, V value head width.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.attention.backward import SavedAttention, key_value_gradients, query_gradient, row_terms
from optimized.kernels.attention.forward import attention_forward
from optimized.kernels.precision import STORAGE_DTYPES
from optimized.kernels.target import refuse_device

__all__ = ["AttentionOutput", "attention", "supports"]

_MAX_WIDTH = 256


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
    """Returns softmax attention and its logsumexp; differentiable once in query, key, value and sinks, through both.

    Query head ``h`` reads key/value head ``h // (H / G)``. A row that sees no key has ``out = 0``, ``lse = -inf`` (with
    a sink: ``lse = sink``) and zero gradients. A hidden key has no influence, even if its key or value is NaN, where
    ``key_mask`` hides it; a NaN that only the window hides can reach rows of its own tile. Gradients repeat bit by bit.

    Args:
        query: ``(B, T, H, D)``, float32, bfloat16 or float16, any strides, like key and value.
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``; V may differ from D.
        scale: factor of the logits.
        window: ``(left, right)``: query ``t`` stands at key position ``t + S - T`` and sees the keys from ``left``
            before to ``right`` after it; None is unbounded, causal is ``(None, 0)``.
        sinks: ``(H,)``, one logit per head that enters the denominator, not multiplied by ``scale``.
        key_mask: ``(B, S)`` bool, True where a key may be seen.
        bias: refused, see ``supports``.

    Raises:
        ValueError: an argument does not fit the others, or ``supports`` names a reason.
        TypeError: ``key_mask`` is not boolean.
    """
    _check(query, key, value, window=window, sinks=sinks, key_mask=key_mask)
    reason = supports(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if reason is not None:
        raise ValueError(reason)
    out, lse = _Attention.apply(query, key, value, sinks, key_mask, float(scale), window)  # type: ignore[no-untyped-call]  # torch
    return AttentionOutput(out, lse)


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
    tensors = [tensor for tensor in (query, key, value, sinks, key_mask) if tensor is not None]
    devices = sorted({str(tensor.device) for tensor in tensors})
    dtypes = [tensor.dtype for tensor in (query, key, value, sinks) if tensor is not None]
    unsupported = [dtype for dtype in dtypes if dtype not in STORAGE_DTYPES]
    width = max(query.shape[-1], value.shape[-1])
    reasons = (
        (bias is not None, "bias: got a tensor, expected None: the kernels have no additive bias"),
        (width > _MAX_WIDTH, f"head width: got {width}, expected at most {_MAX_WIDTH}"),
        (bool(unsupported), f"dtype: got {unsupported[:1]}, expected float32, bfloat16 or float16"),
        (len(set(dtypes[:3])) > 1, f"dtype: got {dtypes[:3]}, expected one for query, key and value"),
        (len(devices) > 1, f"device: got {', '.join(devices)}, expected the same device for all tensors"),
    )
    return next((sentence for applies, sentence in reasons if applies), refuse_device(query.device))


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    window: tuple[int | None, int | None],
    sinks: torch.Tensor | None,
    key_mask: torch.Tensor | None,
) -> None:
    """Refuses arguments that do not fit each other."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim != 4 or 0 in tensor.shape[2:]:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected (batch, tokens, heads, width)")
    B, _, H, D = query.shape
    S, G = key.shape[1:3]
    if key.shape != (B, S, G, D):
        raise ValueError(f"key: got shape {tuple(key.shape)}, expected batch {B} and width {D} as in query")
    if value.shape[:3] != (B, S, G):
        raise ValueError(f"value: got shape {tuple(value.shape)}, expected ({B}, {S}, {G}, width) as in key")
    if H % G:
        raise ValueError(f"query: got {H} heads, expected a multiple of the {G} key/value heads")
    if len(window) != 2 or any(side is not None and side < 0 for side in window):
        raise ValueError(f"window: got {window}, expected (left, right), each None or at least 0")
    if sinks is not None and sinks.shape != (H,):
        raise ValueError(f"sinks: got shape {tuple(sinks.shape)}, expected ({H},)")
    if key_mask is not None and key_mask.shape != (B, S):
        raise ValueError(f"key_mask: got shape {tuple(key_mask.shape)}, expected ({B}, {S})")
    if key_mask is not None and key_mask.dtype != torch.bool:
        raise TypeError(f"key_mask: got {key_mask.dtype}, expected torch.bool")


class _Attention(torch.autograd.Function):
    """Ties the forward and the backward kernels together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        key_mask: torch.Tensor | None,
        scale: float,
        window: tuple[int | None, int | None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch
            out, lse = attention_forward(query, key, value, sinks, key_mask, scale=scale, window=window)
        ctx.save_for_backward(query, key, value, sinks, key_mask, out, lse)
        ctx.scale, ctx.window = scale, window
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor | None,
        lse_gradient: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, key_mask, out, lse = ctx.saved_tensors
        saved = SavedAttention(
            query=query,
            key=key,
            value=value,
            sinks=sinks,
            key_mask=key_mask,
            out=out,
            lse=lse,
            scale=ctx.scale,
            window=ctx.window,
        )
        if out_gradient is None:
            out_gradient = out.new_zeros(()).expand(out.shape)
        lse2, delta, sink_gradient = row_terms(saved, out_gradient, lse_gradient)
        of_query = of_key = of_value = of_sinks = None
        if ctx.needs_input_grad[0]:
            of_query = query_gradient(saved, out_gradient, lse2, delta)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_key, of_value = key_value_gradients(saved, out_gradient, lse2, delta)
        if ctx.needs_input_grad[3] and sink_gradient is not None:
            of_sinks = sink_gradient.to(sinks.dtype)
        return of_query, of_key, of_value, of_sinks, None, None, None
