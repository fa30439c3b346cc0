"""Backward kernel for what the pairs of tokens of a chunk give, before queries and keys are multiplied in.

The cotangents of ``M`` and ``A`` are ``dO d^T`` and ``-dr d^T``. The kernel stores them as the operands of the products
with queries and keys, decays, scale and beta included, and the second one plus its transpose, since both sides of
``K K^T`` are keys; and sums what the pairs give to beta and to the log decays: a log
decay at token ``t`` takes part in all pairs ``j < t <= i``, and each such sum is formed as such; differences of sums
over the whole chunk would lose a small one behind a large one. Roundings to the storage format: normalised queries and
keys, and the two stored matrices.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import (
    chunk_decay,
    load_factors,
    load_operand,
    load_tile,
    locate_chunk,
    rows_inside,
)
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["pair_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def pair_kernel(  # noqa: PLR0915 (a kernel is one function: what it holds stays in registers)
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    log_decay: tl.tensor,
    beta: tl.tensor,
    chunks: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
    delta: tl.tensor,
    out_gradient: tl.tensor,
    residual_gradient: tl.tensor,
    score_gradient: tl.tensor,
    coupling_gradient: tl.tensor,
    pair_decays: tl.tensor,
    pair_rates: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    out_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
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
    """Stores the cotangents of ``Q K^T`` and ``K K^T`` ``(chunks, H, C, C)``, sums to decays and beta ``(B, T, H)``."""
    program = tl.cast(tl.program_id(0), tl.int64)
    head = program % H
    key_head = head // HEADS_PER_KEY
    batch, first, stop = locate_chunk(chunks, program // H, T, CHUNK, IS_PACKED)
    token = tl.arange(0, CHUNK)
    is_row = rows_inside(token, first, stop, CHUNK)
    first_row = batch * T + first
    gate = first_row * H + head
    value_base = value + batch * value_strides[0] + head * value_strides[2] + first * value_strides[1]
    cotangent_base = out_gradient + batch * out_strides[0] + head * out_strides[2] + first * out_strides[1]
    scores = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    couplings = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    rate_rows = tl.zeros((CHUNK,), dtype=tl.float32)
    for column in range(0, V, BLOCK_V):
        out_rows = load_tile(cotangent_base, token, is_row, out_strides[1], column, out_strides[3], V, BLOCK_V)
        residual = load_tile(residual_gradient + gate * V, token, is_row, H * V, column, 1, V, BLOCK_V)
        written = tl.trans(load_tile(delta + gate * V, token, is_row, H * V, column, 1, V, BLOCK_V))
        scores += tl.dot(out_rows, written, input_precision="ieee")
        couplings += tl.dot(residual, written, input_precision="ieee")
        values = load_tile(value_base, token, is_row, value_strides[1], column, value_strides[3], V, BLOCK_V)
        rate_rows += tl.sum(residual.to(tl.float32) * values.to(tl.float32), axis=1)
    rates = tl.load(beta + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
    decays = tl.load(log_decay + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
    weights = tl.exp(chunk_decay(decays, CHUNK))
    is_earlier = token[:, None] > token[None, :]
    scores *= scale * weights
    couplings = tl.where(is_earlier, -weights * couplings, 0.0)
    squares = program * CHUNK * CHUNK
    square = token[:, None] * CHUNK + token[None, :]
    rounded = to_operand(scores, DTYPE, INTERPRETED)
    tl.store(score_gradient + squares + square, to_stored(rounded, score_gradient))
    rounded = to_operand(rates[:, None] * couplings, DTYPE, INTERPRETED)
    rounded = to_stored(rounded, coupling_gradient)
    tl.store(coupling_gradient + squares + square, rounded, mask=token[:, None] >= token[None, :])
    mirrored = token[None, :] * CHUNK + token[:, None]
    tl.store(coupling_gradient + squares + mirrored, rounded, mask=is_earlier)
    key_base = key + batch * key_strides[0] + key_head * key_strides[2] + first * key_strides[1]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2] + first * query_strides[1]
    key_factors = load_factors(key_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED)
    query_factors = load_factors(query_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED)
    likeness = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    overlap = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    for channel in range(0, D, BLOCK_D):
        keys = load_operand(
            key_base, token, is_row, key_strides[1], channel, key_strides[3], key_factors, D, BLOCK_D,
            IS_NORMALIZED, DTYPE, INTERPRETED,
        )  # fmt: skip
        queries = load_operand(
            query_base, token, is_row, query_strides[1], channel, query_strides[3], query_factors, D, BLOCK_D,
            IS_NORMALIZED, DTYPE, INTERPRETED,
        )  # fmt: skip
        likeness += tl.dot(queries, tl.trans(keys), input_precision="ieee")
        overlap += tl.dot(keys, tl.trans(keys), input_precision="ieee")
    overlap *= couplings
    pairs = tl.where(is_earlier, scores * likeness, 0.0) + rates[:, None] * overlap
    tl.store(pair_rates + gate + token * H, rate_rows + tl.sum(overlap, axis=1), mask=is_row)
    from_later = tl.cumsum(pairs, axis=0, reverse=True)
    passing = tl.sum(tl.where(is_earlier, from_later, 0.0), axis=1)
    tl.store(pair_decays + gate + token * H, passing, mask=is_row)
