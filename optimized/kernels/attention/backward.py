"""Backward of softmax attention: weights are computed again from the stored logsumexp.

With ``P = exp(scale Q K^T - lse)`` and the cotangents ``dO`` of out and ``dL`` of lse (Dao et al., FlashAttention-2,
2023, section 3.1; the cotangent of lse and the sink are added here)::

    delta = rowsum(dO * O) - dL        dS = P * (dO V^T - delta)
    dV = P^T dO     dK = scale dS^T Q     dQ = scale dS K     dsink = -sum exp(sink - lse) delta

``O`` is the stored output. Roundings: ``P`` and ``dS`` to the storage format before a matrix product, gradients when
they are stored; everything else is float32. A first kernel computes, per row, ``delta`` and ``lse2``, the logsumexp in
base 2, which is +inf for a row without weights (``2^(logit - inf) = 0``); a second has the keys, a third the queries.
Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from optimized.kernels.attention.key_gradient import key_value_gradient_kernel
from optimized.kernels.attention.query_gradient import query_gradient_kernel
from optimized.kernels.attention.window import effective_window, load_rows
from optimized.kernels.precision import (
    allocate_output,
    finish_output,
    kernel_input,
    kernels_are_interpreted,
    non_stop_arithmetic,
    triton_dtype,
)
from optimized.kernels.target import architecture
from optimized.kernels.tiling import (
    AttentionTiles,
    attention_key_value_gradient_tiles,
    attention_query_gradient_tiles,
    padded_width,
)

__all__ = ["SavedAttention", "key_value_gradients", "query_gradient", "row_terms"]

_ROW_TILE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAttention:
    """What the backward pass reads of the forward pass.

    Attributes:
        query: ``(B, T, H, D)``, any strides, like key, value and key_mask.
        key: ``(B, S, G, D)``.
        value: ``(B, S, G, V)``.
        sinks: ``(H,)`` or None.
        key_mask: ``(B, S)`` bool or None.
        out: ``(B, T, H, V)``, contiguous, as it was stored.
        lse: ``(B, H, T)`` float32, contiguous.
        scale: factor of the logits.
        window: ``(left, right)``.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor | None
    key_mask: torch.Tensor | None
    out: torch.Tensor
    lse: torch.Tensor
    scale: float
    window: tuple[int | None, int | None]


