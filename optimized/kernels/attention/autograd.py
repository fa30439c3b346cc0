"""The autograd function of softmax attention, dense and packed: ties forward and backward kernels together."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from optimized.kernels.attention.backward import bias_gradient, key_value_gradients, query_gradient, row_terms
from optimized.kernels.attention.call import AttentionCall
from optimized.kernels.attention.forward import attention_forward
from optimized.kernels.attention.packing import Packing

__all__ = ["attend"]


def attend(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ``out (B, T, H, V)`` and ``lse (B, H, T)`` of a checked call, differentiable once."""
    out, lse = _Attention.apply(  # type: ignore[no-untyped-call]  # torch
        call.query,
        call.key,
        call.value,
        call.sinks,
        call.bias,
        call.key_mask,
        call.scale,
        call.window,
        call.packing,
    )
    return out, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        bias: torch.Tensor | None,
        key_mask: torch.Tensor | None,
        scale: float,
        window: tuple[int | None, int | None],
        packing: Packing | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        call = AttentionCall(
            query=query,
            key=key,
            value=value,
            sinks=sinks,
            key_mask=key_mask,
            bias=bias,
            scale=scale,
            window=window,
            packing=packing,
        )
        # Triton launches on the current device, which need not be that of the tensors (autograd sees to it backwards).
        with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch
            out, lse = attention_forward(call)
        ctx.save_for_backward(query, key, value, sinks, bias, key_mask, out, lse)
        ctx.scale, ctx.window, ctx.packing = scale, window, packing
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  # takes attributes
        out_gradient: torch.Tensor | None,
        lse_gradient: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, bias, key_mask, out, lse = ctx.saved_tensors
        call = AttentionCall(
            query=query,
            key=key,
            value=value,
            sinks=sinks,
            key_mask=key_mask,
            bias=bias,
            scale=ctx.scale,
            window=ctx.window,
            packing=ctx.packing,
        )
        if out_gradient is None:
            out_gradient = out.new_zeros(()).expand(out.shape)
        cotangents, sink_gradient = row_terms(call, out, lse, out_gradient, lse_gradient)
        of_key, of_value = key_value_gradients(
            call, cotangents, of_key=ctx.needs_input_grad[1], of_value=ctx.needs_input_grad[2]
        )
        needs_sinks = ctx.needs_input_grad[3] and sink_gradient is not None
        return (
            query_gradient(call, cotangents) if ctx.needs_input_grad[0] else None,
            of_key,
            of_value,
            sink_gradient.to(sinks.dtype) if needs_sinks and sink_gradient is not None else None,
            bias_gradient(call, cotangents) if ctx.needs_input_grad[4] else None,
            None,
            None,
            None,
            None,
        )
