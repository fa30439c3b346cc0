"""Forward kernel of softmax attention: one pass over the keys with a running maximum.

For each tile of queries the kernel keeps, per row, the maximum of the base-2 logits ``m``, the sum ``l`` of
``2^(logit - m)`` and the unnormalised output, and rescales them when the maximum moves (Milakov and Gimelshein 2018;
Dao et al., FlashAttention-2, 2023, section 3.1). Roundings: the weights ``2^(logit - m)`` to the storage format before
the product with the values, the output when it is stored; everything else is float32.
Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

import math

import torch
import triton
import triton.language as tl

from optimized.kernels.attention.window import effective_window, hide_outside, load_rows, partner_tiles
from optimized.kernels.precision import (
    allocate_output,
    finish_output,
    kernel_input,
    kernels_are_interpreted,
    non_stop_arithmetic,
    to_operand,
    to_stored,
    triton_dtype,
)
from optimized.kernels.target import architecture
from optimized.kernels.tiling import attention_forward_tiles, padded_width

__all__ = ["attention_forward"]


def attention_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    *,
    scale: float,
    window: tuple[int | None, int | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ``out (B, T, H, V)`` in the storage format and ``lse (B, H, T)`` in float32 of checked arguments."""
    B, T, H, D = query.shape
    S, G, V = value.shape[1:]
    out = allocate_output((B, T, H, V), dtype=query.dtype, device=query.device)
    lse = torch.empty((B, H, T), dtype=torch.float32, device=query.device)
    tiles = attention_forward_tiles(head_width=D, value_width=V, dtype=query.dtype, arch=architecture(query.device))
    left, right = effective_window(window, num_queries=T, num_keys=S)
    query_in, key_in, value_in = kernel_input(query), kernel_input(key), kernel_input(value)
    if lse.numel():
        with non_stop_arithmetic():
            _forward_kernel[(triton.cdiv(T, tiles.block_m) * B * H,)](
                query_in,
                key_in,
                value_in,
                None if sinks is None else kernel_input(sinks).contiguous(),
                None if key_mask is None else key_mask.view(torch.uint8),
                out,
                lse,
                query_in.stride(),
                key_in.stride(),
                value_in.stride(),
                (0, 0) if key_mask is None else key_mask.stride(),
                T,
                S,
                H,
                scale * math.log2(math.e),
                left or 0,
                right or 0,
                HEADS_PER_KEY=H // G,
                WIDTH=D,
                VALUE_WIDTH=V,
                HAS_LEFT=left is not None,
                HAS_RIGHT=right is not None,
                HAS_SINKS=sinks is not None,
                HAS_KEY_MASK=key_mask is not None,
                BLOCK_M=tiles.block_m,
                BLOCK_N=tiles.block_n,
                BLOCK_D=padded_width(D),
                BLOCK_V=padded_width(V),
                DTYPE=triton_dtype(query.dtype),
                INTERPRETED=kernels_are_interpreted(),
                num_warps=tiles.num_warps,
                num_stages=tiles.num_stages,
                enable_fp_fusion=True,
            )
    return finish_output(out, dtype=query.dtype), lse


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _attend(
    weighted_sum: tl.tensor,
    maximum: tl.tensor,
    denominator: tl.tensor,
    query: tl.tensor,
    key_base: tl.tensor,
    value_base: tl.tensor,
    mask_base: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    mask_stride: tl.tensor,
    positions: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    S: tl.tensor,
    scale_log2: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """Adds the key tiles from ``begin`` to ``end`` to the running sums; without MASKED all of them are visible."""
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < S
        first = tl.cast(start, tl.int64)
        if HAS_KEY_MASK:
            is_key = is_key & (tl.load(mask_base + keys.to(tl.int64) * mask_stride, mask=is_key, other=0) != 0)
        key = load_rows(
            key_base + first * key_strides[1],
            is_key,
            key_strides[1],
            key_strides[3],
            BLOCK_N,
            WIDTH,
            BLOCK_D,
            MASKED=MASKED,
        )
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale_log2
        if MASKED:
            logits = tl.where(is_key[None, :], logits, float("-inf"))
            logits = hide_outside(logits, keys[None, :] - positions[:, None], left, right, HAS_LEFT, HAS_RIGHT)
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        # A row that has seen no key yet has the maximum -inf, and -inf less -inf would be NaN.
        finite_maximum = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weights = tl.exp2(logits - finite_maximum[:, None])
        decay = tl.exp2(maximum - finite_maximum)
        denominator = denominator * decay + tl.sum(weights, 1)
        value = load_rows(
            value_base + first * value_strides[1],
            is_key,
            value_strides[1],
            value_strides[3],
            BLOCK_N,
            VALUE_WIDTH,
            BLOCK_V,
            MASKED=MASKED,
        )
        weighted_sum = weighted_sum * decay[:, None]
        weighted_sum = tl.dot(to_operand(weights, DTYPE, INTERPRETED), value, weighted_sum, input_precision="ieee")
        maximum = new_maximum
    return weighted_sum, maximum, denominator


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _forward_kernel(
    query_pointer: tl.tensor,
    key_pointer: tl.tensor,
    value_pointer: tl.tensor,
    sinks_pointer: tl.tensor,
    mask_pointer: tl.tensor,
    out_pointer: tl.tensor,
    lse_pointer: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    mask_strides: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    H: tl.tensor,
    scale_log2: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    HEADS_PER_KEY: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """One program: one tile of queries of one head of one batch entry."""
    num_tiles = tl.cdiv(T, BLOCK_M)
    batch_head = tl.cast(tl.program_id(0) // num_tiles, tl.int64)
    # Under a causal window the last tile has the most keys; the longest programs start first.
    first_query = (num_tiles - 1 - tl.program_id(0) % num_tiles) * BLOCK_M
    batch = batch_head // H
    head = batch_head % H
    queries = first_query + tl.arange(0, BLOCK_M)
    is_query = queries < T
    query_base = query_pointer + batch * query_strides[0] + head * query_strides[2]
    query = load_rows(
        query_base + tl.cast(first_query, tl.int64) * query_strides[1],
        is_query,
        query_strides[1],
        query_strides[3],
        BLOCK_M,
        WIDTH,
        BLOCK_D,
        MASKED=True,
    )
    mask_base = mask_pointer
    if HAS_KEY_MASK:
        mask_base = mask_pointer + batch * mask_strides[0]
    last_query = tl.minimum(first_query + BLOCK_M, T) - 1
    begin, full_begin, full_end, end = partner_tiles(
        first_query, last_query, S - T, left, right, S, HAS_LEFT, HAS_RIGHT, BLOCK_N
    )
    positions = queries + (S - T)
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    denominator = tl.zeros([BLOCK_M], tl.float32)
    weighted_sum = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    if HAS_KEY_MASK:
        full_end = begin
    for part in tl.static_range(3):
        if part == 0:
            stage_begin = begin
            stage_end = full_begin
        elif part == 1:
            stage_begin = full_begin
            stage_end = full_end
        else:
            stage_begin = full_end
            stage_end = end
        # Any tile may hold hidden keys under a key mask: all of them are then in the last part.
        if part == 2 or (not HAS_KEY_MASK and (part == 1 or HAS_LEFT)):
            weighted_sum, maximum, denominator = _attend(
                weighted_sum,
                maximum,
                denominator,
                query,
                key_pointer + batch * key_strides[0] + head // HEADS_PER_KEY * key_strides[2],
                value_pointer + batch * value_strides[0] + head // HEADS_PER_KEY * value_strides[2],
                mask_base,
                key_strides,
                value_strides,
                mask_strides[1],
                positions,
                stage_begin,
                stage_end,
                S,
                scale_log2,
                left,
                right,
                part != 1,
                WIDTH,
                VALUE_WIDTH,
                HAS_LEFT,
                HAS_RIGHT,
                HAS_KEY_MASK,
                BLOCK_N,
                BLOCK_D,
                BLOCK_V,
                DTYPE,
                INTERPRETED,
            )
    # The sink joins last: weights beside a large sink then stay in the range of a 16-bit format.
    final_maximum = maximum
    if HAS_SINKS:
        sink = tl.load(sinks_pointer + head).to(tl.float32) * 1.4426950408889634
        final_maximum = tl.maximum(maximum, sink)
    finite_maximum = tl.where(final_maximum == float("-inf"), 0.0, final_maximum)
    decay = tl.exp2(maximum - finite_maximum)
    denominator = denominator * decay
    if HAS_SINKS:
        denominator = denominator + tl.exp2(sink - finite_maximum)
    is_empty = denominator == 0.0
    factor = tl.where(is_empty, 0.0, decay / tl.where(is_empty, 1.0, denominator))
    lse = (finite_maximum + tl.log2(denominator)) * 0.6931471805599453
    tl.store(lse_pointer + batch_head * T + queries, lse, mask=is_query)
    columns = tl.arange(0, BLOCK_V)
    rows = (batch * T + queries) * H + head
    tl.store(
        out_pointer + rows[:, None] * VALUE_WIDTH + columns[None, :],
        to_stored(weighted_sum * factor[:, None], out_pointer),
        mask=is_query[:, None] & (columns < VALUE_WIDTH)[None, :],
    )
