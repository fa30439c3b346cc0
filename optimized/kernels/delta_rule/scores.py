"""Forward kernel for the products of queries with keys inside every chunk of the gated delta rule.

``scale M`` is causal and decays from token to token; with normalised queries and keys it also computes the factors of
the queries, and reads those of the keys. Products are of the stored queries and keys, and a sum over the channels of a
row is multiplied by the row's factor afterwards. Rounding to the storage format: the stored ``scale M``, which is an
operand of the next kernels. Formulas and source are in ``chunked_delta_rule.py``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``C`` tokens of a
chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import chunk_decay, load_tile, locate_chunk, rows_inside
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["scores_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def scores_kernel(
    query: tl.tensor,
    key: tl.tensor,
    log_decay: tl.tensor,
    chunks: tl.tensor,
    attention: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORM_EPS: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores ``scale M`` ``(chunks, H, C, C)`` of one chunk and head.

    With ``NORM_EPS`` the first head of a group also stores the factors of the queries, ``(B, T, G)``.
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    head = program % H
    key_head = head // HEADS_PER_KEY
    batch, first, stop = locate_chunk(chunks, program // H, T, CHUNK, IS_PACKED)
    token = tl.arange(0, CHUNK)
    is_row = rows_inside(token, first, stop, CHUNK)
    first_row = batch * T + first
    decays = tl.load(log_decay + (first_row * H + head) + token * H, mask=is_row, other=0.0).to(tl.float32)
    query_base = query + batch * query_strides[0] + key_head * query_strides[2] + first * query_strides[1]
    key_base = key + batch * key_strides[0] + key_head * key_strides[2] + first * key_strides[1]
    scores = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    squares = tl.zeros((CHUNK,), dtype=tl.float32)
    for channel in range(0, D, BLOCK_D):
        keys = load_tile(key_base, token, is_row, key_strides[1], channel, key_strides[3], D, BLOCK_D)
        queries = load_tile(query_base, token, is_row, query_strides[1], channel, query_strides[3], D, BLOCK_D)
        scores = tl.dot(queries, tl.trans(keys), scores, input_precision="ieee")
        if NORM_EPS > 0:
            squares += tl.sum(queries.to(tl.float32) * queries.to(tl.float32), axis=1)
    if NORM_EPS > 0:
        key_heads = H // HEADS_PER_KEY
        norms = (first_row * key_heads + key_head) + token * key_heads
        factors = 1.0 / tl.sqrt_rn(squares + NORM_EPS)
        scores *= factors[:, None] * tl.load(key_norms + norms, mask=is_row, other=0.0)[None, :]
        if head % HEADS_PER_KEY == 0:
            tl.store(query_norms + norms, factors, mask=is_row)
    scores *= scale * tl.exp(chunk_decay(decays, CHUNK))
    square = token[:, None] * CHUNK + token[None, :]
    rounded = to_stored(to_operand(scores, DTYPE, INTERPRETED), attention)
    tl.store(attention + program * CHUNK * CHUNK + square, rounded)