def row_terms(
    saved: SavedAttention, out_gradient: torch.Tensor, lse_gradient: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns ``lse2`` and ``delta``, both ``(B, H, T)``, and the gradient of the sinks or None, all float32."""
    B, T, H, V = saved.out.shape
    lse2, delta = torch.empty_like(saved.lse), torch.empty_like(saved.lse)
    num_tiles = triton.cdiv(T, _ROW_TILE)
    partials = None if saved.sinks is None else delta.new_zeros((H, B * num_tiles))
    cotangent = kernel_input(out_gradient)
    if delta.numel():
        with non_stop_arithmetic():
            _row_terms_kernel[(num_tiles * B * H,)](
                kernel_input(saved.out),
                cotangent,
                saved.lse,
                lse_gradient,
                None if saved.sinks is None else kernel_input(saved.sinks).contiguous(),
                lse2,
                delta,
                partials,
                cotangent.stride(),
                (0, 0, 0) if lse_gradient is None else lse_gradient.stride(),
                T,
                H,
                VALUE_WIDTH=V,
                HAS_LSE_GRADIENT=lse_gradient is not None,
                HAS_SINKS=saved.sinks is not None,
                BLOCK_M=_ROW_TILE,
                BLOCK_V=padded_width(V),
                num_warps=4,
                enable_fp_fusion=True,
            )
    return lse2, delta, None if partials is None else partials.sum(1)


def key_value_gradients(
    saved: SavedAttention, out_gradient: torch.Tensor, lse2: torch.Tensor, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of key and value in the storage format, contiguous."""
    B, S, G, D = saved.key.shape
    V, dtype, device = saved.value.shape[3], saved.key.dtype, saved.key.device
    tiles = attention_key_value_gradient_tiles(head_width=D, value_width=V, dtype=dtype, arch=architecture(device))
    key_gradient = allocate_output(saved.key.shape, dtype=dtype, device=device)
    value_gradient = allocate_output(saved.value.shape, dtype=dtype, device=device)
    if B * S * G:
        with non_stop_arithmetic():
            key_value_gradient_kernel[(triton.cdiv(S, tiles.block_n) * B * G,)](
                key_gradient,
                value_gradient,
                *_arguments(saved, out_gradient, lse2, delta),
                **_constants(saved, tiles),
            )
    return finish_output(key_gradient, dtype=dtype), finish_output(value_gradient, dtype=dtype)


def query_gradient(
    saved: SavedAttention, out_gradient: torch.Tensor, lse2: torch.Tensor, delta: torch.Tensor
) -> torch.Tensor:
    """Returns the gradient of query in the storage format, contiguous."""
    B, T, H, D = saved.query.shape
    V, dtype, device = saved.value.shape[3], saved.query.dtype, saved.query.device
    tiles = attention_query_gradient_tiles(head_width=D, value_width=V, dtype=dtype, arch=architecture(device))
    gradient = allocate_output(saved.query.shape, dtype=dtype, device=device)
    if B * T * H:
        with non_stop_arithmetic():
            query_gradient_kernel[(triton.cdiv(T, tiles.block_m) * B * H,)](
                gradient,
                *_arguments(saved, out_gradient, lse2, delta),
                **_constants(saved, tiles),
            )
    return finish_output(gradient, dtype=dtype)


def _arguments(
    saved: SavedAttention, out_gradient: torch.Tensor, lse2: torch.Tensor, delta: torch.Tensor
) -> tuple[Any, ...]:
    """Returns the arguments that both gradient kernels have after their outputs."""
    tensors = [kernel_input(tensor) for tensor in (saved.query, saved.key, saved.value, out_gradient)]
    mask = saved.key_mask
    left, right = _effective_window(saved)
    return (
        *tensors,
        None if mask is None else mask.view(torch.uint8),
        lse2,
        delta,
        *(tensor.stride() for tensor in tensors),
        (0, 0) if mask is None else mask.stride(),
        saved.query.shape[1],
        saved.key.shape[1],
        saved.query.shape[2],
        saved.scale,
        saved.scale * math.log2(math.e),
        left or 0,
        right or 0,
    )


def _constants(saved: SavedAttention, tiles: AttentionTiles) -> dict[str, Any]:
    """Returns the compile-time arguments and options that both gradient kernels have."""
    D, V = saved.query.shape[3], saved.value.shape[3]
    left, right = _effective_window(saved)
    return {
        "HEADS_PER_KEY": saved.query.shape[2] // saved.key.shape[2],
        "WIDTH": D,
        "VALUE_WIDTH": V,
        "HAS_LEFT": left is not None,
        "HAS_RIGHT": right is not None,
        "HAS_KEY_MASK": saved.key_mask is not None,
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "BLOCK_D": padded_width(D),
        "BLOCK_V": padded_width(V),
        "DTYPE": triton_dtype(saved.query.dtype),
        "INTERPRETED": kernels_are_interpreted(),
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
        "enable_fp_fusion": True,
    }


def _effective_window(saved: SavedAttention) -> tuple[int | None, int | None]:
    return effective_window(saved.window, num_queries=saved.query.shape[1], num_keys=saved.key.shape[1])


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _row_terms_kernel(
    out_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    lse_pointer: tl.tensor,
    lse_gradient_pointer: tl.tensor,
    sinks_pointer: tl.tensor,
    lse2_pointer: tl.tensor,
    delta_pointer: tl.tensor,
    sink_partials_pointer: tl.tensor,
    out_gradient_strides: tl.tensor,
    lse_gradient_strides: tl.tensor,
    T: tl.tensor,
    H: tl.tensor,
    VALUE_WIDTH: tl.constexpr,
    HAS_LSE_GRADIENT: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
) -> None:
    """Computes ``lse2``, ``delta = rowsum(dO * O) - dL`` and each tile's part of the gradient of the sink."""
    num_tiles = tl.cdiv(T, BLOCK_M)
    tile = tl.program_id(0) % num_tiles
    batch_head = tl.cast(tl.program_id(0) // num_tiles, tl.int64)
    batch = batch_head // H
    head = batch_head % H
    queries = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = queries < T
    rows = queries.to(tl.int64)
    lse = tl.load(lse_pointer + batch_head * T + rows, mask=is_query, other=float("-inf"))
    is_empty = lse == float("-inf")
    lse2 = tl.where(is_empty, float("inf"), lse * 1.4426950408889634)
    tl.store(lse2_pointer + batch_head * T + rows, lse2, mask=is_query)
    out = load_rows(
        out_pointer + ((batch * T + tile * BLOCK_M) * H + head) * VALUE_WIDTH,
        is_query,
        tl.cast(H, tl.int64) * VALUE_WIDTH,
        1,
        BLOCK_M,
        VALUE_WIDTH,
        BLOCK_V,
        MASKED=True,
    )
    out_gradient = load_rows(
        out_gradient_pointer
        + batch * out_gradient_strides[0]
        + tl.cast(tile * BLOCK_M, tl.int64) * out_gradient_strides[1]
        + head * out_gradient_strides[2],
        is_query,
        out_gradient_strides[1],
        out_gradient_strides[3],
        BLOCK_M,
        VALUE_WIDTH,
        BLOCK_V,
        MASKED=True,
    )
    delta = tl.sum(out.to(tl.float32) * out_gradient.to(tl.float32), 1)
    if HAS_LSE_GRADIENT:
        lse_gradient_base = lse_gradient_pointer + batch * lse_gradient_strides[0] + head * lse_gradient_strides[1]
        delta = delta - tl.load(lse_gradient_base + rows * lse_gradient_strides[2], mask=is_query, other=0.0)
    # A row without weights has no gradient, whatever its cotangents are.
    delta = tl.where(is_empty, 0.0, delta)
    tl.store(delta_pointer + batch_head * T + rows, delta, mask=is_query)
    if HAS_SINKS:
        sink = tl.load(sinks_pointer + head).to(tl.float32) * 1.4426950408889634
        partial = tl.sum(-tl.exp2(sink - lse2) * delta, 0)
        num_partials = tl.num_programs(0) // H
        tl.store(sink_partials_pointer + head * num_partials + batch * num_tiles + tile, partial)
