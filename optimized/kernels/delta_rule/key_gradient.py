"""Backward kernel for the gradients of keys, log decays and beta of the gated delta rule, chunk by chunk.

    dK = exp(g_C - g) d dS'^T - beta exp(g) dr S^T + P^T Q + (W + W^T) K,

with ``P`` and ``W`` the cotangents of ``Q K^T`` and ``K K^T`` from ``pairs.py``, summed over the heads of a group in
one program in the order of the heads. The gradient of a log decay at token ``t`` is the sum over everything that passes
through it: pairs ``j < t <= i``, what flows from ``S`` to tokens ``i >= t``, what flows from tokens ``j < t`` to
``dS'``, and ``exp(g_C) <S, dS'>``. Each is summed as such. Roundings to the storage format: operands of matrix products
and the stored gradients. ``P`` is transposed after a load, never as a product: Triton 3.4 to 3.7.0 permutes rows of
those on Hopper (fla issue 640).

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

__all__ = ["key_gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def key_gradient_kernel(  # noqa: PLR0915 (a kernel is one function: what it holds stays in registers)
    query: tl.tensor,
    key: tl.tensor,
    beta: tl.tensor,
    chunks: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
    states: tl.tensor,
    delta: tl.tensor,
    state_gradients: tl.tensor,
    residual_gradient: tl.tensor,
    score_gradient: tl.tensor,
    coupling_gradient: tl.tensor,
    pair_decays: tl.tensor,
    pair_rates: tl.tensor,
    inflow: tl.tensor,
    key_gradient: tl.tensor,
    decay_gradient: tl.tensor,
    beta_gradient: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
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
    """Stores gradients of keys ``(B, T, G, D)``, log decays and beta ``(B, T, H)`` of one chunk and group.

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
        gate = first_row * H + head
        gates = token * H
        rates = tl.load(beta + gate + gates, mask=is_row, other=0.0).to(tl.float32)
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))
        remaining = tl.exp(tl.load(to_end + place * CHUNK + token))
        squares = place * CHUNK * CHUNK
        rate_rows = tl.zeros((CHUNK,), dtype=tl.float32)
        outflow = tl.zeros((CHUNK,), dtype=tl.float32)
        through = 0.0
        larger: tl.tuple = ()
        for piece in tl.static_range(PIECES):
            erased = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
            kept = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
            for column in tl.range(0, num_columns, BLOCK_V, disable_licm=True):
                state = load_state(states + place * D * V, piece * BLOCK_D, column, D, V, BLOCK_D, BLOCK_V)
                cotangent = load_state(state_gradients + place * D * V, piece * BLOCK_D, column, D, V, BLOCK_D, BLOCK_V)
                through += tl.sum(tl.sum(state * cotangent, axis=1), axis=0)
                state = tl.trans(to_operand(state, DTYPE, INTERPRETED))
                residual = load_tile(residual_gradient + gate * V, token, is_row, H * V, column, 1, V, BLOCK_V)
                erased += tl.dot(residual, state, input_precision="ieee")
                cotangent = tl.trans(to_operand(cotangent, DTYPE, INTERPRETED))
                written = load_tile(delta + gate * V, token, is_row, H * V, column, 1, V, BLOCK_V)
                kept += tl.dot(written, cotangent, input_precision="ieee")
            keys = load_operand(
                key_base, token, is_row, key_strides[1], piece * BLOCK_D, key_strides[3], key_factors, D, BLOCK_D,
                IS_NORMALIZED, DTYPE, INTERPRETED,
            )  # fmt: skip
            erased *= decay[:, None]
            rate_rows -= tl.sum(keys.to(tl.float32) * erased, axis=1)
            kept *= remaining[:, None]
            outflow += tl.sum(keys.to(tl.float32) * kept, axis=1)
            kept -= rates[:, None] * erased
            couplings = tl.load(coupling_gradient + squares + square)
            kept += tl.dot(couplings, keys, input_precision="ieee")
            queries = load_operand(
                query_base, token, is_row, query_strides[1], piece * BLOCK_D, query_strides[3], query_factors, D,
                BLOCK_D, IS_NORMALIZED, DTYPE, INTERPRETED,
            )  # fmt: skip
            scores = tl.trans(tl.load(score_gradient + squares + square))
            kept += tl.dot(scores, queries, input_precision="ieee")
            larger = larger + (total[piece] + kept,)  # noqa: RUF005 (Triton builds no starred tuples)
        total = larger
        whole = tl.exp(tl.load(from_start + place * CHUNK + CHUNK - 1))
        arriving = tl.load(inflow + gate + gates, mask=is_row, other=0.0) + rates * rate_rows
        passing = tl.load(pair_decays + gate + gates, mask=is_row, other=0.0) + whole * through
        passing += tl.cumsum(arriving, axis=0, reverse=True)
        passing += tl.sum(tl.where(token[None, :] < token[:, None], outflow[None, :], 0.0), axis=1)
        tl.store(decay_gradient + gate + gates, to_stored(passing, decay_gradient), mask=is_row)
        rate_rows += tl.load(pair_rates + gate + gates, mask=is_row, other=0.0)
        tl.store(beta_gradient + gate + gates, to_stored(rate_rows, beta_gradient), mask=is_row)
    if IS_NORMALIZED:
        total = through_norm(
            total, key_base, token, is_row, key_strides[1], key_strides[3], key_factors, D, BLOCK_D, PIECES
        )
    first_place = (first_row * key_heads + key_head) * D
    row_offsets = token[:, None] * (key_heads * D)
    for piece in tl.static_range(PIECES):
        channels = piece * BLOCK_D + tl.arange(0, BLOCK_D)
        is_inside = is_row[:, None] & (channels < D)[None, :]
        tl.store(
            key_gradient + first_place + row_offsets + channels[None, :],
            to_stored(total[piece], key_gradient),
            mask=is_inside,
        )
