"""Forward kernel that prepares every chunk of the gated delta rule alone, without a state.

It sums the decays, inverts the unit lower triangular ``I + A``, masks the products of queries with keys, and computes
the factors that normalise queries and keys. Products are of the stored queries and keys, and a sum over the channels of
a row is multiplied by the row's factor afterwards. Roundings to the storage format: the stored inverse and ``scale M``,
which are operands of the next kernel. Formulas and source are in ``chunked_delta_rule.py``.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``C`` tokens of a
chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import chunk_decay, load_tile, locate_chunk, rows_inside
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["prepare_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def unit_lower_inverse(coupling: tl.tensor, CHUNK: tl.constexpr, PRECISION: tl.constexpr) -> tl.tensor:
    """Returns ``(I + coupling)^-1`` of a strictly lower triangular matrix by blocked substitution.

    From the inverses ``L11`` and ``L22`` of two neighbouring diagonal blocks follows that of the block of both, whose
    lower left quarter is ``-L22 A21 L11``: with all ``A21`` of one size in one matrix, two products do it for all
    blocks. The errors are those of substitution. A product of powers, ``(I - A)(I + A^2)(I + A^4)...``, would need as
    many products but fails for near-parallel keys: entries of ``A^32`` reach 1e18 where the inverse's stay below 1.
    """
    LEVELS: tl.constexpr = 4 + CHUNK // 32
    row = tl.arange(0, CHUNK)[:, None]
    column = tl.arange(0, CHUNK)[None, :]
    is_below = (row == column + 1) & (row % 2 == 1)
    inverse = tl.where(row == column, 1.0, tl.where(is_below, -coupling, 0.0))
    for level in range(1, LEVELS):
        block = row >> level
        is_below = (block == (column >> level) + 1) & (block % 2 == 1)
        below = tl.dot(inverse, tl.where(is_below, coupling, 0.0), input_precision=PRECISION)
        inverse -= tl.dot(below, inverse, input_precision=PRECISION)
    return inverse


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def prepare_kernel(
    query: tl.tensor,
    key: tl.tensor,
    log_decay: tl.tensor,
    beta: tl.tensor,
    chunks: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    inverse: tl.tensor,
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
    SOLVE_PRECISION: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores decays ``(chunks, H, C)``, inverse and ``scale M`` ``(chunks, H, C, C)``; one program per chunk and head.

    With ``NORM_EPS`` the first head of a group also stores the factors of queries and keys, ``(B, T, G)``.
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    head = program % H
    key_head = head // HEADS_PER_KEY
    batch, first, stop = locate_chunk(chunks, program // H, T, CHUNK, IS_PACKED)
    token = tl.arange(0, CHUNK)
    is_row = rows_inside(token, first, stop, CHUNK)
    first_row = batch * T + first
    gate = first_row * H + head
    sums = program * CHUNK + token
    rates = tl.load(beta + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
    decays = tl.load(log_decay + gate + token * H, mask=is_row, other=0.0).to(tl.float32)
    between = chunk_decay(decays, CHUNK)
    tl.store(from_start + sums, tl.cumsum(decays, axis=0))
    is_last_row = token[:, None] == CHUNK - 1
    tl.store(to_end + sums, tl.sum(tl.where(is_last_row, between, 0.0), axis=0))
    query_base = query + batch * query_strides[0] + key_head * query_strides[2] + first * query_strides[1]
    key_base = key + batch * key_strides[0] + key_head * key_strides[2] + first * key_strides[1]
    scores = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    overlap = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    query_squares = tl.zeros((CHUNK,), dtype=tl.float32)
    key_squares = tl.zeros((CHUNK,), dtype=tl.float32)
    for channel in range(0, D, BLOCK_D):
        keys = load_tile(key_base, token, is_row, key_strides[1], channel, key_strides[3], D, BLOCK_D)
        queries = load_tile(query_base, token, is_row, query_strides[1], channel, query_strides[3], D, BLOCK_D)
        scores += tl.dot(queries, tl.trans(keys), input_precision="ieee")
        overlap += tl.dot(keys, tl.trans(keys), input_precision="ieee")
        if NORM_EPS > 0:
            query_squares += tl.sum(queries.to(tl.float32) * queries.to(tl.float32), axis=1)
            key_squares += tl.sum(keys.to(tl.float32) * keys.to(tl.float32), axis=1)
    if NORM_EPS > 0:
        query_factors = 1.0 / tl.sqrt_rn(query_squares + NORM_EPS)
        key_factors = 1.0 / tl.sqrt_rn(key_squares + NORM_EPS)
        scores *= query_factors[:, None] * key_factors[None, :]
        overlap *= key_factors[:, None] * key_factors[None, :]
        if head % HEADS_PER_KEY == 0:
            key_heads = H // HEADS_PER_KEY
            norm = first_row * key_heads + key_head
            tl.store(query_norms + norm + token * key_heads, query_factors, mask=is_row)
            tl.store(key_norms + norm + token * key_heads, key_factors, mask=is_row)
    weights = tl.exp(between)
    squares = program * CHUNK * CHUNK
    square = token[:, None] * CHUNK + token[None, :]
    tl.store(
        attention + squares + square, to_stored(to_operand(scale * weights * scores, DTYPE, INTERPRETED), attention)
    )
    coupling = tl.where(token[:, None] > token[None, :], rates[:, None] * weights * overlap, 0.0)
    solved = unit_lower_inverse(coupling, CHUNK, SOLVE_PRECISION)
    tl.store(inverse + squares + square, to_stored(to_operand(solved, DTYPE, INTERPRETED), inverse))
