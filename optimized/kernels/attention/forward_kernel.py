"""Forward kernel of softmax attention: one pass over the keys with a running maximum.

For each tile of queries the kernel keeps, per row, the maximum of the base-2 logits ``m``, the sum ``l`` of
``2^(logit - m)`` and the unnormalised output, and rescales them when the maximum moves (Milakov and Gimelshein 2018;
Dao et al., FlashAttention-2, 2023, section 3.1). Roundings: the weights ``2^(logit - m)`` to the storage format before
the product with the values, the output when it is stored; everything else is float32.
Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

import triton
import triton.language as tl

from optimized.kernels.attention.packing import locate
from optimized.kernels.attention.window import add_bias, hide_outside, load_rows, partner_tiles
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["attention_forward_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _attend(
    weighted_sum: tl.tensor,
    maximum: tl.tensor,
    denominator: tl.tensor,
    query: tl.tensor,
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
    """Adds the key tiles from ``begin`` to ``end`` to the running sums; without MASKED all of them are visible."""
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
            IS_ALIGNED=IS_ALIGNED,
        )
        weighted_sum = weighted_sum * decay[:, None]
        weighted_sum = tl.dot(to_operand(weights, DTYPE, INTERPRETED), value, weighted_sum, input_precision="ieee")
        maximum = new_maximum
    return weighted_sum, maximum, denominator


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def attention_forward_kernel(
    sinks_pointer: tl.tensor,
    out_pointer: tl.tensor,
    lse_pointer: tl.tensor,
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
    HAS_SINKS: tl.constexpr,
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
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    denominator = tl.zeros([BLOCK_M], tl.float32)
    weighted_sum = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    if HAS_KEY_MASK:
        full_end = begin
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
            weighted_sum, maximum, denominator = _attend(
                weighted_sum,
                maximum,
                denominator,
                query,
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
    tl.store(lse_pointer + (batch * H + head) * T + query_start + queries, lse, mask=is_query)
    columns = tl.arange(0, BLOCK_V)
    rows = (batch * T + query_start + queries) * H + head
    tl.store(
        out_pointer + rows[:, None] * VALUE_WIDTH + columns[None, :],
        to_stored(weighted_sum * factor[:, None], out_pointer),
        mask=is_query[:, None] & (columns < VALUE_WIDTH)[None, :],
    )
