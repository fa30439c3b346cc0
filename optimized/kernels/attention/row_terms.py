"""Backward kernel of softmax attention for what the other ones need of each query: see ``backward``.

A packed call is one batch entry here: no term of a row depends on its sequence.
"""

import triton
import triton.language as tl

from optimized.kernels.attention.window import load_rows

__all__ = ["row_terms_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def row_terms_kernel(
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
    IS_ALIGNED: tl.constexpr,
) -> None:
    """Computes ``lse2``, ``delta = rowsum(dO * O) - dL`` and each tile's part of the gradient of the sink."""
    num_tiles = tl.cdiv(T, BLOCK_M)
    tile = tl.program_id(0) % num_tiles
    batch_head = tl.cast(tl.program_id(0) // num_tiles, tl.int64)
    batch = tl.cast(tl.program_id(0) // num_tiles // H, tl.int64)
    head = tl.cast(tl.program_id(0) // num_tiles % H, tl.int64)
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
        IS_ALIGNED=IS_ALIGNED,
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
        IS_ALIGNED=IS_ALIGNED,
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
