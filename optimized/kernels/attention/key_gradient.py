"""Backward kernel of softmax attention for the gradients of key and value: ``dV = P^T dO``, ``dK = scale dS^T Q``.

A program has a tile of keys of one key/value head and runs over the queries of all heads that read it; nothing is added
atomically, so that gradients repeat bit by bit. Weights and their gradients are computed transposed, so that both
accumulating products take them from registers as they are. One launch may compute one of the two gradients alone, which
takes half the accumulators. ``backward`` launches it and says what its tensors are; letters as there.
"""

import triton
import triton.language as tl

from optimized.kernels.attention.packing import locate
from optimized.kernels.attention.window import add_bias, hide_outside, load_rows, partner_tiles
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["key_value_gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _add_queries(
    key_gradient: tl.tensor,
    value_gradient: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    query_base: tl.tensor,
    out_gradient_base: tl.tensor,
    lse2_base: tl.tensor,
    delta_base: tl.tensor,
    bias_rows: tl.tensor,
    query_strides: tl.tensor,
    out_gradient_strides: tl.tensor,
    bias_strides: tl.tensor,
    is_key: tl.tensor,
    positions: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    T: tl.tensor,
    num_queries: tl.tensor,
    scale_log2: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    MASKED: tl.constexpr,
    OF_KEY: tl.constexpr,
    OF_VALUE: tl.constexpr,
    HEADS_PER_KEY: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Adds the query tiles from ``begin`` to ``end`` of all heads of the group.

    ``positions`` are those of the keys, counted in queries. One loop runs over heads and tiles: it keeps loading ahead
    from one head to the next, and an outer loop would hold the addresses of all three parts in registers at once.
    """
    num_tiles = tl.maximum(end - begin + BLOCK_M - 1, 0) // BLOCK_M
    # Loads of the first turn are issued before the loop, guarded by whether there is one. Divided by 0 tiles there, the
    # compiler takes for granted that there are some, drops the guard, and reads beyond the end of the tensors.
    divisor = tl.maximum(num_tiles, 1)
    for index in range(num_tiles * HEADS_PER_KEY):
        head = tl.cast(tl.cast(index, tl.int32) // divisor, tl.int64)
        start = begin + tl.cast(index, tl.int32) % divisor * BLOCK_M
        queries = start + tl.arange(0, BLOCK_M)
        is_query = queries < num_queries
        first = tl.cast(start, tl.int64)
        query = load_rows(
            query_base + first * query_strides[1] + head * query_strides[2],
            is_query,
            query_strides[1],
            query_strides[3],
            BLOCK_M,
            WIDTH,
            BLOCK_D,
            MASKED=MASKED,
            IS_ALIGNED=IS_ALIGNED,
        )
        lse2 = tl.load(lse2_base + head * T + queries, mask=is_query, other=float("inf"))
        logits = tl.dot(key, tl.trans(query), input_precision="ieee") * scale_log2
        if HAS_BIAS:
            pointers = bias_rows[:, None] + head * bias_strides[1] + queries.to(tl.int64)[None, :] * bias_strides[2]
            logits = add_bias(logits, pointers, is_key[:, None] & is_query[None, :])
        if MASKED:
            logits = hide_outside(logits, positions[:, None] - queries[None, :], left, right, HAS_LEFT, HAS_RIGHT)
        weights = tl.exp2(logits - lse2[None, :])
        out_gradient = load_rows(
            out_gradient_base + first * out_gradient_strides[1] + head * out_gradient_strides[2],
            is_query,
            out_gradient_strides[1],
            out_gradient_strides[3],
            BLOCK_M,
            VALUE_WIDTH,
            BLOCK_V,
            MASKED=MASKED,
            IS_ALIGNED=IS_ALIGNED,
        )
        if OF_VALUE:
            value_gradient = tl.dot(
                to_operand(weights, DTYPE, INTERPRETED), out_gradient, value_gradient, input_precision="ieee"
            )
        if OF_KEY:
            delta = tl.load(delta_base + head * T + queries, mask=is_query, other=0.0)
            weight_gradient = tl.dot(value, tl.trans(out_gradient), input_precision="ieee")
            logit_gradient = weights * (weight_gradient - delta[None, :])
            key_gradient = tl.dot(
                to_operand(logit_gradient, DTYPE, INTERPRETED), query, key_gradient, input_precision="ieee"
            )
    return key_gradient, value_gradient


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def key_value_gradient_kernel(
    key_gradient_pointer: tl.tensor,
    value_gradient_pointer: tl.tensor,
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
    OF_KEY: tl.constexpr,
    OF_VALUE: tl.constexpr,
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
    """One program: one tile of keys of one key/value head of one sequence."""
    num_key_heads = H // HEADS_PER_KEY
    batch, key_head, first_key, query_start, num_queries, key_start, num_keys = locate(
        schedule_pointer, T, S, num_key_heads, BLOCK_N, OF_KEYS=True, IS_PACKED=IS_PACKED
    )
    head = key_head * HEADS_PER_KEY
    keys = first_key + tl.arange(0, BLOCK_N)
    in_range = keys < num_keys
    is_key = in_range
    if HAS_KEY_MASK:
        mask_base = mask_pointer + batch * mask_strides[0]
        is_key = in_range & (tl.load(mask_base + keys.to(tl.int64) * mask_strides[1], mask=in_range, other=0) != 0)
    # Where this tile's first row lies in the tensors.
    first_row = key_start + first_key
    key = load_rows(
        key_pointer + batch * key_strides[0] + first_row * key_strides[1] + key_head * key_strides[2],
        is_key,
        key_strides[1],
        key_strides[3],
        BLOCK_N,
        WIDTH,
        BLOCK_D,
        MASKED=True,
        IS_ALIGNED=IS_ALIGNED,
    )
    value = load_rows(
        value_pointer + batch * value_strides[0] + first_row * value_strides[1] + key_head * value_strides[2],
        is_key,
        value_strides[1],
        value_strides[3],
        BLOCK_N,
        VALUE_WIDTH,
        BLOCK_V,
        MASKED=True,
        IS_ALIGNED=IS_ALIGNED,
    )
    bias_rows = bias_pointer
    if HAS_BIAS:
        bias_base = bias_pointer + batch * bias_strides[0] + head * bias_strides[1]
        bias_rows = bias_base + keys.to(tl.int64) * bias_strides[3]
    last_key = tl.minimum(first_key + BLOCK_N, num_keys) - 1
    shift = num_queries - num_keys
    begin, full_begin, full_end, end = partner_tiles(
        first_key, last_key, shift, right, left, num_queries, HAS_RIGHT, HAS_LEFT, BLOCK_M
    )
    key_gradient = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    value_gradient = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
    row_base = (batch * H + head) * T + query_start
    query_base = query_pointer + batch * query_strides[0] + query_start * query_strides[1]
    out_gradient_base = out_gradient_pointer + batch * out_gradient_strides[0] + query_start * out_gradient_strides[1]
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
        if part != 0 or HAS_RIGHT:
            key_gradient, value_gradient = _add_queries(
                key_gradient,
                value_gradient,
                key,
                value,
                query_base + head * query_strides[2],
                out_gradient_base + head * out_gradient_strides[2],
                lse2_pointer + row_base,
                delta_pointer + row_base,
                bias_rows,
                query_strides,
                out_gradient_strides,
                bias_strides,
                is_key,
                keys + shift,
                part_begin,
                part_end,
                T,
                num_queries,
                scale_log2,
                left,
                right,
                part != 1,
                OF_KEY,
                OF_VALUE,
                HEADS_PER_KEY,
                WIDTH,
                VALUE_WIDTH,
                HAS_LEFT,
                HAS_RIGHT,
                HAS_BIAS,
                BLOCK_M,
                BLOCK_D,
                BLOCK_V,
                DTYPE,
                INTERPRETED,
                IS_ALIGNED,
            )
    # A hidden key was loaded as 0, which does not make its weights 0; its row is its own and is dropped here.
    rows = (batch * S + key_start + keys) * num_key_heads + key_head
    if OF_KEY:
        columns = tl.arange(0, BLOCK_D)
        tl.store(
            key_gradient_pointer + rows[:, None] * WIDTH + columns[None, :],
            to_stored(tl.where(is_key[:, None], key_gradient * scale, 0.0), key_gradient_pointer),
            mask=in_range[:, None] & (columns < WIDTH)[None, :],
        )
    if OF_VALUE:
        value_columns = tl.arange(0, BLOCK_V)
        tl.store(
            value_gradient_pointer + rows[:, None] * VALUE_WIDTH + value_columns[None, :],
            to_stored(tl.where(is_key[:, None], value_gradient, 0.0), value_gradient_pointer),
            mask=in_range[:, None] & (value_columns < VALUE_WIDTH)[None, :],
        )
