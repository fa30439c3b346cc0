"""Backward kernel of softmax attention for the gradient of the bias: dS, summed over the axes of the broadcast.

A program has a tile of query-key pairs. It computes dS of the tile for every batch entry and head that share the bias,
one after the other, and adds them up in float32, unrounded; where the bias is one for all queries or for all keys it
leaves the sum over its tile, and torch adds up the tiles in a fixed order. ``backward`` launches it and says what its
tensors are; letters as there.
"""

import triton
import triton.language as tl

from optimized.kernels.attention.window import add_bias, hide_outside, load_rows
from optimized.kernels.precision import to_stored

__all__ = ["bias_gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _store_sums(
    pointer: tl.tensor,
    gradient: tl.tensor,
    query_tile: tl.tensor,
    key_tile: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    SUMS_QUERIES: tl.constexpr,
    SUMS_KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Stores a tile, or one row of it where it sums over its queries, one column where it sums over its keys."""
    rows = query_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = key_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    num_rows = T
    num_columns = S
    if SUMS_QUERIES:
        gradient = tl.sum(gradient, 0, keep_dims=True)
        rows = query_tile + tl.arange(0, 1)
        num_rows = tl.cdiv(T, BLOCK_M)
    if SUMS_KEYS:
        gradient = tl.sum(gradient, 1, keep_dims=True)
        columns = key_tile + tl.arange(0, 1)
        num_columns = tl.cdiv(S, BLOCK_N)
    tl.store(
        pointer + rows.to(tl.int64)[:, None] * num_columns + columns[None, :],
        to_stored(gradient, pointer),
        mask=(rows < num_rows)[:, None] & (columns < num_columns)[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def bias_gradient_kernel(
    bias_gradient_pointer: tl.tensor,
    out_gradient_pointer: tl.tensor,
    lse2_pointer: tl.tensor,
    delta_pointer: tl.tensor,
    out_gradient_strides: tl.tensor,
    num_shared_batches: tl.tensor,
    num_shared_heads: tl.tensor,
    query_pointer: tl.tensor,
    key_pointer: tl.tensor,
    value_pointer: tl.tensor,
    mask_pointer: tl.tensor,
    bias_pointer: tl.tensor,
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
    SUMS_QUERIES: tl.constexpr,
    SUMS_KEYS: tl.constexpr,
    HEADS_PER_KEY: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_LEFT: tl.constexpr,
    HAS_RIGHT: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> None:
    """One program: one tile of pairs of one entry of the bias's own batch and head axes."""
    query_tiles = tl.cdiv(T, BLOCK_M)
    key_tiles = tl.cdiv(S, BLOCK_N)
    key_tile = tl.program_id(0) % key_tiles
    query_tile = tl.program_id(0) // key_tiles % query_tiles
    entry = tl.program_id(0) // (key_tiles * query_tiles)
    own_heads = H // num_shared_heads
    first_query = query_tile * BLOCK_M
    first_key = key_tile * BLOCK_N
    queries = first_query + tl.arange(0, BLOCK_M)
    keys = first_key + tl.arange(0, BLOCK_N)
    is_query = queries < T
    in_range = keys < S
    first_row = tl.cast(first_query, tl.int64)
    first_column = tl.cast(first_key, tl.int64)
    shift = S - T
    # A tile that the window hides is not computed: its gradient is 0.
    num_sharers = num_shared_batches * num_shared_heads
    if HAS_LEFT:
        num_sharers = tl.where(first_key + BLOCK_N > first_query + shift - left, num_sharers, 0)
    if HAS_RIGHT:
        num_sharers = tl.where(first_key < first_query + BLOCK_M + shift + right, num_sharers, 0)
    gradient = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for sharer in range(num_sharers):
        # Either all share the axis or none does: one of the two terms of each sum is 0.
        batch = tl.cast(entry // own_heads + tl.cast(sharer, tl.int32) // num_shared_heads, tl.int64)
        head = tl.cast(entry % own_heads + tl.cast(sharer, tl.int32) % num_shared_heads, tl.int64)
        key_head = head // HEADS_PER_KEY
        is_key = in_range
        if HAS_KEY_MASK:
            mask_base = mask_pointer + batch * mask_strides[0]
            is_key = in_range & (tl.load(mask_base + keys.to(tl.int64) * mask_strides[1], mask=in_range, other=0) != 0)
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
        key = load_rows(
            key_pointer + batch * key_strides[0] + first_column * key_strides[1] + key_head * key_strides[2],
            is_key,
            key_strides[1],
            key_strides[3],
            BLOCK_N,
            WIDTH,
            BLOCK_D,
            MASKED=True,
            IS_ALIGNED=IS_ALIGNED,
        )
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale_log2
        bias_rows = bias_pointer + batch * bias_strides[0] + head * bias_strides[1]
        pointers = (
            bias_rows + queries.to(tl.int64)[:, None] * bias_strides[2] + keys.to(tl.int64)[None, :] * bias_strides[3]
        )
        logits = add_bias(logits, pointers, is_query[:, None] & is_key[None, :])
        logits = tl.where(is_key[None, :], logits, float("-inf"))
        logits = hide_outside(logits, keys[None, :] - queries[:, None] - shift, left, right, HAS_LEFT, HAS_RIGHT)
        row_base = (batch * H + head) * T
        lse2 = tl.load(lse2_pointer + row_base + queries, mask=is_query, other=float("inf"))
        weights = tl.exp2(logits - lse2[:, None])
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
        value = load_rows(
            value_pointer + batch * value_strides[0] + first_column * value_strides[1] + key_head * value_strides[2],
            is_key,
            value_strides[1],
            value_strides[3],
            BLOCK_N,
            VALUE_WIDTH,
            BLOCK_V,
            MASKED=True,
            IS_ALIGNED=IS_ALIGNED,
        )
        delta = tl.load(delta_pointer + row_base + queries, mask=is_query, other=0.0)
        weight_gradient = tl.dot(out_gradient, tl.trans(value), input_precision="ieee")
        gradient += weights * (weight_gradient - delta[:, None])
    _store_sums(
        bias_gradient_pointer
        + tl.cast(entry, tl.int64) * (query_tiles if SUMS_QUERIES else T) * (key_tiles if SUMS_KEYS else S),
        gradient,
        query_tile,
        key_tile,
        T,
        S,
        SUMS_QUERIES,
        SUMS_KEYS,
        BLOCK_M,
        BLOCK_N,
    )
