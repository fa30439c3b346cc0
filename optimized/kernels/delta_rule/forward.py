"""Forward kernels of the chunked gated delta rule: prepare the chunks, then carry the state through them.

``prepare`` works on every chunk alone: decays, the inverse of the unit lower triangular ``I + A`` and the masked
products of queries with keys. ``carry_state`` goes from chunk to chunk with the state in float32 registers,

    P = K S,    d = (I + A)^-1 beta (v - exp(g) P),    out = scale exp(g) Q S + M d,
    S <- exp(g_C) S + K^T exp(g_C - g) d,

and the backward pass runs it once more to store the states and ``d`` instead of the output. Formulas and source are in
``chunked_delta_rule.py``. Roundings to the storage format: normalised queries and keys, the inverse, ``M`` (with the
scale), the state, the residual ``beta (v - exp(g) P)``, ``d`` and ``exp(g_C - g) d``, each only as the operand of a
matrix product, and the stored output; everything else is float32.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.precision import to_operand, to_stored

__all__ = ["carry_state_kernel", "chunk_decay", "load_tile", "prepare_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def load_tile(
    base: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    first_column: tl.tensor,
    column_stride: tl.tensor,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """Loads ``ROWS`` rows from row ``first`` of a ``(num_rows, WIDTH)`` matrix; 0 outside of it."""
    rows = tl.cast(first, tl.int64) + tl.arange(0, ROWS)
    columns = first_column + tl.arange(0, COLUMNS)
    is_inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + rows[:, None] * row_stride + columns[None, :] * column_stride, mask=is_inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def inverse_norm(x: tl.tensor, EPS: tl.constexpr) -> tl.tensor:
    """Returns ``1 / sqrt(sum x^2 + eps)`` of every row of a float32 tile."""
    return 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=1) + EPS)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _load_operand(
    base: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    NORM_EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """Loads queries or keys as operands, normalised first if ``NORM_EPS`` is not 0."""
    x = load_tile(base, first, num_rows, row_stride, 0, column_stride, ROWS, WIDTH, COLUMNS)
    if NORM_EPS > 0:
        wide = x.to(tl.float32)
        x = to_operand(wide * inverse_norm(wide, NORM_EPS)[:, None], DTYPE, INTERPRETED)
    return x


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def chunk_decay(log_decay: tl.tensor, CHUNK: tl.constexpr, TRANSPOSED: tl.constexpr) -> tl.tensor:
    """Returns the sums of the log decays of tokens ``j + 1 .. i`` in row ``i``, column ``j``, and -inf where i < j.

    Each sum is of its own tokens: a difference of two sums from the start loses the digits of a small one behind a
    large one, is positive where it must not be used, and is NaN for a decay to zero.
    """
    row = tl.arange(0, CHUNK)[:, None]
    column = tl.arange(0, CHUNK)[None, :]
    if TRANSPOSED:
        sums = tl.cumsum(tl.where(row < column, log_decay[None, :], 0.0), axis=1)
        sums = tl.where(row <= column, sums, float("-inf"))
    else:
        sums = tl.cumsum(tl.where(row > column, log_decay[:, None], 0.0), axis=0)
        sums = tl.where(row >= column, sums, float("-inf"))
    return sums


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
    from_start: tl.tensor,
    to_end: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    normalized_query: tl.tensor,
    normalized_key: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
    num_chunks: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORM_EPS: tl.constexpr,
    SOLVE_PRECISION: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores decays ``(B, H, chunks, C)``, inverse and ``scale M`` ``(B, H, chunks, C, C)``; one program per chunk.

    With ``NORM_EPS`` the first head of a group also stores the normalised queries and keys, ``(B, T, G, D)``.
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    chunk = program % num_chunks
    head = (program // num_chunks) % H
    batch = program // num_chunks // H
    key_head = head // HEADS_PER_KEY
    token = tl.arange(0, CHUNK)
    rows = chunk * CHUNK + token
    gates = (batch * T + rows) * H + head
    rates = tl.load(beta + gates, mask=rows < T, other=0.0).to(tl.float32)
    decays = tl.load(log_decay + gates, mask=rows < T, other=0.0).to(tl.float32)
    between = chunk_decay(decays, CHUNK, TRANSPOSED=False)
    tl.store(from_start + program * CHUNK + token, tl.cumsum(decays, axis=0))
    is_last_row = token[:, None] == CHUNK - 1
    tl.store(to_end + program * CHUNK + token, tl.sum(tl.where(is_last_row, between, 0.0), axis=0))
    keys = _load_operand(
        key + batch * key_strides[0] + key_head * key_strides[2],
        chunk * CHUNK,
        T,
        key_strides[1],
        key_strides[3],
        NORM_EPS,
        CHUNK,
        D,
        BLOCK_D,
        DTYPE,
        INTERPRETED,
    )
    queries = _load_operand(
        query + batch * query_strides[0] + key_head * query_strides[2],
        chunk * CHUNK,
        T,
        query_strides[1],
        query_strides[3],
        NORM_EPS,
        CHUNK,
        D,
        BLOCK_D,
        DTYPE,
        INTERPRETED,
    )
    if NORM_EPS > 0:  # noqa: SIM102 (this condition is one of compilation, the inner one is not)
        if head % HEADS_PER_KEY == 0:
            channels = tl.arange(0, BLOCK_D)
            offsets = ((batch * T + rows) * (H // HEADS_PER_KEY) + key_head)[:, None] * D + channels[None, :]
            is_stored = (rows < T)[:, None] & (channels < D)[None, :]
            tl.store(normalized_query + offsets, to_stored(queries, normalized_query), mask=is_stored)
            tl.store(normalized_key + offsets, to_stored(keys, normalized_key), mask=is_stored)
    weights = tl.exp(between)
    keys_transposed = tl.trans(keys)
    square = program * CHUNK * CHUNK + token[:, None] * CHUNK + token[None, :]
    scores = scale * weights * tl.dot(queries, keys_transposed, input_precision="ieee")
    tl.store(attention + square, to_stored(to_operand(scores, DTYPE, INTERPRETED), attention))
    overlap = tl.dot(keys, keys_transposed, input_precision="ieee")
    coupling = tl.where(token[:, None] > token[None, :], rates[:, None] * weights * overlap, 0.0)
    solved = unit_lower_inverse(coupling, CHUNK, SOLVE_PRECISION)
    tl.store(inverse + square, to_stored(to_operand(solved, DTYPE, INTERPRETED), inverse))


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def carry_state_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    beta: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    initial_state: tl.tensor,
    out: tl.tensor,
    final_state: tl.tensor,
    states: tl.tensor,
    delta: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    scale: float,
    T: int,
    H: int,
    num_chunks: int,
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    FOR_BACKWARD: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Goes through the chunks of one head with ``BLOCK_V`` columns of its state.

    Stores ``out (B, T, H, V)`` and ``final_state (B, H, D, V)``, or ``FOR_BACKWARD`` the state before every chunk,
    ``states (B, H, chunks, D, V)``, and the written rows ``delta (B, H, chunks * C, V)``.
    """
    column_blocks = tl.cdiv(V, BLOCK_V)
    program = tl.cast(tl.program_id(0), tl.int64)
    first_column = (program % column_blocks) * BLOCK_V
    sequence = program // column_blocks
    head = sequence % H
    batch = sequence // H
    key_head = head // HEADS_PER_KEY
    key_base = key + batch * key_strides[0] + key_head * key_strides[2]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2]
    value_base = value + batch * value_strides[0] + head * value_strides[2]
    token = tl.arange(0, CHUNK)
    columns = first_column + tl.arange(0, BLOCK_V)
    channels = tl.arange(0, BLOCK_D)
    in_state = (channels < D)[:, None] & (columns < V)[None, :]
    state_offsets = channels[:, None] * V + columns[None, :]
    state = tl.zeros((BLOCK_D, BLOCK_V), dtype=tl.float32)
    if HAS_INITIAL:
        state += tl.load(initial_state + sequence * D * V + state_offsets, mask=in_state, other=0.0).to(tl.float32)
    for number in range(num_chunks):
        chunk = tl.cast(number, tl.int64)
        place = sequence * num_chunks + chunk
        rows = chunk * CHUNK + token
        is_written = (rows < T)[:, None] & (columns < V)[None, :]
        keys = load_tile(key_base, chunk * CHUNK, T, key_strides[1], 0, key_strides[3], CHUNK, D, BLOCK_D)
        values = load_tile(
            value_base, chunk * CHUNK, T, value_strides[1], first_column, value_strides[3], CHUNK, V, BLOCK_V
        ).to(tl.float32)
        rates = tl.load(beta + (batch * T + rows) * H + head, mask=rows < T, other=0.0).to(tl.float32)
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))[:, None]
        square = place * CHUNK * CHUNK + token[:, None] * CHUNK + token[None, :]
        operand = to_operand(state, DTYPE, INTERPRETED)
        residual = values - decay * tl.dot(keys, operand, input_precision="ieee")
        residual = to_operand(rates[:, None] * residual, DTYPE, INTERPRETED)
        written = tl.dot(tl.load(inverse + square), residual, input_precision="ieee")
        if FOR_BACKWARD:
            tl.store(states + place * D * V + state_offsets, state, mask=in_state)
            delta_offsets = (place * CHUNK + token)[:, None] * V + columns[None, :]
            rounded = to_stored(to_operand(written, DTYPE, INTERPRETED), delta)
            tl.store(delta + delta_offsets, rounded, mask=(columns < V)[None, :])
        else:
            queries = load_tile(query_base, chunk * CHUNK, T, query_strides[1], 0, query_strides[3], CHUNK, D, BLOCK_D)
            result = scale * decay * tl.dot(queries, operand, input_precision="ieee")
            scores = tl.load(attention + square)
            result += tl.dot(scores, to_operand(written, DTYPE, INTERPRETED), input_precision="ieee")
            out_offsets = ((batch * T + rows) * H + head)[:, None] * V + columns[None, :]
            tl.store(out + out_offsets, to_stored(result, out), mask=is_written)
        remaining = tl.exp(tl.load(to_end + place * CHUNK + token))[:, None]
        whole = tl.exp(tl.load(from_start + place * CHUNK + CHUNK - 1))
        written = to_operand(remaining * written, DTYPE, INTERPRETED)
        state = whole * state + tl.dot(tl.trans(keys), written, input_precision="ieee")
    if not FOR_BACKWARD:
        tl.store(final_state + sequence * D * V + state_offsets, state, mask=in_state)
