"""Kernel that carries the state of the gated delta rule through the chunks of a sequence.

With the state ``S`` in float32 registers, chunk after chunk,

    P = K S,    d = (I + A)^-1 beta (v - exp(g) P),    out = scale exp(g) Q S + M d,
    S <- exp(g_C) S + K^T exp(g_C - g) d,

and the backward pass runs it once more to store the states and ``d`` instead of the output. Products are of the stored
queries and keys; the factors that normalise them multiply the rows of what they give, or of what they take. The range
of float16 is too small for that: there, normalised keys are rounded. Roundings to the storage format: the state, the
residual ``beta (v - exp(g) P)``, ``d`` and ``exp(g_C - g) d``, the last with the keys' factors, each only as an operand
of a matrix product, and the stored output; everything else is float32. Formulas and source are in
``chunked_delta_rule.py``.

The chain of chunks is serial, and a program has one warp in each quarter of a multiprocessor: every load of the loop
is a copy to shared memory that was started chunks before. That is why beta is read as 4 bytes, and the decay of a
chunk as a row of copies of it: 2 bytes or a scalar would be loaded to registers, and all wait for those.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width,
``N`` sequences, ``C`` tokens of a chunk.
"""

import triton
import triton.language as tl

from optimized.kernels.delta_rule.tiles import (
    load_factors,
    load_operand,
    load_state,
    load_tile,
    locate_sequence,
    place_state,
    rows_inside,
)
from optimized.kernels.precision import to_operand, to_stored

__all__ = ["carry_state_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def carry_state_kernel(  # noqa: C901, PLR0912, PLR0915 (a kernel is one function: what it holds stays in registers)
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    sequences: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    rates: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
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
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_NORMALIZED: tl.constexpr,
    ROUNDS_KEYS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    FOR_BACKWARD: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    HOISTS: tl.constexpr,
) -> None:
    """Goes through the chunks of one sequence and head with ``BLOCK_V`` columns of its state.

    Stores ``out (B, T, H, V)`` and ``final_state (N, H, D, V)``, or ``FOR_BACKWARD`` the state before every chunk,
    ``states (chunks, H, D, V)``, and the written rows ``delta (B, T, H, V)``. ``HOISTS`` keeps the offsets of loads in
    registers.
    """
    PIECES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    column_blocks = tl.cdiv(V, BLOCK_V)
    program = tl.cast(tl.program_id(0), tl.int64)
    first_column = tl.cast(program % column_blocks, tl.int32) * BLOCK_V
    head = (program // column_blocks) % H
    sequence = program // column_blocks // H
    key_head = head // HEADS_PER_KEY
    batch, first, stop, first_chunk = locate_sequence(sequences, sequence, T, CHUNK, IS_PACKED)
    key_base = key + batch * key_strides[0] + key_head * key_strides[2]
    query_base = query + batch * query_strides[0] + key_head * query_strides[2]
    value_base = value + batch * value_strides[0] + head * value_strides[2]
    token = tl.arange(0, CHUNK)
    square = token[:, None] * CHUNK + token[None, :]
    last = tl.arange(0, BLOCK_V) * 0 + (CHUNK - 1)
    columns = first_column + tl.arange(0, BLOCK_V)
    state_base = (sequence * H + head) * D * V
    state: tl.tuple = ()
    for piece in tl.static_range(PIECES):
        if HAS_INITIAL:
            tile = load_state(initial_state + state_base, piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
        else:
            tile = tl.zeros((BLOCK_D, BLOCK_V), dtype=tl.float32)
        state = state + (tile,)  # noqa: RUF005 (Triton builds no starred tuples)
    for number in tl.range(tl.cdiv(stop - first, CHUNK), disable_licm=not HOISTS):
        place = (first_chunk + number) * H + head
        start = first + tl.cast(number, tl.int64) * CHUNK
        first_row = batch * T + start
        gate = first_row * H + head
        squares = place * CHUNK * CHUNK
        is_row = rows_inside(token, start, stop, CHUNK)
        is_written = is_row[:, None] & (columns < V)[None, :]
        sums = place * CHUNK
        rate = tl.load(rates + sums + token)
        decay = tl.exp(tl.load(from_start + sums + token))
        remaining = tl.exp(tl.load(to_end + sums + token))
        whole = tl.exp(tl.load(from_start + sums + last))
        recalled_decay = decay
        factors = decay
        if IS_NORMALIZED:
            factors = load_factors(key_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED)
            if not ROUNDS_KEYS:
                recalled_decay *= factors
                remaining *= factors
        keys: tl.tuple = ()
        recalled = tl.zeros((CHUNK, BLOCK_V), dtype=tl.float32)
        read = tl.zeros((CHUNK, BLOCK_V), dtype=tl.float32)
        for piece in tl.static_range(PIECES):
            if FOR_BACKWARD:
                offsets, in_state = place_state(piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
                tl.store(states + place * D * V + offsets, state[piece], mask=in_state)
            operand = to_operand(state[piece], DTYPE, INTERPRETED)
            key_tile = load_operand(
                key_base + start * key_strides[1], token, is_row, key_strides[1], piece * BLOCK_D, key_strides[3],
                factors, D, BLOCK_D, ROUNDS_KEYS, DTYPE, INTERPRETED,
            )  # fmt: skip
            recalled = tl.dot(key_tile, operand, recalled, input_precision="ieee")
            keys = keys + (key_tile,)  # noqa: RUF005 (Triton builds no starred tuples)
            if not FOR_BACKWARD:
                queries = load_tile(
                    query_base + start * query_strides[1], token, is_row, query_strides[1], piece * BLOCK_D,
                    query_strides[3], D, BLOCK_D,
                )  # fmt: skip
                read = tl.dot(queries, operand, read, input_precision="ieee")
        values = load_tile(
            value_base + start * value_strides[1], token, is_row, value_strides[1], first_column, value_strides[3], V,
            BLOCK_V,
        )  # fmt: skip
        residual = rate[:, None] * (values.to(tl.float32) - recalled_decay[:, None] * recalled)
        residual = to_operand(residual, DTYPE, INTERPRETED)
        written = tl.dot(tl.load(inverse + squares + square), residual, input_precision="ieee")
        rounded = to_operand(written, DTYPE, INTERPRETED)
        kept = to_operand(remaining[:, None] * written, DTYPE, INTERPRETED)
        row_offsets = token[:, None] * (H * V) + columns[None, :]
        if FOR_BACKWARD:
            tl.store(delta + gate * V + row_offsets, to_stored(rounded, delta), mask=is_written)
        later: tl.tuple = ()
        for piece in tl.static_range(PIECES):
            decayed = whole[None, :] * state[piece]
            later = later + (tl.dot(tl.trans(keys[piece]), kept, decayed, input_precision="ieee"),)  # noqa: RUF005 (Triton builds no starred tuples)
        state = later
        if not FOR_BACKWARD:
            read *= (scale * decay)[:, None]
            if IS_NORMALIZED:
                factors = load_factors(
                    query_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED
                )
                read *= factors[:, None]
            read = tl.dot(tl.load(attention + squares + square), rounded, read, input_precision="ieee")
            tl.store(out + gate * V + row_offsets, to_stored(read, out), mask=is_written)
    if not FOR_BACKWARD:
        for piece in tl.static_range(PIECES):
            offsets, in_state = place_state(piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
            tl.store(final_state + state_base + offsets, state[piece], mask=in_state)
