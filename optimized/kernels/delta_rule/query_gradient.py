"""Backward kernel for the gradient of the queries of the gated delta rule, chunk by chunk.

``dQ = scale exp(g) dO S^T + P K`` with ``P`` the cotangent of ``Q K^T`` from ``pairs.py``, summed over the heads of a
group in one program in the order of the heads. What a token reads from the state has passed the log decays before it:
its share is stored for ``key_gradient.py``. Roundings to the storage format: operands of matrix products and the stored
gradient.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import (
    load_factors,
    load_operand,
    load_state,
    load_tile,
    locate_chunk,
    rows_inside,
    through_norm,
)
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["query_gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def query_gradient_kernel(
    query: tl.tensor,
    key: tl.tensor,
    chunks: tl.tensor,
    from_start: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
    states: tl.tensor,
    out_gradient: tl.tensor,
    score_gradient: tl.tensor,
    query_gradient: tl.tensor,
    inflow: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    out_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
    members: int,
    num_columns: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_NORMALIZED: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores the gradient of the queries ``(B, T, G, D)`` of one chunk and group, and the inflow ``(B, T, H)``.

    ``members`` is ``HEADS_PER_KEY`` and ``num_columns`` is ``V``, as bounds of loops that the compiler cannot unroll.
    """
    PIECES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    program = tl.cast(tl.program_id(0), tl.int64)
    key_heads = H // HEADS_PER_KEY
    key_head = program % key_heads
    chunk = program // key_heads
    batch, first, stop = locate_chunk(chunks, chunk, T, CHUNK, IS_PACKED)
    key_base = key + batch * key_strides[0] + key_head * key_strides[2] + first * key_strides[1]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2] + first * query_strides[1]
    token = tl.arange(0, CHUNK)
    square = token[:, None] * CHUNK + token[None, :]
    is_row = rows_inside(token, first, stop, CHUNK)
    first_row = batch * T + first
    query_factors = load_factors(query_norms, first_row, token, is_row, key_heads, key_head, IS_NORMALIZED)
    key_factors = load_factors(key_norms, first_row, token, is_row, key_heads, key_head, IS_NORMALIZED)
    total: tl.tuple = ()
    for _ in tl.static_range(PIECES):
        total = total + (tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32),)  # noqa: RUF005 (Triton builds no starred tuples)
    for member in tl.range(members, disable_licm=True):
        head = key_head * HEADS_PER_KEY + member
        place = chunk * H + head
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))
        cotangent_base = out_gradient + batch * out_strides[0] + head * out_strides[2] + first * out_strides[1]
        inflow_rows = tl.zeros((CHUNK,), dtype=tl.float32)
        larger: tl.tuple = ()
        for piece in tl.static_range(PIECES):
            read = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
            for column in tl.range(0, num_columns, BLOCK_V, disable_licm=True):
                state = load_state(states + place * D * V, piece * BLOCK_D, column, D, V, BLOCK_D, BLOCK_V)
                out_rows = load_tile(cotangent_base, token, is_row, out_strides[1], column, out_strides[3], V, BLOCK_V)
                state = tl.trans(to_operand(state, DTYPE, INTERPRETED))
                read += tl.dot(out_rows, state, input_precision="ieee")
            read *= (scale * decay)[:, None]
            queries = load_operand(
                query_base, token, is_row, query_strides[1], piece * BLOCK_D, query_strides[3], query_factors, D,
                BLOCK_D, IS_NORMALIZED, DTYPE, INTERPRETED,
            )  # fmt: skip
            inflow_rows += tl.sum(queries.to(tl.float32) * read, axis=1)
            keys = load_operand(
                key_base, token, is_row, key_strides[1], piece * BLOCK_D, key_strides[3], key_factors, D, BLOCK_D,
                IS_NORMALIZED, DTYPE, INTERPRETED,
            )  # fmt: skip
            read += tl.dot(tl.load(score_gradient + place * CHUNK * CHUNK + square), keys, input_precision="ieee")
            larger = larger + (total[piece] + read,)  # noqa: RUF005 (Triton builds no starred tuples)
        total = larger
        tl.store(inflow + (first_row * H + head) + token * H, inflow_rows, mask=is_row)
    if IS_NORMALIZED:
        total = through_norm(
            total, query_base, token, is_row, query_strides[1], query_strides[3], query_factors, D, BLOCK_D, PIECES
        )
    first_place = (first_row * key_heads + key_head) * D
    row_offsets = token[:, None] * (key_heads * D)
    for piece in tl.static_range(PIECES):
        channels = piece * BLOCK_D + tl.arange(0, BLOCK_D)
        is_inside = is_row[:, None] & (channels < D)[None, :]
        rounded = to_stored(total[piece], query_gradient)
        tl.store(query_gradient + first_place + row_offsets + channels[None, :], rounded, mask=is_inside)
