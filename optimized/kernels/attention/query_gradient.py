"""Backward kernel of softmax attention for the gradient of query: ``dQ = scale dS K``.

A program has a tile of queries of one head and runs over the keys that it sees. ``backward`` launches it and says what
its tensors are; letters as there.
"""

import triton
import triton.language as tl

from optimized.kernels.attention.packing import locate
from optimized.kernels.attention.window import add_bias, hide_outside, load_rows, partner_tiles
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["query_gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _add_keys(
    query_gradient: tl.tensor,
    query: tl.tensor,
    out_gradient: tl.tensor,
    lse2: tl.tensor,
    delta: tl.tensor,
    key_base: tl.tensor,
    value_base: tl.tensor,
    mask_base: tl.tensor,
    bias_rows: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    mask_stride: tl.tensor,
    bias_stride: tl.tensor,
    is_query: tl.tensor,
    positions: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    num_keys: tl.tensor,
    scale_log2: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Adds the key tiles from ``begin`` to ``end``; without MASKED all of them are visible."""
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < num_keys
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
            IS_ALIGNED=IS_ALIGNED,
        )
        value = load_rows(
            value_base + first * value_strides[1],
            is_key,
            value_strides[1],
            value_strides[3],
            BLOCK_N,
            VALUE_WIDTH,
            BLOCK_V,
            MASKED=MASKED,
            IS_ALIGNED=IS_ALIGNED,
        )
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale_log2
        if HAS_BIAS:
            logits = add_bias(
                logits,
                bias_rows[:, None] + keys.to(tl.int64)[None, :] * bias_stride,
                is_query[:, None] & is_key[None, :],
            )
        if MASKED:
            logits = tl.where(is_key[None, :], logits, float("-inf"))
            logits = hide_outside(logits, keys[None, :] - positions[:, None], left, right, HAS_LEFT, HAS_RIGHT)
        weights = tl.exp2(logits - lse2[:, None])
        weight_gradient = tl.dot(out_gradient, tl.trans(value), input_precision="ieee")
        logit_gradient = weights * (weight_gradient - delta[:, None])
        query_gradient = tl.dot(
            to_operand(logit_gradient, DTYPE, INTERPRETED), key, query_gradient, input_precision="ieee"
        )
    return query_gradient


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def query_gradient_kernel(
    query_gradient_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    lse2_pointer: tl.tensor,
    delta_pointer: tl.tensor,
    out_gradient_strides: tl.tensor,
    scale: tl.tensor,
    query_pointer: tl.tensor,
    key_pointer: tl.tensor,
    value_pointer: tl.tensor,
    mask_pointer: tl.tensor,
    bias_pointer: tl.tensor,
    schedule_pointer: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    mask_strides: tl.tensor,
    bias_strides: tl.tensor,
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
    HAS_KEY_MASK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> None:
    """One program: one tile of queries of one head of one sequence."""
    batch, head, first_query, query_start, num_queries, key_start, num_keys = locate(
        schedule_pointer, T, S, H, BLOCK_M, OF_KEYS=False, IS_PACKED=IS_PACKED
    )
    key_head = head // HEADS_PER_KEY
    queries = first_query + tl.arange(0, BLOCK_M)
    is_query = queries < num_queries
    # Where this tile's first row lies in the tensors.
    first_row = query_start + first_query
    query = load_rows(
        query_pointer + batch * query_strides[0] + first_row * query_strides[1] + head * query_strides[2],
        is_query,
        query_strides[1],
        query_strides[3],
        BLOCK_M,
        WIDTH,
        BLOCK_D,
        MASKED=True,
        IS_ALIGNED=IS_ALIGNED,
    )
    out_gradient = load_rows(
        out_gradient_pointer
        + batch * out_gradient_strides[0]
        + first_row * out_gradient_strides[1]
        + head * out_gradient_strides[2],
        is_query,
        out_gradient_strides[1],
        out_gradient_strides[3],
        BLOCK_M,
        VALUE_WIDTH,
        BLOCK_V,
        MASKED=True,
        IS_ALIGNED=IS_ALIGNED,
    )
    row_base = (batch * H + head) * T + query_start
    lse2 = tl.load(lse2_pointer + row_base + queries, mask=is_query, other=float("inf"))
    delta = tl.load(delta_pointer + row_base + queries, mask=is_query, other=0.0)
    mask_base = mask_pointer
    if HAS_KEY_MASK:
        mask_base = mask_pointer + batch * mask_strides[0]
    bias_rows = bias_pointer
    if HAS_BIAS:
        bias_base = bias_pointer + batch * bias_strides[0] + head * bias_strides[1]
        bias_rows = bias_base + queries.to(tl.int64) * bias_strides[2]
    last_query = tl.minimum(first_query + BLOCK_M, num_queries) - 1
    shift = num_keys - num_queries
    begin, full_begin, full_end, end = partner_tiles(
        first_query, last_query, shift, left, right, num_keys, HAS_LEFT, HAS_RIGHT, BLOCK_N
    )
    if HAS_KEY_MASK:
        full_end = begin
    query_gradient = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for part in tl.static_range(3):
        if part == 0:
            part_begin = begin
            part_end = full_begin
        elif part == 1:
            part_begin = full_begin
            part_end = full_end
        else:
            part_begin = full_end
            part_end = end
        # Any tile may hold hidden keys under a key mask: all of them are then in the last part.
        if part == 2 or (not HAS_KEY_MASK and (part == 1 or HAS_LEFT)):
            query_gradient = _add_keys(
                query_gradient,
                query,
                out_gradient,
                lse2,
                delta,
                key_pointer + batch * key_strides[0] + key_start * key_strides[1] + key_head * key_strides[2],
                value_pointer + batch * value_strides[0] + key_start * value_strides[1] + key_head * value_strides[2],
                mask_base,
                bias_rows,
                key_strides,
                value_strides,
                mask_strides[1],
                bias_strides[3],
                is_query,
                queries + shift,
                part_begin,
                part_end,
                num_keys,
                scale_log2,
                left,
                right,
                part != 1,
                WIDTH,
                VALUE_WIDTH,
                HAS_LEFT,
                HAS_RIGHT,
                HAS_KEY_MASK,
                HAS_BIAS,
                BLOCK_N,
                BLOCK_D,
                BLOCK_V,
                DTYPE,
                INTERPRETED,
                IS_ALIGNED,
            )
    columns = tl.arange(0, BLOCK_D)
    rows = (batch * T + query_start + queries) * H + head
    tl.store(
        query_gradient_pointer + rows[:, None] * WIDTH + columns[None, :],
        to_stored(query_gradient * scale, query_gradient_pointer),
        mask=is_query[:, None] & (columns < WIDTH)[None, :],
    )
