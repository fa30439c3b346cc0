"""Backward of softmax attention: weights are computed again from the stored logsumexp.

With ``P = exp(scale Q K^T + bias - lse)`` and the cotangents ``dO`` of out and ``dL`` of lse (Dao et al.,
FlashAttention-2, 2023, section 3.1; the cotangent of lse, the sink and the bias are added here)::

    delta = rowsum(dO * O) - dL        dS = P * (dO V^T - delta)
    dV = P^T dO     dK = scale dS^T Q     dQ = scale dS K     dsink = -sum exp(sink - lse) delta     dbias = dS

``O`` is the stored output. Roundings: ``P`` and ``dS`` to the storage format before a matrix product, gradients when
they are stored; everything else is float32. A first kernel computes, per row, ``delta`` and ``lse2``, the logsumexp in
base 2, which is +inf for a row without weights (``2^(logit - inf) = 0``); a second has the keys, a third the queries, a
fourth, only for a bias, the pairs.
Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from optimized.kernels.attention.bias_gradient import bias_gradient_kernel
from optimized.kernels.attention.call import (
    AttentionCall,
    constants,
    has_aligned_rows,
    has_extras,
    num_tiles,
    settings,
    shared_arguments,
)
from optimized.kernels.attention.key_gradient import key_value_gradient_kernel
from optimized.kernels.attention.query_gradient import query_gradient_kernel
from optimized.kernels.attention.row_terms import row_terms_kernel
from optimized.kernels.attention.tiling import (
    ROW_TILE,
    bias_gradient_tiles,
    key_value_gradient_tiles,
    query_gradient_tiles,
)
from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic
from optimized.kernels.tiling import padded_width

__all__ = ["Cotangents", "bias_gradient", "key_value_gradients", "query_gradient", "row_terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cotangents:
    """What the gradients are computed from, besides the call.

    Attributes:
        out: cotangent of out, ``(B, T, H, V)``, any strides.
        lse2: ``(B, H, T)`` float32, contiguous, logsumexp in base 2, +inf for a row without weights.
        delta: ``(B, H, T)`` float32, contiguous.
    """

    out: torch.Tensor
    lse2: torch.Tensor
    delta: torch.Tensor


def row_terms(
    call: AttentionCall,
    out: torch.Tensor,
    lse: torch.Tensor,
    out_gradient: torch.Tensor,
    lse_gradient: torch.Tensor | None,
) -> tuple[Cotangents, torch.Tensor | None]:
    """Returns the cotangents of the other kernels and the gradient of the sinks in float32, None without sinks.

    ``out`` and ``lse`` are what the forward pass returned, contiguous; the gradients may have any strides.
    """
    B, T, H, V = out.shape
    lse2, delta = torch.empty_like(lse), torch.empty_like(lse)
    row_tiles = triton.cdiv(T, ROW_TILE)
    partials = None if call.sinks is None else delta.new_zeros((H, B * row_tiles))
    cotangent = kernel_input(out_gradient)
    if delta.numel():
        with non_stop_arithmetic():
            row_terms_kernel[(row_tiles * B * H,)](
                kernel_input(out),
                cotangent,
                lse,
                lse_gradient,
                None if call.sinks is None else kernel_input(call.sinks).contiguous(),
                lse2,
                delta,
                partials,
                cotangent.stride(),
                (0, 0, 0) if lse_gradient is None else lse_gradient.stride(),
                T,
                H,
                VALUE_WIDTH=V,
                HAS_LSE_GRADIENT=lse_gradient is not None,
                HAS_SINKS=call.sinks is not None,
                BLOCK_M=ROW_TILE,
                BLOCK_V=padded_width(V),
                IS_ALIGNED=has_aligned_rows(out) and has_aligned_rows(out_gradient),
                num_warps=8 if padded_width(V) > 64 else 4,
                enable_fp_fusion=True,
            )
    return Cotangents(out=out_gradient, lse2=lse2, delta=delta), None if partials is None else partials.sum(1)


def key_value_gradients(
    call: AttentionCall, cotangents: Cotangents, *, of_key: bool = True, of_value: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Returns the gradients of key and value in the storage format, contiguous, each None if it is not wanted."""
    dtype, device = call.key.dtype, call.key.device
    tiles = key_value_gradient_tiles(**settings(call), has_extras=has_extras(call))
    key_gradient = allocate_output(call.key.shape, dtype=dtype, device=device) if of_key else None
    value_gradient = allocate_output(call.value.shape, dtype=dtype, device=device) if of_value else None
    launches = [(of_key, of_value)] if tiles.computes_both else [(of_key, False), (False, of_value)]
    arguments = shared_arguments(call, block=tiles.block_n, of_keys=True)
    count = num_tiles(call, arguments["schedule_pointer"], block=tiles.block_n, of_keys=True)
    for with_key, with_value in launches:
        if count and (with_key or with_value):
            with non_stop_arithmetic():
                key_value_gradient_kernel[(count * call.key.shape[2],)](
                    key_gradient,
                    value_gradient,
                    **_cotangent_arguments(cotangents),
                    scale=call.scale,
                    OF_KEY=with_key,
                    OF_VALUE=with_value,
                    **arguments,
                    **constants(call, tiles, cotangents.out),
                )
    return (
        None if key_gradient is None else finish_output(key_gradient, dtype=dtype),
        None if value_gradient is None else finish_output(value_gradient, dtype=dtype),
    )


