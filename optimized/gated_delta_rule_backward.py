"""Backward kernels of the chunked gated delta rule: carry the state's cotangent back, then the gradients of each chunk.

With ``dO`` the cotangent of the output and ``dS'`` that of the state after a chunk, ``carry_cotangent`` computes

    dd = M^T dO + exp(g_C - g) K dS',        dr = (I + A)^-T dd,        dv = beta dr,
    dS = exp(g_C) dS' + scale (exp(g) Q)^T dO - K^T (beta exp(g) dr),

from the last chunk to the first, and ``gradient`` the rest from the stored ``S``, ``dS'``, ``d`` and ``dr``. The
cotangents of ``A`` and ``M`` are ``-dr d^T`` and ``dO d^T``. The gradient of a log decay at token ``t`` is the sum over
everything that passes through it: pairs ``j < t <= i``, what flows in from ``S`` to tokens ``i >= t``, what flows out
from tokens ``j < t`` to ``dS'``, and ``exp(g_C) <S, dS'>``. Each is summed as such; differences of sums over the whole
chunk would lose a small one behind a large one. The gradients of queries and keys are summed over the heads of a group
in one program, in the order of the heads. Roundings to the storage format: operands of matrix products and the stored
gradients; ``S`` and ``dS'`` are stored in float32. Transposed weights are computed anew and never taken as the
transpose of a product: Triton 3.4 to 3.7.0 permutes rows of those on Hopper (fla issue 640).

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.gated_delta_rule_forward import chunk_decay, inverse_norm, load_operand, load_tile
from optimized.precision import to_operand, to_stored

__all__ = ["carry_cotangent_kernel", "gradient_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def carry_cotangent_kernel(
    query: tl.tensor,
    key: tl.tensor,
    beta: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    out_gradient: tl.tensor,
    final_gradient: tl.tensor,
    state_gradients: tl.tensor,
    residual_gradient: tl.tensor,
    value_gradient: tl.tensor,
    initial_gradient: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    out_strides: tl.tensor,
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
    NORM_EPS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Goes back through the chunks of one head with ``BLOCK_V`` columns of its state's cotangent.

    Stores the cotangent after every chunk ``(B, H, chunks, D, V)``, ``dr (B, H, chunks * C, V)``, the gradient of the
    values and that of the initial state.
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
    out_base = out_gradient + batch * out_strides[0] + head * out_strides[2]
    token = tl.arange(0, CHUNK)
    columns = first_column + tl.arange(0, BLOCK_V)
    channels = tl.arange(0, BLOCK_D)
    in_state = (channels < D)[:, None] & (columns < V)[None, :]
    state_offsets = channels[:, None] * V + columns[None, :]
    cotangent = tl.load(final_gradient + sequence * D * V + state_offsets, mask=in_state, other=0.0)
    for step in range(num_chunks):
        chunk = tl.cast(num_chunks - 1 - step, tl.int64)
        place = sequence * num_chunks + chunk
        rows = chunk * CHUNK + token
        keys = load_operand(
            key_base, chunk * CHUNK, T, key_strides[1], key_strides[3],
            NORM_EPS, CHUNK, D, BLOCK_D, DTYPE, INTERPRETED,
        )  # fmt: skip
        queries = load_operand(
            query_base, chunk * CHUNK, T, query_strides[1], query_strides[3],
            NORM_EPS, CHUNK, D, BLOCK_D, DTYPE, INTERPRETED,
        )  # fmt: skip
        out_rows = load_tile(
            out_base, chunk * CHUNK, T, out_strides[1], first_column, out_strides[3], CHUNK, V, BLOCK_V
        )
        rates = tl.load(beta + (batch * T + rows) * H + head, mask=rows < T, other=0.0).to(tl.float32)[:, None]
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))[:, None]
        remaining = tl.exp(tl.load(to_end + place * CHUNK + token))[:, None]
        whole = tl.exp(tl.load(from_start + place * CHUNK + CHUNK - 1))
        transposed = place * CHUNK * CHUNK + token[None, :] * CHUNK + token[:, None]
        tl.store(state_gradients + place * D * V + state_offsets, cotangent, mask=in_state)
        operand = to_operand(cotangent, DTYPE, INTERPRETED)
        written = remaining * tl.dot(keys, operand, input_precision="ieee")
        written += tl.dot(tl.load(attention + transposed), out_rows, input_precision="ieee")
        written = to_operand(written, DTYPE, INTERPRETED)
        residual = tl.dot(tl.load(inverse + transposed), written, input_precision="ieee")
        in_chunk = (columns < V)[None, :] & (token >= 0)[:, None]
        residual_offsets = (place * CHUNK + token)[:, None] * V + columns[None, :]
        rounded = to_stored(to_operand(residual, DTYPE, INTERPRETED), residual_gradient)
        tl.store(residual_gradient + residual_offsets, rounded, mask=in_chunk)
        value_offsets = ((batch * T + rows) * H + head)[:, None] * V + columns[None, :]
        value_rows = to_stored(rates * residual, value_gradient)
        tl.store(value_gradient + value_offsets, value_rows, mask=in_chunk & (rows < T)[:, None])
        read = to_operand(scale * decay * out_rows.to(tl.float32), DTYPE, INTERPRETED)
        erased = to_operand(-rates * decay * residual, DTYPE, INTERPRETED)
        cotangent = whole * cotangent + tl.dot(tl.trans(queries), read, input_precision="ieee")
        cotangent += tl.dot(tl.trans(keys), erased, input_precision="ieee")
    if HAS_INITIAL:
        offsets = sequence * D * V + state_offsets
        tl.store(initial_gradient + offsets, to_stored(cotangent, initial_gradient), mask=in_state)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _through_norm(
    gradient: tl.tensor,
    base: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    NORM_EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """Turns the gradient of normalised rows into that of the rows: ``(dy - y (y . dy)) / sqrt(sum x^2 + eps)``."""
    if NORM_EPS > 0:
        x = load_tile(base, first, num_rows, row_stride, 0, column_stride, ROWS, WIDTH, COLUMNS).to(tl.float32)
        factor = inverse_norm(x, NORM_EPS)[:, None]
        normalized = x * factor
        gradient = factor * (gradient - normalized * tl.sum(normalized * gradient, axis=1)[:, None])
    return gradient


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _pair_sums(
    out_base: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    residual_base: tl.tensor,
    delta_base: tl.tensor,
    CHUNK: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    TRANSPOSED: tl.constexpr,
) -> tl.tensor:
    """Returns ``dO d^T`` and ``dr d^T`` of one chunk, or the transposes of both."""
    scores = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    couplings = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    for first_column in range(0, V, BLOCK_V):
        out_rows = load_tile(out_base, first, num_rows, row_stride, first_column, column_stride, CHUNK, V, BLOCK_V)
        residual = load_tile(residual_base, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
        written = load_tile(delta_base, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
        if TRANSPOSED:
            scores += tl.dot(written, tl.trans(out_rows), input_precision="ieee")
            couplings += tl.dot(written, tl.trans(residual), input_precision="ieee")
        else:
            scores += tl.dot(out_rows, tl.trans(written), input_precision="ieee")
            couplings += tl.dot(residual, tl.trans(written), input_precision="ieee")
    return scores, couplings


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def gradient_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    log_decay: tl.tensor,
    beta: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    states: tl.tensor,
    delta: tl.tensor,
    out_gradient: tl.tensor,
    state_gradients: tl.tensor,
    residual_gradient: tl.tensor,
    query_gradient: tl.tensor,
    key_gradient: tl.tensor,
    decay_gradient: tl.tensor,
    beta_gradient: tl.tensor,
    query_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    out_strides: tl.tensor,
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
    NORM_EPS: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Stores the gradients of queries, keys ``(B, T, G, D)``, log decays and beta ``(B, T, H)`` of one chunk and group."""
    program = tl.cast(tl.program_id(0), tl.int64)
    chunk = program % num_chunks
    group = program // num_chunks
    groups = H // HEADS_PER_KEY
    key_head = group % groups
    batch = group // groups
    key_base = key + batch * key_strides[0] + key_head * key_strides[2]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2]
    first = chunk * CHUNK
    token = tl.arange(0, CHUNK)
    row = token[:, None]
    column = token[None, :]
    rows = first + token
    channels = tl.arange(0, BLOCK_D)
    keys = load_operand(
        key_base, first, T, key_strides[1], key_strides[3], NORM_EPS, CHUNK, D, BLOCK_D, DTYPE, INTERPRETED
    )
    queries = load_operand(
        query_base, first, T, query_strides[1], query_strides[3], NORM_EPS, CHUNK, D, BLOCK_D, DTYPE, INTERPRETED
    )
    query_rows = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
    key_rows = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
    for member in range(HEADS_PER_KEY):
        head = key_head * HEADS_PER_KEY + member
        place = (batch * H + head) * num_chunks + chunk
        gates = (batch * T + rows) * H + head
        rates = tl.load(beta + gates, mask=rows < T, other=0.0).to(tl.float32)
        decays = tl.load(log_decay + gates, mask=rows < T, other=0.0).to(tl.float32)
        decay = tl.exp(tl.load(from_start + place * CHUNK + token))
        remaining = tl.exp(tl.load(to_end + place * CHUNK + token))
        whole = tl.exp(tl.load(from_start + place * CHUNK + CHUNK - 1))
        value_base = value + batch * value_strides[0] + head * value_strides[2]
        out_base = out_gradient + batch * out_strides[0] + head * out_strides[2]
        square = place * CHUNK * V
        rate_rows = tl.zeros((CHUNK,), dtype=tl.float32)
        inflow = tl.zeros((CHUNK,), dtype=tl.float32)
        outflow = tl.zeros((CHUNK,), dtype=tl.float32)
        through = 0.0
        for first_column in range(0, V, BLOCK_V):
            columns = first_column + tl.arange(0, BLOCK_V)
            state_offsets = place * D * V + channels[:, None] * V + columns[None, :]
            in_state = (channels < D)[:, None] & (columns < V)[None, :]
            state = tl.load(states + state_offsets, mask=in_state, other=0.0)
            cotangent = tl.load(state_gradients + state_offsets, mask=in_state, other=0.0)
            through += tl.sum(tl.sum(state * cotangent, axis=1), axis=0)
            written = load_tile(delta + square, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
            residual = load_tile(residual_gradient + square, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
            values = load_tile(
                value_base, first, T, value_strides[1], first_column, value_strides[3], CHUNK, V, BLOCK_V
            )
            out_rows = load_tile(out_base, first, T, out_strides[1], first_column, out_strides[3], CHUNK, V, BLOCK_V)
            state_transposed = tl.trans(to_operand(state, DTYPE, INTERPRETED))
            read = (scale * decay)[:, None] * tl.dot(out_rows, state_transposed, input_precision="ieee")
            query_rows += read
            erased = decay[:, None] * tl.dot(residual, state_transposed, input_precision="ieee")
            key_rows -= rates[:, None] * erased
            erased_rate = tl.sum(keys.to(tl.float32) * erased, axis=1)
            rate_rows += tl.sum(residual.to(tl.float32) * values.to(tl.float32), axis=1) - erased_rate
            inflow += tl.sum(queries.to(tl.float32) * read, axis=1) - rates * erased_rate
            cotangent_transposed = tl.trans(to_operand(cotangent, DTYPE, INTERPRETED))
            kept = remaining[:, None] * tl.dot(written, cotangent_transposed, input_precision="ieee")
            key_rows += kept
            outflow += tl.sum(keys.to(tl.float32) * kept, axis=1)
        # Pairs of tokens come in two passes of their own over the columns, so that few sums are in registers at a time.
        score_rows, coupling_rows = _pair_sums(
            out_base, first, T, out_strides[1], out_strides[3],
            residual_gradient + square, delta + square, CHUNK, V, BLOCK_V, True,
        )  # fmt: skip
        weights = tl.exp(chunk_decay(decays, CHUNK, True))
        score_rows = to_operand(scale * weights * score_rows, DTYPE, INTERPRETED)
        key_rows += tl.dot(score_rows, queries, input_precision="ieee")
        coupling_rows = tl.where(row < column, -weights * rates[None, :] * coupling_rows, 0.0)
        key_rows += tl.dot(to_operand(coupling_rows, DTYPE, INTERPRETED), keys, input_precision="ieee")
        score_rows, coupling_rows = _pair_sums(
            out_base, first, T, out_strides[1], out_strides[3],
            residual_gradient + square, delta + square, CHUNK, V, BLOCK_V, False,
        )  # fmt: skip
        weights = tl.exp(chunk_decay(decays, CHUNK, False))
        score_rows = scale * weights * score_rows
        coupling_rows = tl.where(row > column, -weights * coupling_rows, 0.0)
        overlap = coupling_rows * tl.dot(keys, tl.trans(keys), input_precision="ieee")
        rate_rows += tl.sum(overlap, axis=1)
        coupling_rows = to_operand(rates[:, None] * coupling_rows, DTYPE, INTERPRETED)
        key_rows += tl.dot(coupling_rows, keys, input_precision="ieee")
        pairs = rates[:, None] * overlap
        overlap = score_rows * tl.dot(queries, tl.trans(keys), input_precision="ieee")
        pairs += tl.where(row > column, overlap, 0.0)
        query_rows += tl.dot(to_operand(score_rows, DTYPE, INTERPRETED), keys, input_precision="ieee")
        from_later = tl.cumsum(pairs, axis=0, reverse=True) + outflow[None, :]
        passing = tl.sum(tl.where(column < row, from_later, 0.0), axis=1)
        passing += tl.cumsum(inflow, axis=0, reverse=True) + whole * through
        tl.store(decay_gradient + gates, to_stored(passing, decay_gradient), mask=rows < T)
        tl.store(beta_gradient + gates, to_stored(rate_rows, beta_gradient), mask=rows < T)
    query_rows = _through_norm(
        query_rows, query_base, first, T, query_strides[1], query_strides[3], NORM_EPS, CHUNK, D, BLOCK_D
    )
    key_rows = _through_norm(key_rows, key_base, first, T, key_strides[1], key_strides[3], NORM_EPS, CHUNK, D, BLOCK_D)
    offsets = ((batch * T + rows) * groups + key_head)[:, None] * D + channels[None, :]
    is_inside = (rows < T)[:, None] & (channels < D)[None, :]
    tl.store(query_gradient + offsets, to_stored(query_rows, query_gradient), mask=is_inside)
    tl.store(key_gradient + offsets, to_stored(key_rows, key_gradient), mask=is_inside)
