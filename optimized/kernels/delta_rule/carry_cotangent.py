"""Kernel that carries the cotangent of the gated delta rule's state from the last chunk of a sequence to the first.

With ``dO`` the cotangent of the output and ``dS'`` that of the state after a chunk,

    dd = M^T dO + exp(g_C - g) K dS',        dr = (I + A)^-T dd,        dv = beta dr,
    dS = exp(g_C) dS' + scale (exp(g) Q)^T dO - K^T (beta exp(g) dr).

The other gradients follow chunk by chunk in ``pairs.py``, ``query_gradient.py`` and ``key_gradient.py``. Normalised
queries and keys are formed as in ``carry_state.py``, and loads are made for the serial chain as there. Roundings to the
storage format: operands of matrix products and the stored gradients; ``dS'`` stays float32, also where it is stored.
The transposes are of loaded matrices, never of a product: Triton 3.4 to 3.7.0 permutes rows of those on Hopper (fla
issue 640).

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

__all__ = ["carry_cotangent_kernel"]


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def carry_cotangent_kernel(  # noqa: C901, PLR0915 (a kernel is one function: what it holds stays in registers)
    query: tl.tensor,
    key: tl.tensor,
    sequences: tl.tensor,
    from_start: tl.tensor,
    to_end: tl.tensor,
    rates: tl.tensor,
    inverse: tl.tensor,
    attention: tl.tensor,
    query_norms: tl.tensor,
    key_norms: tl.tensor,
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
    HEADS_PER_KEY: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_NORMALIZED: tl.constexpr,
    ROUNDS_KEYS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    IS_PACKED: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    HOISTS: tl.constexpr,
) -> None:
    """Goes back through the chunks of one sequence and head with ``BLOCK_V`` columns of its state's cotangent.

    Stores the cotangent after every chunk ``(chunks, H, D, V)``, ``dr (B, T, H, V)``, the gradient of the values and
    that of the initial state.
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
    cotangent_base = out_gradient + batch * out_strides[0] + head * out_strides[2]
    token = tl.arange(0, CHUNK)
    square = token[:, None] * CHUNK + token[None, :]
    last = tl.arange(0, BLOCK_V) * 0 + (CHUNK - 1)
    columns = first_column + tl.arange(0, BLOCK_V)
    state_base = (sequence * H + head) * D * V
    cotangent: tl.tuple = ()
    for piece in tl.static_range(PIECES):
        tile = load_state(final_gradient + state_base, piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
        cotangent = cotangent + (tile,)  # noqa: RUF005 (Triton builds no starred tuples)
    num_chunks = tl.cdiv(stop - first, CHUNK)
    for step in tl.range(num_chunks, disable_licm=not HOISTS):
        number = num_chunks - 1 - tl.cast(step, tl.int64)
        place = (first_chunk + number) * H + head
        start = first + number * CHUNK
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
        read_decay = scale * decay
        erased_decay = -rate * decay
        factors = decay
        if IS_NORMALIZED:
            factors = load_factors(key_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED)
            if not ROUNDS_KEYS:
                remaining *= factors
                erased_decay *= factors
        written = tl.zeros((CHUNK, BLOCK_V), dtype=tl.float32)
        keys: tl.tuple = ()
        for piece in tl.static_range(PIECES):
            offsets, in_state = place_state(piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
            tl.store(state_gradients + place * D * V + offsets, cotangent[piece], mask=in_state)
            key_tile = load_operand(
                key_base + start * key_strides[1], token, is_row, key_strides[1], piece * BLOCK_D, key_strides[3],
                factors, D, BLOCK_D, ROUNDS_KEYS, DTYPE, INTERPRETED,
            )  # fmt: skip
            operand = to_operand(cotangent[piece], DTYPE, INTERPRETED)
            written = tl.dot(key_tile, operand, written, input_precision="ieee")
            keys = keys + (key_tile,)  # noqa: RUF005 (Triton builds no starred tuples)
        out_rows = load_tile(
            cotangent_base + start * out_strides[1], token, is_row, out_strides[1], first_column, out_strides[3], V,
            BLOCK_V,
        )  # fmt: skip
        written *= remaining[:, None]
        written = tl.dot(tl.trans(tl.load(attention + squares + square)), out_rows, written, input_precision="ieee")
        written = to_operand(written, DTYPE, INTERPRETED)
        residual = tl.dot(tl.trans(tl.load(inverse + squares + square)), written, input_precision="ieee")
        row_offsets = token[:, None] * (H * V) + columns[None, :]
        rounded = to_stored(to_operand(residual, DTYPE, INTERPRETED), residual_gradient)
        tl.store(residual_gradient + gate * V + row_offsets, rounded, mask=is_written)
        tl.store(
            value_gradient + gate * V + row_offsets,
            to_stored(rate[:, None] * residual, value_gradient),
            mask=is_written,
        )
        if IS_NORMALIZED:
            factors = load_factors(query_norms, first_row, token, is_row, H // HEADS_PER_KEY, key_head, IS_NORMALIZED)
            if not ROUNDS_KEYS:
                read_decay *= factors
        read = to_operand(read_decay[:, None] * out_rows.to(tl.float32), DTYPE, INTERPRETED)
        erased = to_operand(erased_decay[:, None] * residual, DTYPE, INTERPRETED)
        earlier: tl.tuple = ()
        for piece in tl.static_range(PIECES):
            queries = load_operand(
                query_base + start * query_strides[1], token, is_row, query_strides[1], piece * BLOCK_D,
                query_strides[3], factors, D, BLOCK_D, ROUNDS_KEYS, DTYPE, INTERPRETED,
            )  # fmt: skip
            grown = tl.dot(tl.trans(queries), read, whole[None, :] * cotangent[piece], input_precision="ieee")
            earlier = earlier + (tl.dot(tl.trans(keys[piece]), erased, grown, input_precision="ieee"),)  # noqa: RUF005 (Triton builds no starred tuples)
        cotangent = earlier
    if HAS_INITIAL:
        for piece in tl.static_range(PIECES):
            offsets, in_state = place_state(piece * BLOCK_D, first_column, D, V, BLOCK_D, BLOCK_V)
            rounded = to_stored(cotangent[piece], initial_gradient)
            tl.store(initial_gradient + state_base + offsets, rounded, mask=in_state)