def query_gradient(call: AttentionCall, cotangents: Cotangents) -> torch.Tensor:
    """Returns the gradient of query in the storage format, contiguous."""
    dtype, device = call.query.dtype, call.query.device
    tiles = query_gradient_tiles(**settings(call), has_extras=has_extras(call))
    gradient = allocate_output(call.query.shape, dtype=dtype, device=device)
    if gradient.numel():
        arguments = shared_arguments(call, block=tiles.block_m, of_keys=False)
        count = num_tiles(call, arguments["schedule_pointer"], block=tiles.block_m, of_keys=False)
        with non_stop_arithmetic():
            query_gradient_kernel[(count * call.query.shape[2],)](
                gradient,
                **_cotangent_arguments(cotangents),
                scale=call.scale,
                **arguments,
                **constants(call, tiles, cotangents.out),
            )
    return finish_output(gradient, dtype=dtype)


def bias_gradient(call: AttentionCall, cotangents: Cotangents) -> torch.Tensor:
    """Returns the gradient of the bias in its shape and format.

    Where the bias is one for all queries (all keys), the tiles' sums are stored first, in float32: as much as the bias
    would take if it had an entry per tile of queries (of keys) instead of one.
    """
    bias = call.bias
    assert bias is not None, "the caller has a bias"
    (B, T, H, _), S = call.query.shape, call.key.shape[1]
    shape = (1,) * (4 - bias.ndim) + tuple(bias.shape)
    if not B * T * H * S:
        return torch.zeros_like(bias)
    tiles = bias_gradient_tiles(**settings(call))
    sums = [shape[2] == 1 < T, shape[3] == 1 < S]
    query_tiles, key_tiles = triton.cdiv(T, tiles.block_m), triton.cdiv(S, tiles.block_n)
    stored = (*shape[:2], query_tiles if sums[0] else T, key_tiles if sums[1] else S)
    dtype = torch.float32 if any(sums) else bias.dtype
    gradient = allocate_output(stored, dtype=dtype, device=bias.device)
    of_single_pairs = ("schedule_pointer", "HAS_BIAS", "IS_PACKED", "DTYPE", "INTERPRETED")
    arguments = shared_arguments(call, block=tiles.block_m, of_keys=False) | constants(call, tiles, cotangents.out)
    with non_stop_arithmetic():
        bias_gradient_kernel[(shape[0] * shape[1] * query_tiles * key_tiles,)](
            gradient,
            **_cotangent_arguments(cotangents),
            num_shared_batches=B // shape[0],
            num_shared_heads=H // shape[1],
            SUMS_QUERIES=sums[0],
            SUMS_KEYS=sums[1],
            **{name: value for name, value in arguments.items() if name not in of_single_pairs},
        )
    if any(sums):
        gradient = gradient.sum([axis for axis, is_sum in zip((2, 3), sums, strict=True) if is_sum])
    return finish_output(gradient, dtype=bias.dtype).reshape(bias.shape)


def _cotangent_arguments(cotangents: Cotangents) -> dict[str, Any]:
    out_gradient = kernel_input(cotangents.out)
    return {
        "out_gradient_pointer": out_gradient,
        "lse2_pointer": cotangents.lse2,
        "delta_pointer": cotangents.delta,
        "out_gradient_strides": out_gradient.stride(),
    }
