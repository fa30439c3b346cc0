"""Backward kernel for the gradients of queries, keys, log decays and beta of the gated delta rule, chunk by chunk.

It reads the states ``S`` before and the cotangents ``dS'`` after every chunk, the written rows ``d``, and ``dr`` (see
``backward.py``). The cotangents of ``A`` and ``M`` are ``-dr d^T`` and ``dO d^T``. The gradient of a
log decay at token ``t`` is the sum over everything that passes through it: pairs ``j < t <= i``, what flows from ``S``
to tokens ``i >= t``, what flows from tokens ``j < t`` to ``dS'``, and ``exp(g_C) <S, dS'>``. Each is summed as such;
differences of sums over the whole chunk would lose a small one behind a large one. The gradients of queries and keys
are summed over the heads of a group in one program, in the order of the heads. Roundings to the storage format:
operands of matrix products and the stored gradients. Transposed pairs are products of their own, never the transpose of
a product: Triton 3.4 to 3.7.0 permutes rows of those on Hopper (fla issue 640).

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.forward import chunk_decay, inverse_norm, load_tile
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["gradient_kernel"]


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
def _state_gradients(
    queries: tl.tensor,
    keys: tl.tensor,
    rates: tl.tensor,
    decay: tl.tensor,
    remaining: tl.tensor,
    state_base: tl.tensor,
    cotangent_base: tl.tensor,
    value_base: tl.tensor,
    value_row_stride: tl.tensor,
    value_column_stride: tl.tensor,
    out_base: tl.tensor,
    out_row_stride: tl.tensor,
    out_column_stride: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    residual_base: tl.tensor,
    delta_base: tl.tensor,
    scale: tl.tensor,
    CHUNK: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """Returns what the states around a chunk give: ``<S, dS'>``, in- and outflow, to beta, to queries and to keys."""
    channels = tl.arange(0, BLOCK_D)
    query_rows = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
    key_rows = tl.zeros((CHUNK, BLOCK_D), dtype=tl.float32)
    rate_rows = tl.zeros((CHUNK,), dtype=tl.float32)
    inflow = tl.zeros((CHUNK,), dtype=tl.float32)
    outflow = tl.zeros((CHUNK,), dtype=tl.float32)
    through = 0.0
    for first_column in range(0, V, BLOCK_V):
        columns = first_column + tl.arange(0, BLOCK_V)
        offsets = channels[:, None] * V + columns[None, :]
        in_state = (channels < D)[:, None] & (columns < V)[None, :]
        state = tl.load(state_base + offsets, mask=in_state, other=0.0)
        cotangent = tl.load(cotangent_base + offsets, mask=in_state, other=0.0)
        through += tl.sum(tl.sum(state * cotangent, axis=1), axis=0)
        values = load_tile(
            value_base, first, num_rows, value_row_stride, first_column, value_column_stride, CHUNK, V, BLOCK_V
        )
        out_rows = load_tile(
            out_base, first, num_rows, out_row_stride, first_column, out_column_stride, CHUNK, V, BLOCK_V
        )
        written = load_tile(delta_base, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
        residual = load_tile(residual_base, 0, CHUNK, V, first_column, 1, CHUNK, V, BLOCK_V)
        state = tl.trans(to_operand(state, DTYPE, INTERPRETED))
        read = (scale * decay)[:, None] * tl.dot(out_rows, state, input_precision="ieee")
        query_rows += read
        erased = decay[:, None] * tl.dot(residual, state, input_precision="ieee")
        key_rows -= rates[:, None] * erased
        erased_rate = tl.sum(keys.to(tl.float32) * erased, axis=1)
        rate_rows += tl.sum(residual.to(tl.float32) * values.to(tl.float32), axis=1) - erased_rate
        inflow += tl.sum(queries.to(tl.float32) * read, axis=1) - rates * erased_rate
        cotangent = tl.trans(to_operand(cotangent, DTYPE, INTERPRETED))
        kept = remaining[:, None] * tl.dot(written, cotangent, input_precision="ieee")
        key_rows += kept
        outflow += tl.sum(keys.to(tl.float32) * kept, axis=1)
    return through, inflow, outflow, rate_rows, query_rows, key_rows


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def _pair_gradients(
    queries: tl.tensor,
    keys: tl.tensor,
    decays: tl.tensor,
    rates: tl.tensor,
    out_base: tl.tensor,
    first: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    residual_base: tl.tensor,
    delta_base: tl.tensor,
    scale: tl.tensor,
    CHUNK: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """Returns what pairs of tokens of a chunk give: to their common decay, to beta, to queries and to keys.

    Two passes over the columns, each with one side of the pairs, so that few sums are in registers at a time.
    """
    row = tl.arange(0, CHUNK)[:, None]
    column = tl.arange(0, CHUNK)[None, :]
    scores, couplings = _pair_sums(
        out_base, first, num_rows, row_stride, column_stride, residual_base, delta_base, CHUNK, V, BLOCK_V,
        TRANSPOSED=True,
    )  # fmt: skip
    weights = tl.exp(chunk_decay(decays, CHUNK, TRANSPOSED=True))
    scores = to_operand(scale * weights * scores, DTYPE, INTERPRETED)
    key_rows = tl.dot(scores, queries, input_precision="ieee")
    couplings = tl.where(row < column, -weights * rates[None, :] * couplings, 0.0)
    key_rows += tl.dot(to_operand(couplings, DTYPE, INTERPRETED), keys, input_precision="ieee")
    scores, couplings = _pair_sums(
        out_base, first, num_rows, row_stride, column_stride, residual_base, delta_base, CHUNK, V, BLOCK_V,
        TRANSPOSED=False,
    )  # fmt: skip
    weights = tl.exp(chunk_decay(decays, CHUNK, TRANSPOSED=False))
    scores = scale * weights * scores
    query_rows = tl.dot(to_operand(scores, DTYPE, INTERPRETED), keys, input_precision="ieee")
    pairs = tl.where(row > column, scores * tl.dot(queries, tl.trans(keys), input_precision="ieee"), 0.0)
    couplings = tl.where(row > column, -weights * couplings, 0.0)
    overlap = couplings * tl.dot(keys, tl.trans(keys), input_precision="ieee")
    pairs += rates[:, None] * overlap
    couplings = to_operand(rates[:, None] * couplings, DTYPE, INTERPRETED)
    key_rows += tl.dot(couplings, keys, input_precision="ieee")
    return pairs, tl.sum(overlap, axis=1), query_rows, key_rows


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def gradient_kernel(
    query: tl.tensor,
    key: tl.tensor,
    raw_query: tl.tensor,
    raw_key: tl.tensor,
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
    raw_query_strides: tl.tensor,
    raw_key_strides: tl.tensor,
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
    """Stores gradients of queries, keys ``(B, T, G, D)``, log decays and beta ``(B, T, H)`` of one chunk and group."""
    program = tl.cast(tl.program_id(0), tl.int64)
    chunk = program % num_chunks
    group = program // num_chunks
    key_head = group % (H // HEADS_PER_KEY)
    batch = group // (H // HEADS_PER_KEY)
    key_base = key + batch * key_strides[0] + key_head * key_strides[2]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2]
    first = chunk * CHUNK
    token = tl.arange(0, CHUNK)
    rows = first + token
    keys = load_tile(key_base, first, T, key_strides[1], 0, key_strides[3], CHUNK, D, BLOCK_D)
    queries = load_tile(query_base, first, T, query_strides[1], 0, query_strides[3], CHUNK, D, BLOCK_D)
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
        value_base = value + batch * value_strides[0] + head * value_strides[2]
        out_base = out_gradient + batch * out_strides[0] + head * out_strides[2]
        square = place * CHUNK * V
        through, inflow, outflow, rate_rows, state_queries, state_keys = _state_gradients(
            queries, keys, rates, decay, remaining, states + place * D * V, state_gradients + place * D * V,
            value_base, value_strides[1], value_strides[3], out_base, out_strides[1], out_strides[3], first, T,
            residual_gradient + square, delta + square, scale, CHUNK, D, V, BLOCK_D, BLOCK_V, DTYPE, INTERPRETED,
        )  # fmt: skip
        query_rows += state_queries
        key_rows += state_keys
        pairs, pair_rates, pair_queries, pair_keys = _pair_gradients(
            queries, keys, decays, rates, out_base, first, T, out_strides[1], out_strides[3],
            residual_gradient + square, delta + square, scale, CHUNK, V, BLOCK_V, DTYPE, INTERPRETED,
        )  # fmt: skip
        rate_rows += pair_rates
        query_rows += pair_queries
        key_rows += pair_keys
        from_later = tl.cumsum(pairs, axis=0, reverse=True) + outflow[None, :]
        passing = tl.cumsum(inflow, axis=0, reverse=True) + whole * through
        passing += tl.sum(tl.where(token[None, :] < token[:, None], from_later, 0.0), axis=1)
        tl.store(decay_gradient + gates, to_stored(passing, decay_gradient), mask=rows < T)
        tl.store(beta_gradient + gates, to_stored(rate_rows, beta_gradient), mask=rows < T)
    query_base = raw_query + batch * raw_query_strides[0] + key_head * raw_query_strides[2]
    query_rows = _through_norm(
        query_rows, query_base, first, T, raw_query_strides[1], raw_query_strides[3], NORM_EPS, CHUNK, D, BLOCK_D
    )
    key_base = raw_key + batch * raw_key_strides[0] + key_head * raw_key_strides[2]
    key_rows = _through_norm(
        key_rows, key_base, first, T, raw_key_strides[1], raw_key_strides[3], NORM_EPS, CHUNK, D, BLOCK_D
    )
    channels = tl.arange(0, BLOCK_D)
    offsets = ((batch * T + rows) * (H // HEADS_PER_KEY) + key_head)[:, None] * D + channels[None, :]
    is_inside = (rows < T)[:, None] & (channels < D)[None, :]
    tl.store(query_gradient + offsets, to_stored(query_rows, query_gradient), mask=is_inside)
    tl.store(key_gradient + offsets, to_stored(key_rows, key_gradient), mask=is_inside)
